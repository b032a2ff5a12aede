"""The contract of an attempt: what the driver in the image is told to run."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.api.types import Attempt, DeepSpeedJobSpec, Entrypoint, Keep, Storage
from deepspeed_operator.build.sizing import ACCELERATORS, derive_worker_sizes
from deepspeed_operator.errors import InvalidJob
from deepspeed_trainer import contract

RUN_NAME = "run-1"


def build_job_ref(job: JobFacts) -> contract.JobRef:
    """Return the job as the trainer knows it."""
    return contract.JobRef(namespace=job.key.namespace, name=job.key.name, uid=job.uid)


def derive_storage_path(job: JobFacts) -> str:
    """Return the run's folder below the storage's root."""
    return contract.run_path(build_job_ref(job), RUN_NAME)


def build_contract(
    job: JobFacts,
    spec: DeepSpeedJobSpec,
    attempt: Attempt,
    *,
    head_uid: str,
    deepspeed_config: Mapping[str, Any] | None,
    env: Mapping[str, str],
    restarts_left: int,
) -> contract.RunContract:
    """Return the contract of an attempt; `restarts_left` is what its ranks may use up.

    Raises:
        InvalidJob: sizes that cannot be.
    """
    row, sizes = ACCELERATORS[spec.accelerator.type], derive_worker_sizes(spec)
    return contract.RunContract(
        job=build_job_ref(job),
        run=RUN_NAME,
        attempt=attempt.number,
        submission_id=attempt.submission_id,
        nodes=spec.nodes,
        ranks_per_node=spec.gpus_per_node,
        accelerator=row.ds_accelerator,
        backend=row.backend,
        cpus_per_rank=sizes.ray_cpus // spec.gpus_per_node,
        gpus_per_rank=0 if sizes.device is None else 1,
        entrypoint=_build_entrypoint(spec),
        deepspeed_config=deepspeed_config,
        distributed=spec.entrypoint.distributed,
        env=env,
        storage=_build_storage(spec.storage),
        on_world_size_change=spec.checkpoint.on_world_size_change,
        keep=_build_keep(spec.checkpoint.keep),
        export=spec.checkpoint.export.safetensors if spec.checkpoint.export else None,
        resume="Never" if spec.checkpoint.resume.mode == "Never" else "Auto",
        resume_from=spec.checkpoint.resume.source,
        on_ignored=spec.checkpoint.resume.on_ignored,
        head_pod_uid=head_uid,
        restarts_left=restarts_left,
        backoff_s=spec.failure_policy.backoff_seconds,
        bind_cores=spec.worker.bind_cores,
        hang=contract.HangPolicy(
            enabled=spec.hang.enabled,
            min_s=spec.hang.min_seconds,
            factor=spec.hang.factor,
            start_deadline_s=spec.hang.start_deadline_seconds,
        ),
        preemption_signal=spec.preemption.signal or "",
    )


def _build_storage(given: Storage | None) -> str | None:
    return None if given is None else given.uri or contract.STORAGE_MOUNT


def _build_keep(given: Keep | None) -> contract.Keep:
    if given is None:
        return contract.Keep()
    best = given.best
    return contract.Keep(
        last=given.last,
        best_metric=best.metric if best else None,
        best_mode=best.mode if best else "Min",
        every=given.every,
    )


def _build_entrypoint(spec: DeepSpeedJobSpec) -> contract.Entrypoint:
    given = spec.entrypoint
    kind, words = _find_program(given)
    return contract.Entrypoint(
        kind=kind,
        target=words[0],
        args=(*words[1:], *given.args),
        config=given.config or {},
        local_rank_arg=given.local_rank_arg,
        sizing=given.sizing,
        per=given.per,
        data=tuple(
            contract.DataSource(source.name, source.format, tuple(source.paths))
            for source in given.data
        ),
    )


def _find_program(given: Entrypoint) -> tuple[contract.EntrypointKind, Sequence[str]]:
    """Return the kind and the words of the one entrypoint that is set."""
    for kind in contract.EntrypointKind:
        words = getattr(given, kind)
        if words is not None:
            return kind, [words] if isinstance(words, str) else words
    raise InvalidJob("spec.entrypoint: none is set")
