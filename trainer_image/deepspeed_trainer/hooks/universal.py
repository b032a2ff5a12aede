"""A converted checkpoint in DeepSpeed's hands, and whether one can be converted at all.

DeepSpeed loads a converted ("universal") checkpoint when its configuration says so, and then leaves
three things wrong, which are put right here: every group of parameters gets the first one's weight
decay and learning rate, all its parts share one step counter, and buffers (running statistics) are
not loaded.  The private parts that this needs are touched here alone; tests/trainer runs them
against the pinned version.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

CONVERTED_DIR: Final = "zero"
"""In a tag's folder: what DeepSpeed's converter made of its shards."""
OPTIMIZER_FILE: Final = f"{CONVERTED_DIR}/optimizer_state.pt"
_ADAM: Final = frozenset({"step", "exp_avg", "exp_avg_sq"})


def is_converted(folder: Path) -> bool:
    """Return whether a tag's folder holds a converted checkpoint."""
    return (folder / OPTIMIZER_FILE).is_file()


@contextmanager
def loading_converted(engine: Any) -> Iterator[None]:
    """Let an engine load a converted checkpoint, once."""
    config = engine._config  # noqa: SLF001  see the module
    before = config.load_universal_checkpoint
    config.load_universal_checkpoint = True
    try:
        yield
    finally:
        config.load_universal_checkpoint = before


def put_right(engine: Any, folder: Path, model_states: str, *, with_optimizer: bool) -> None:
    """Load what DeepSpeed left out of a converted checkpoint; all ranks have read it on return.

    Raises:
        RuntimeError: the program has other groups of parameters than it had saved.
    """
    _restore_buffers(engine.module, model_states)
    if with_optimizer:
        _restore_groups(engine.optimizer.optimizer, folder)
    import torch  # noqa: PLC0415  the program has imported it

    torch.distributed.barrier()


def _restore_groups(optimizer: Any, folder: Path) -> None:
    import torch  # noqa: PLC0415  see above

    frame = torch.load(folder / OPTIMIZER_FILE, map_location="cpu", weights_only=False)
    saved = frame["param_groups"]
    if len(saved) != len(optimizer.param_groups):
        raise RuntimeError(
            f"the checkpoint has {len(saved)} groups of parameters, the program's optimizer"
            f" {len(optimizer.param_groups)}: make the same groups with any number of ranks"
        )
    for group, before in zip(optimizer.param_groups, saved, strict=True):
        group.update({name: value for name, value in before.items() if name != "params"})
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


def _restore_buffers(module: Any, model_states: str) -> None:
    """Take rank 0's: where ranks had different ones, a new number of ranks can have no others."""
    import torch  # noqa: PLC0415  see above

    own = dict(module.named_buffers())
    if not own:
        return
    saved = torch.load(model_states, map_location="cpu", weights_only=False, mmap=True)["module"]
    with torch.no_grad():
        for name, buffer in own.items():
            if name in saved:
                buffer.copy_(saved[name])


def describe_obstacle(engine: Any) -> str:
    """Return why what this engine saves cannot be converted; empty when it can. Never raises."""
    try:
        return next(_find_obstacles(engine), "")
    except Exception as error:  # noqa: BLE001  a save must not be lost over a question about it
        return f"whether it can be converted could not be found out: {error!r}"[:500]


def _find_obstacles(engine: Any) -> Iterator[str]:
    import torch  # noqa: PLC0415  see above

    stage = int(engine.zero_optimization_stage())
    if stage != 3:
        yield f"it is of ZeRO stage {stage}, and only stage 3 is converted"
        return
    if engine.dp_world_size != torch.distributed.get_world_size():
        yield "its ranks share samples (tensor, pipeline or sequence parallelism)"
    if engine.has_moe_layers:
        yield "its model has experts (MoE)"
    zero = engine._config.zero_config  # noqa: SLF001
    if any(part is not None and part.device != "none" for part in _offloads(zero)):
        yield "parts of it are offloaded, which was never tried with a converted checkpoint"
    if zero.zero_hpz_partition_size > 1:
        yield "its parameters are partitioned twice (zero_hpz_partition_size)"
    if any(not weight.requires_grad for weight in engine.module.parameters()):
        yield "its model has frozen parameters, as with LoRA, and DeepSpeed's converter drops them"
    states = list(engine.optimizer.optimizer.state.values())
    if not states:
        yield "its optimizer has not taken a step yet"
    other = next((state for state in states if set(state) != _ADAM), None)
    if other is not None:
        names = ", ".join(sorted(map(str, other))) or "nothing"
        yield f"DeepSpeed's converter knows Adam's states alone, its optimizer keeps {names}"


def _offloads(zero: Any) -> tuple[Any, Any]:
    return zero.offload_optimizer, zero.offload_param
