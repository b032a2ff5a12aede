"""Accelerators as data, and the sizes of pods that follow from a spec.

One row per accelerator; the other rooms ask for a PodSizes and know no device by name.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from kubernetes.utils.quantity import parse_quantity

from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_operator.errors import InvalidJob

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class AcceleratorRow:
    """What an accelerator type stands for."""

    resource_name: str | None
    ds_accelerator: str
    """Value of DS_ACCELERATOR."""
    backend: str
    """torch.distributed backend."""
    cpus_per_rank: int
    memory_per_rank: str


ACCELERATORS: Final = {
    "Nvidia": AcceleratorRow("nvidia.com/gpu", "cuda", "nccl", 8, "64Gi"),
    "CPU": AcceleratorRow(None, "cpu", "gloo", 1, "3Gi"),
}


@dataclass(frozen=True, slots=True)
class PodSizes:
    """Sizes of one pod.  Quantities are in Kubernetes' notation, the rest in whole units."""

    cpu: str
    memory: str
    shm_bytes: int
    object_store_bytes: int
    ray_cpus: int
    """What Ray may hand out; at least one a rank, whatever fraction of a core the pod asks for."""
    device: str | None
    devices: int


def derive_device(spec: DeepSpeedJobSpec) -> str | None:
    """Return the extended resource of a rank's device, or None when ranks need none."""
    return spec.accelerator.resource_name or ACCELERATORS[spec.accelerator.type].resource_name


def derive_worker_sizes(spec: DeepSpeedJobSpec) -> PodSizes:
    """Return the sizes of a worker pod.

    Raises:
        InvalidJob: a quantity that is none, or shared memory that leaves no room.
    """
    row, ranks = ACCELERATORS[spec.accelerator.type], spec.gpus_per_node
    asked = spec.worker.resources
    cpu = str(asked.cpu if asked.cpu is not None else row.cpus_per_rank * ranks)
    default_memory = f"{int(parse_quantity(row.memory_per_rank)) * ranks // MIB}Mi"
    memory = str(asked.memory if asked.memory is not None else default_memory)
    memory_bytes = int(_quantity(memory, "worker.resources.memory"))
    shm_bytes = memory_bytes // 4
    if spec.worker.shared_memory is not None:
        shm_bytes = int(_quantity(str(spec.worker.shared_memory), "worker.sharedMemory"))
    if shm_bytes >= memory_bytes:
        raise InvalidJob(
            "worker.sharedMemory must be smaller than worker.resources.memory, which it is part of"
        )
    return PodSizes(
        cpu=cpu,
        memory=memory,
        shm_bytes=shm_bytes,
        # Ranks exchange tensors by NCCL or gloo; Ray's store carries only small objects.
        object_store_bytes=max(shm_bytes // 4, 80 * MIB),
        ray_cpus=max(int(_quantity(cpu, "worker.resources.cpu")), ranks),
        device=derive_device(spec),
        devices=ranks,
    )


def derive_head_sizes(spec: DeepSpeedJobSpec) -> PodSizes:
    """Return the sizes of the head pod: no devices, and no CPU for Ray to hand out."""
    asked = spec.head.resources
    cpu = str(asked.cpu if asked.cpu is not None else 1)
    memory = str(asked.memory if asked.memory is not None else "4Gi")
    _quantity(cpu, "head.resources.cpu")
    shm_bytes = int(_quantity(memory, "head.resources.memory")) // 8
    return PodSizes(
        cpu=cpu,
        memory=memory,
        shm_bytes=shm_bytes,
        object_store_bytes=max(shm_bytes // 2, 80 * MIB),
        ray_cpus=0,
        device=None,
        devices=0,
    )


def _quantity(text: str, field: str) -> Decimal:
    try:
        found = Decimal(parse_quantity(text))
    except ValueError as error:
        raise InvalidJob(f"{field}: {text!r} is no quantity; write for instance 500m or 4Gi") from (
            error
        )
    if found <= 0:
        raise InvalidJob(f"{field}: {text!r} must be more than zero")
    return found
