"""Fine-tune a BERT with Accelerate's FSDP plugin in a TorchTrainer, from Ray Data.

A complete Ray Train program; nothing in it is the operator's.
"""

from tempfile import TemporaryDirectory

import ray.data
import ray.train
import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType, InitProcessGroupKwargs, set_seed
from ray.train import Checkpoint, ScalingConfig
from ray.train.torch import TorchTrainer
from task import MODEL, make_collate, read_texts
from torch.distributed.fsdp.fully_sharded_data_parallel import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
)
from transformers import AutoModelForSequenceClassification


def make_accelerator():
    fsdp_plugin = FullyShardedDataParallelPlugin(
        state_dict_config=FullStateDictConfig(offload_to_cpu=False, rank0_only=False),
        optim_state_dict_config=FullOptimStateDictConfig(offload_to_cpu=False, rank0_only=False),
    )
    accelerator = Accelerator(
        fsdp_plugin=fsdp_plugin,
        kwargs_handlers=[InitProcessGroupKwargs(backend=dist.get_backend())],
    )
    if accelerator.device.type == "cpu":
        # Accelerate gives its plugin to devices alone, and would train unsharded here.
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = fsdp_plugin
    return accelerator


def require_shards(model, total):
    """Fail unless each rank holds its Nth of the parameters, or up to its Nth more of padding."""
    held, ranks = sum(weight.numel() for weight in model.parameters()), dist.get_world_size()
    assert ranks > 1
    assert total / ranks <= held < 1.01 * total / ranks
    print(f"rank {dist.get_rank()} of {ranks}: FSDP, {held} of {total} parameters", flush=True)


def train_func(config):
    accelerator = make_accelerator()
    set_seed(config["seed"])

    collate = make_collate()

    def to_rows(columns):
        names = list(columns)
        return collate(
            [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        )

    train_dataloader, eval_dataloader = (
        ray.train.get_dataset_shard(split).iter_torch_batches(
            batch_size=config["batch_size"], collate_fn=to_rows
        )
        for split in ("train", "validation")
    )
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, return_dict=True)
    total = model.num_parameters()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    model, optimizer = accelerator.prepare(model, optimizer)
    require_shards(model, total)

    for epoch in range(config["num_epochs"]):
        model.train()
        for batch in train_dataloader:
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

        model.eval()
        right, seen = 0, 0
        for batch in eval_dataloader:
            with torch.no_grad():
                predictions = model(**batch).logits.argmax(dim=-1)
            predictions, labels = accelerator.gather_for_metrics((predictions, batch["labels"]))
            right, seen = right + (predictions == labels).sum().item(), seen + len(labels)
        accelerator.print(f"epoch {epoch}: accuracy {right / seen}")

        with TemporaryDirectory() as folder:
            accelerator.save_state(folder)
            accelerator.wait_for_everyone()
            ray.train.report(
                metrics={"accuracy": right / seen, "loss": loss.item()},
                checkpoint=Checkpoint.from_directory(folder),
            )


if __name__ == "__main__":
    trainer = TorchTrainer(
        train_func,
        train_loop_config={"seed": 42, "num_epochs": 2, "batch_size": 16, "lr": 3e-4},
        scaling_config=ScalingConfig(num_workers=4, use_gpu=True),
        datasets={
            split: ray.data.from_items(read_texts(split)) for split in ("train", "validation")
        },
    )
    trainer.fit()
