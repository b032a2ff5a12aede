"""Fine-tune a BERT with Accelerate's DeepSpeed plugin in a TorchTrainer.

A complete Ray Train program; nothing in it is the operator's.
"""

from tempfile import TemporaryDirectory

import ray.train
import torch
import torch.distributed as dist
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.utils import InitProcessGroupKwargs, set_seed
from ray.train import Checkpoint, ScalingConfig
from ray.train.torch import TorchTrainer
from task import MODEL, make_collate, read_texts, require_zero3
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

DEEPSPEED_CONFIG = {
    "bf16": {"enabled": False},  # true on GPUs since Ampere
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "gather_16bit_weights_on_model_save": True,
        "round_robin_gradients": True,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 10,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}


def train_func(config):
    ds_plugin = DeepSpeedPlugin(hf_ds_config=DEEPSPEED_CONFIG)
    accelerator = Accelerator(
        deepspeed_plugin=ds_plugin,
        gradient_accumulation_steps=config["gradient_accumulation_steps"],
        # Without a GPU, Accelerate counts ranks only when it is told the backend.
        kwargs_handlers=[InitProcessGroupKwargs(backend=dist.get_backend())],
    )
    set_seed(config["seed"])

    collate = make_collate()
    train_dataloader = DataLoader(
        read_texts("train"), shuffle=True, collate_fn=collate, batch_size=config["batch_size"]
    )
    eval_dataloader = DataLoader(
        read_texts("validation"), collate_fn=collate, batch_size=config["batch_size"]
    )
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, return_dict=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    steps = len(train_dataloader) * config["num_epochs"] // config["gradient_accumulation_steps"]
    lr_scheduler = get_linear_schedule_with_warmup(optimizer, 2, steps)

    model, optimizer, train_dataloader, eval_dataloader, lr_scheduler = accelerator.prepare(
        model, optimizer, train_dataloader, eval_dataloader, lr_scheduler
    )
    require_zero3(model)

    for epoch in range(config["num_epochs"]):
        model.train()
        for batch in train_dataloader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                lr_scheduler.step()
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
        train_loop_config={
            "seed": 42,
            "num_epochs": 2,
            "batch_size": 8,
            "gradient_accumulation_steps": 2,
            "lr": 3e-4,
        },
        scaling_config=ScalingConfig(num_workers=4, use_gpu=True),
    )
    trainer.fit()
