"""Fine-tune a BERT with Lightning and its DeepSpeed strategy in a TorchTrainer.

A complete Ray Train program; nothing in it is the operator's.
"""

import shutil
import tempfile

import lightning.pytorch as pl
import ray.train
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from ray.train import Checkpoint, ScalingConfig
from ray.train.lightning import RayDeepSpeedStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchTrainer
from task import MODEL, make_collate, read_texts, require_zero3
from torch.utils.data import DataLoader
from torchmetrics.classification import BinaryAccuracy
from transformers import AutoModelForSequenceClassification

DEEPSPEED_CONFIG = {
    "zero_optimization": {"stage": 3, "overlap_comm": True, "contiguous_gradients": True},
    "gradient_clipping": 1.0,
}


class CpuDeepSpeedStrategy(RayDeepSpeedStrategy):
    """Ray's strategy without Lightning's checks that devices are GPUs and have numbers."""

    root_device = torch.device("cpu", 0)

    def setup_environment(self):
        self.parallel_devices = [self.root_device]
        super(DeepSpeedStrategy, self).setup_environment()


class ReportShards(pl.Callback):
    """Each rank reports what it saved.

    DeepSpeed's saves go to the folder of rank 0's choice, on every node; RayTrainReportCallback
    would look for those of the other ranks elsewhere.
    """

    def on_train_epoch_end(self, trainer, _):
        folder = trainer.strategy.broadcast(tempfile.mkdtemp())
        trainer.save_checkpoint(f"{folder}/checkpoint.ckpt")
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
        trainer.strategy.barrier()
        shutil.rmtree(folder, ignore_errors=True)


class Classifier(pl.LightningModule):
    def __init__(self, lr):
        super().__init__()
        self.lr = lr
        self.accuracy = BinaryAccuracy()
        self.model = AutoModelForSequenceClassification.from_pretrained(MODEL)

    def on_train_start(self):
        require_zero3(self.trainer.strategy.model)

    def training_step(self, batch, _):
        loss = self.model(**batch).loss
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.accuracy(self.model(**batch).logits.argmax(dim=-1), batch["labels"])
        self.log("accuracy", self.accuracy, on_epoch=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def train_func(config):
    pl.seed_everything(config["seed"])
    collate = make_collate()
    loaders = [
        DataLoader(read_texts(split), collate_fn=collate, batch_size=config["batch_size"])
        for split in ("train", "validation")
    ]
    make_strategy = RayDeepSpeedStrategy if torch.cuda.is_available() else CpuDeepSpeedStrategy
    trainer = pl.Trainer(
        max_epochs=config["num_epochs"],
        devices="auto",
        accelerator="auto",
        strategy=make_strategy(config=DEEPSPEED_CONFIG),
        plugins=[RayLightningEnvironment()],
        callbacks=[ReportShards()],
        precision=config["precision"],
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        logger=False,
    )
    prepare_trainer(trainer).fit(Classifier(config["lr"]), *loaders)


if __name__ == "__main__":
    trainer = TorchTrainer(
        train_func,
        train_loop_config={
            "seed": 42,
            "num_epochs": 2,
            "batch_size": 16,
            "lr": 3e-4,
            "precision": "bf16-mixed" if torch.cuda.is_available() else "32-true",
        },
        scaling_config=ScalingConfig(num_workers=4, use_gpu=True),
    )
    trainer.fit()
