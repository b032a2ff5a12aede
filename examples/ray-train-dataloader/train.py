"""Fine-tune a BERT with DeepSpeed ZeRO-3 in a TorchTrainer, from PyTorch's DataLoader.

A complete Ray Train program, as one writes it for any Ray cluster; nothing in it is the operator's.
Its number of workers and its GPUs are not those of the job that runs it: they are fitted to it.
"""

from tempfile import TemporaryDirectory

import deepspeed
import ray.train
import torch
from datasets import load_dataset
from deepspeed.accelerator import get_accelerator
from ray.train import Checkpoint, ScalingConfig
from ray.train.torch import TorchTrainer
from task import MODEL, TEXTS, require_zero3
from torch.utils.data import DataLoader
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed


def train_func(config):
    set_seed(config["seed"])
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, return_dict=True)

    texts = load_dataset("json", data_files=TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def collate(samples):
        batch = tokenizer(
            [sample["sentence1"] for sample in samples],
            [sample["sentence2"] for sample in samples],
            truncation=True,
            padding="longest",
            return_tensors="pt",
        )
        batch["labels"] = torch.LongTensor([sample["label"] for sample in samples])
        return batch

    # deepspeed.initialize makes the one to train from.
    eval_dataloader = DataLoader(
        texts["validation"],
        shuffle=False,
        collate_fn=collate,
        batch_size=config["eval_batch_size"],
        drop_last=True,
    )

    model, optimizer, train_dataloader, lr_scheduler = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        training_data=texts["train"],
        collate_fn=collate,
        config=config["deepspeed_config"],
    )
    require_zero3(model)
    device = get_accelerator().device_name(model.local_rank)

    f1 = BinaryF1Score().to(device)
    accuracy = BinaryAccuracy().to(device)

    for epoch in range(config["num_epochs"]):
        model.train()
        for batch in train_dataloader:
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            loss = model(**inputs).loss
            model.backward(loss)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()

        model.eval()
        for batch in eval_dataloader:
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.no_grad():
                outputs = model(**inputs)
            predictions = outputs.logits.argmax(dim=-1)
            f1.update(predictions, inputs["labels"])
            accuracy.update(predictions, inputs["labels"])

        # torchmetrics adds up over all ranks.
        figures = {"f1": f1.compute().item(), "accuracy": accuracy.compute().item()}
        f1.reset()
        accuracy.reset()
        if model.global_rank == 0:
            print(f"epoch {epoch}: {figures}", flush=True)

        with TemporaryDirectory() as folder:
            # Each rank saves its own shard, and all are there before any is reported.
            model.save_checkpoint(folder)
            torch.distributed.barrier()
            ray.train.report(metrics=figures, checkpoint=Checkpoint.from_directory(folder))


def main():
    deepspeed_config = {
        "optimizer": {"type": "AdamW", "params": {"lr": 3e-4}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 5}},
        "bf16": {"enabled": False},  # true on GPUs since Ampere
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "none"},
            "offload_param": {"device": "none"},
        },
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "steps_per_print": 10,
        "train_micro_batch_size_per_gpu": 16,
        "wall_clock_breakdown": False,
    }
    trainer = TorchTrainer(
        train_func,
        train_loop_config={
            "seed": 42,
            "num_epochs": 2,
            "eval_batch_size": 32,
            "deepspeed_config": deepspeed_config,
        },
        scaling_config=ScalingConfig(num_workers=4, use_gpu=True),
    )
    result = trainer.fit()
    print(f"best checkpoints: {result.best_checkpoints}", flush=True)


if __name__ == "__main__":
    main()
