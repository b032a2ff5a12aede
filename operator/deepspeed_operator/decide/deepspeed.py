"""What can be said of a DeepSpeed configuration before a device is asked for.

DeepSpeed 0.19 ignores misspelt top-level keys and ends at start over removed ones; both cost a
whole cluster to find out.  Only what is certain is refused: keys of the user's own pass.
"""

import difflib
import json
from collections.abc import Mapping
from typing import Any, Final

from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_operator.errors import InvalidJob
from deepspeed_trainer.batching import NoFit, read_batch, refit, write_batch

REMOVED: Final = frozenset(
    {
        "amp",
        "compression_training",
        "curriculum_learning",
        "eigenvalue",
        "elasticity",
        "nebula",
        "progressive_layer_drop",
        "quantize_training",
        "sparse_attention",
        "sparse_gradients",
    }
)
"""Top-level keys that DeepSpeed 0.19 refuses (its runtime/config.py)."""

KNOWN: Final = frozenset(
    """
    activation_checkpointing aio autotuning bf16 checkpoint comet comms_logger
    communication_data_type compile csv_monitor data_efficiency data_types
    dataloader_drop_last datastates_ckpt disable_python_gc dump_state expert_parallel
    flops_profiler fp16 gradient_accumulation_steps gradient_allreduce_op
    gradient_clipping gradient_predivide_factor hybrid_engine log_level
    managed_gradient_accumulation memory_breakdown optimizer pipeline prescale_gradients
    scheduler seq_parallel_communication_data_type sequence_parallel_size
    steps_per_print tensor_parallel tensorboard timers torch_autocast train_batch_size
    train_micro_batch_size_per_gpu wandb wall_clock_breakdown weight_quantization
    zero_allow_untested_optimizer zero_force_ds_cpu_optimizer zero_optimization
    """.split()
)


def read_config(
    spec: DeepSpeedJobSpec,
    config_maps: Mapping[str, Mapping[str, str] | None],
    first_nodes: int | None = None,
) -> Mapping[str, Any] | None:
    """Return the job's DeepSpeed configuration, or None when it names none.

    With other nodes than the run's first attempt had (`first_nodes`) it makes the same global batch
    as it did with those.

    Raises:
        InvalidJob: it is no JSON object, or DeepSpeed would refuse or misread it.
    """
    source = spec.deepspeed.config_map
    if source is None:
        config = spec.deepspeed.config
        where = "deepspeed.config"
    else:
        where = f"ConfigMap {source.name}, key {source.key}"
        config = _parse((config_maps.get(source.name) or {}).get(source.key, ""), where)
    if config is not None:
        _refuse_unusable(config, where, spec)
        return _fit_batch(config, where, spec, first_nodes or spec.nodes)
    return None


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidJob(f"{where}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidJob(f"{where}: a DeepSpeed configuration is a JSON object")
    return found


def _refuse_unusable(config: Mapping[str, Any], where: str, spec: DeepSpeedJobSpec) -> None:
    for key in config:
        if key in REMOVED:
            raise InvalidJob(f"{where}: DeepSpeed no longer has {key!r}; remove it")
        if key not in KNOWN:
            close = difflib.get_close_matches(key, KNOWN, n=1, cutoff=0.85)
            if close:
                raise InvalidJob(
                    f"{where}: {key!r} is no key of DeepSpeed and would be ignored;"
                    f" did you mean {close[0]!r}?"
                )
    fp16 = config.get("fp16")
    if spec.accelerator.type == "CPU" and isinstance(fp16, Mapping) and fp16.get("enabled") is True:
        raise InvalidJob(f"{where}: fp16 does not work on CPU; use bf16 or neither")


def _fit_batch(
    config: Mapping[str, Any], where: str, spec: DeepSpeedJobSpec, first_nodes: int
) -> Mapping[str, Any]:
    """Return the configuration with the global batch that it made with the first nodes.

    One that makes none with them was written for the nodes of now, or leaves it to a framework.
    """
    shared = config.get("sequence_parallel_size", 1)
    is_count = isinstance(shared, int) and shared > 0
    first = first_nodes * spec.gpus_per_node // shared if is_count else 0
    batch = read_batch(config, first) if first and first_nodes != spec.nodes else None
    if batch is None:
        _refuse_uneven_batch(config, where, spec)
        return config
    try:
        return write_batch(config, refit(batch, spec.nodes * spec.gpus_per_node // shared))
    except NoFit as error:
        raise InvalidJob(
            f"{where}: {spec.nodes} nodes of {spec.gpus_per_node} ranks: {error}"
        ) from error


def _refuse_uneven_batch(config: Mapping[str, Any], where: str, spec: DeepSpeedJobSpec) -> None:
    """Check train_batch_size == micro batch x accumulation x world size, as DeepSpeed asserts."""
    total = config.get("train_batch_size")
    micro = config.get("train_micro_batch_size_per_gpu")
    steps = config.get("gradient_accumulation_steps")
    shared = config.get("sequence_parallel_size", 1)
    if not all(isinstance(n, int) and n > 0 for n in (total, shared)):
        return
    ranks = spec.nodes * spec.gpus_per_node // int(shared)
    if isinstance(micro, int) and isinstance(steps, int):
        if total != micro * steps * ranks:
            raise InvalidJob(
                f"{where}: train_batch_size {total} is not train_micro_batch_size_per_gpu {micro}"
                f" x gradient_accumulation_steps {steps} x {ranks} ranks"
            )
    elif ranks and int(total or 0) % ranks:
        raise InvalidJob(
            f"{where}: train_batch_size {total} cannot be shared evenly by {ranks} ranks"
        )
