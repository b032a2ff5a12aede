"""Saves with a framework, and then takes no step until somebody has made the save count.

`--framework` names it. Whether the save came to count before the program went on is printed.
"""
# ruff: noqa: PLC0415  the others need not be installed

import argparse
import os
import time
from pathlib import Path

import deepspeed
import torch

PATIENCE_S = 60.0
CONFIG = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 1,
    "zero_optimization": {"stage": 3},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
}
parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int)
parser.add_argument("--framework", required=True)
args = parser.parse_args()
folder = Path(os.environ["DSJOB_CHECKPOINT_DIR"])
deepspeed.init_distributed("gloo")
data = [{"x": torch.randn(32)} for _ in range(64)]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(32, 32)

    def forward(self, x):
        out = self.layer(x)
        return {"loss": ((out - x) ** 2).mean(), "out": out}


def await_manifest():
    """Wait, without a step, until a manifest lies in the run's folder."""
    deadline = time.monotonic() + PATIENCE_S
    checkpoints = folder.parents[1] / "checkpoints"
    while not (found := list(checkpoints.glob("*/manifest.dsjob.json"))):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    print("counts" if found else "does not count", flush=True)
    torch.distributed.barrier()


def use_accelerate():
    from accelerate import Accelerator, DeepSpeedPlugin
    from accelerate.utils import DummyOptim, InitProcessGroupKwargs

    accelerator = Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=CONFIG),
        # Without a GPU, Accelerate counts ranks only when it is told the backend.
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")],
    )
    net = Net()
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    net, optimizer, loader = accelerator.prepare(net, DummyOptim(net.parameters()), loader)
    for batch in loader:
        accelerator.backward(net(**batch)["loss"])
        optimizer.step()
        break
    accelerator.save_state(str(folder))
    await_manifest()


def use_transformers():
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Waits(TrainerCallback):
        def on_step_begin(self, _args, state, _control, **_kwargs):
            if state.global_step == 1:
                await_manifest()

    arguments = TrainingArguments(
        output_dir=str(folder),
        deepspeed=CONFIG,
        max_steps=2,
        save_steps=1,
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        remove_unused_columns=False,
    )
    Trainer(model=Net(), args=arguments, train_dataset=data, callbacks=[Waits()]).train()


def use_lightning():
    import lightning.pytorch as pl
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DeepSpeedStrategy

    class OnCpu(DeepSpeedStrategy):
        """Without Lightning's checks that devices are GPUs."""

        root_device = torch.device("cpu", 0)

        def setup_environment(self):
            self.parallel_devices = [self.root_device]
            super(DeepSpeedStrategy, self).setup_environment()

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch, index):
            if index == 1:
                self.trainer.save_checkpoint(folder / "own.ckpt")
                await_manifest()
            return self.net(**batch)["loss"]

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        devices=1,
        num_nodes=2,
        strategy=OnCpu(config={"zero_optimization": {"stage": 3}}, process_group_backend="gloo"),
        plugins=[TorchElasticEnvironment()],
        enable_checkpointing=False,
        logger=False,
        default_root_dir=folder,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=4))


globals()[f"use_{args.framework}"]()
