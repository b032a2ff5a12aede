"""What the loop needs of a DeepSpeed engine: its shape, its steps and its saves.

Only this one engine is touched, never DeepSpeed's class, so other engines of the program are left
alone.  The one private name in here is the optimizer's gradient norm, because the public reader
waits for the device; tests/trainer runs it against the pinned version.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from deepspeed_trainer.fingerprint.order import Layout

Call = Callable[..., Any]


class NoOrders:
    """Stands for the job's orders where a program runs by itself."""

    def offer(self, saver: str) -> None:
        """Nobody asks for saves."""

    def meet(self, save: Callable[[], None]) -> None:
        """No save is ordered."""


def orders_of(engine: Any) -> Any:
    """Return the saves that a job may order: the trainer's hook where there is one."""
    return getattr(type(engine), "dsjob_orders", None) or NoOrders()


def layout_of(engine: Any) -> Layout:
    """Return how an engine's samples are dealt to its ranks.

    Raises:
        ValueError: ranks share samples (tensor, pipeline or sequence parallelism).
    """
    world_size = torch.distributed.get_world_size()
    if engine.dp_world_size != world_size:
        raise ValueError(
            f"the engine has {engine.dp_world_size} data-parallel ranks of {world_size}: Loop deals"
            " samples to ranks one by one and does not know tensor, pipeline or sequence"
            " parallelism yet"
        )
    return Layout(
        world_size=world_size,
        micro_batch=int(engine.train_micro_batch_size_per_gpu()),
        accumulation=int(engine.gradient_accumulation_steps()),
    )


def gradient_norm(engine: Any) -> Any:
    """Return the norm of the last step as it lies on the device, or None where there is none."""
    return getattr(engine.optimizer, "_global_grad_norm", None)


def follow(engine: Any, note_loss: Callable[[Any], None], note_step: Callable[[], None]) -> None:
    """Call `note_loss` at each backward and `note_step` after each optimizer step of an engine."""
    backward, step = engine.backward, engine.optimizer.step

    @functools.wraps(backward)
    def backward_and_note(loss: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            note_loss(loss.detach().clone())
        return backward(loss, *args, **kwargs)

    @functools.wraps(step)
    def step_and_note(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        note_step()
        return result

    engine.backward = backward_and_note
    engine.optimizer.step = step_and_note


def add_to_saves(
    engine: Any,
    describe: Callable[[Mapping[str, Any]], dict[str, Any]],
    write: Callable[[Path], None],
    *,
    in_job: bool,
) -> None:
    """Let every save carry what `describe(client_state)` says and what `write(folder)` writes.

    Outside a job `write` comes first: DeepSpeed moves `latest` at its end, and what `latest` names
    shall be whole.  In a job the tag's folder may lead to another attempt's checkpoint until the
    save begins, so it comes last; hooks that tell of a save when it returns call it themselves.
    """
    save = engine.save_checkpoint

    @functools.wraps(save)
    def save_with_state(
        save_dir: Any, tag: Any = None, client_state: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        state = {**(client_state or {}), **describe(client_state or {})}
        named = str(tag) if tag is not None else f"global_step{engine.global_steps}"
        folder = Path(save_dir).absolute() / named
        if hasattr(type(engine), "dsjob_write_beside"):
            engine.dsjob_write_beside = functools.partial(write, folder)
            return save(save_dir, tag, state, *args, **kwargs)
        if not in_job:
            write(folder)
            return save(save_dir, tag, state, *args, **kwargs)
        result = save(save_dir, tag, state, *args, **kwargs)
        write(folder)
        return result

    engine.save_checkpoint = save_with_state


def follow_loads(engine: Any, note_loaded: Callable[[Path | None, Any], None]) -> None:
    """Call `note_loaded(folder, client_state)` after each load of a whole training state.

    Raises, in the program's call: RuntimeError when there is a save that DeepSpeed did not load.
    """
    load = engine.load_checkpoint

    @functools.wraps(load)
    def load_and_note(load_dir: Any, tag: Any = None, *args: Any, **kwargs: Any) -> Any:
        result = load(load_dir, tag, *args, **kwargs)
        path, client_state = result
        if path is None and (tag is not None or (Path(load_dir) / "latest").exists()):
            # DeepSpeed only warns, and the run would start from nothing in silence.
            raise RuntimeError(f"DeepSpeed could not load the checkpoint in {load_dir}")
        if not kwargs.get("load_module_only"):
            note_loaded(Path(path).parent if path is not None else None, client_state)
        return result

    engine.load_checkpoint = load_and_note
