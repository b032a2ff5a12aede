"""What is patched in a rank: DeepSpeed's engine and monitor, and torch's process group.

Private parts of other packages are touched here, in `steps` and in `saves` alone; tests/trainer
runs them against the pinned versions.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from types import ModuleType
from typing import Any, Final

from deepspeed_trainer.board.beats import Phase
from deepspeed_trainer.hooks.ends import end_patches
from deepspeed_trainer.hooks.guard import Guard
from deepspeed_trainer.hooks.heartbeat import Heartbeat
from deepspeed_trainer.hooks.meter import format_decimal
from deepspeed_trainer.hooks.models import ModelWatch
from deepspeed_trainer.hooks.orderpage import OrderPage
from deepspeed_trainer.hooks.orders import SaveOrders
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.patching import Patch
from deepspeed_trainer.hooks.saves import WRITER_MODULE, SaveWatch
from deepspeed_trainer.hooks.settings import SettingsWatch
from deepspeed_trainer.hooks.steps import StepWatch
from deepspeed_trainer.hooks.wire import Report

SAVES: Final = ("save_checkpoint", "save_16bit_model")
"""Calls of the engine that write files; which of them there are differs between releases."""


class EngineWatch:
    """Follows what a rank's engine does and reports it."""

    def __init__(
        self,
        rank: int,
        report: Report,
        open_page: Callable[[], Page],
        orders: OrderPage | None = None,
        preemption_signal: str = "",
    ) -> None:
        self._rank = rank
        self._report = report
        self._heartbeat = Heartbeat(open_page, report)
        self._steps = StepWatch(rank, report, self._heartbeat)
        self._saves = SaveWatch(rank, report, self._steps)
        self._orders = SaveOrders(report, self._steps, self._saves, orders, preemption_signal)
        self._models = ModelWatch(rank, report)
        self._settings = SettingsWatch(rank, report)

    def patches(self, *, makes_group: bool = False) -> Mapping[str, Patch]:
        """Return patches by module name; `makes_group` where a program is a process of its own."""
        named: dict[str, Patch] = {
            "deepspeed.runtime.engine": self.patch_engine,
            "deepspeed.monitor.monitor": self.patch_monitor,
            "deepspeed": self._settings.patch,
            WRITER_MODULE: self._saves.patch_writer,
            "transformers.trainer_callback": self._orders.patch_transformers,
        }
        if makes_group:
            group = partial(_patch_group, self._report)
            named["torch.distributed.distributed_c10d"] = group
        # In Ray's own workers a save stays open: it may be handed to ray.train.report next.
        end = partial(self._saves.end, closes=makes_group)
        for name, patch in end_patches(Guard(self._report), self._saves.begin, end).items():
            named[name] = _both(named[name], patch) if name in named else patch
        return named

    def describe_progress(self) -> Mapping[str, Any]:
        """Return the step that was done last, and what the engine that did it is like."""
        engine = self._steps.engine
        sizes = {} if engine is None else self._saves.describe_sizes(engine)
        return {"step": self._steps.done, "zero_stage": self._steps.zero_stage, **sizes}

    def patch_engine(self, module: ModuleType) -> None:
        """Wrap the engine's methods."""
        self._steps.patch(module.DeepSpeedEngine)
        self._saves.patch(module.DeepSpeedEngine)
        self._orders.patch_engine(module.DeepSpeedEngine)
        self._models.patch(module.DeepSpeedEngine)
        for name in filter(partial(hasattr, module.DeepSpeedEngine), SAVES):
            self._heartbeat.around(module.DeepSpeedEngine, name, Phase.SAVE)
        self._heartbeat.around(module.DeepSpeedEngine, "load_checkpoint", Phase.LOAD)
        self._watch_waits()
        _spare_the_compiler()

    def _watch_waits(self) -> None:
        """Take the time of every blocking collective; an asynchronous one blocks in the same call.

        On a GPU this call returns at once and the device waits, so nothing is taken off there.
        """
        from torch.distributed import is_available  # noqa: PLC0415  being imported right now

        if is_available():
            from torch.distributed.distributed_c10d import Work  # noqa: PLC0415

            self._heartbeat.watch_waits(Work)

    def patch_monitor(self, module: ModuleType) -> None:
        """Turn the events of DeepSpeed's monitor into metrics, whether a monitor is on or not."""
        Guard(self._report).before(module.MonitorMaster, "write_events", self._note_events)

    def _note_events(self, _master: Any, events: Sequence[Sequence[Any]]) -> None:
        values = {str(event[0])[:128]: format_decimal(float(event[1])) for event in events}
        if self._rank == 0 and values:
            self._report({"kind": "metrics", "values": values})


def _both(first: Patch, second: Patch) -> Patch:
    """Return the patch that does two in a row: a module is looked for once."""

    def patch(module: ModuleType) -> None:
        first(module)
        second(module)

    return patch


def _patch_group(report: Report, module: ModuleType) -> None:
    """Report the size of the default process group whenever one was made."""
    original = module.init_process_group

    @wraps(original)
    def init_and_tell(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        report({"kind": "group", "size": module.get_world_size()})
        return result

    setattr(module, "init_process_group", init_and_tell)  # noqa: B010  a module has no such type


def _spare_the_compiler() -> None:
    """Keep DeepSpeed from compiling its shared-memory op at start, which ZeRO never calls.

    It is used on CPU where all ranks share one host, and left alone where the image has it built.
    """
    import deepspeed.ops  # noqa: PLC0415  being imported by the program right now
    from deepspeed.accelerator import get_accelerator  # noqa: PLC0415
    from deepspeed.git_version_info import installed_ops  # noqa: PLC0415

    op = "deepspeed_shm_comm"
    if get_accelerator().device_name() == "cpu" and not installed_ops.get(op):
        deepspeed.ops.__compatible_ops__[op] = False
