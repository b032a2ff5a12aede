"""How the ranks of one round are judged once they have ended: the one failure, or none. Pure.

`failures` reads the ends; here is added what only the head knows: what the driver saw, whether all
ranks were there, and whether they ever made a process group.
"""

from collections.abc import Mapping

from deepspeed_trainer.board.failures import find_first_failure, name_ranks
from deepspeed_trainer.board.ranks import RankState, Verdict
from deepspeed_trainer.contract import EntrypointKind, RunContract
from deepspeed_trainer.progress import Cause, Failure

Ranks = Mapping[int, RankState]


def find_failure(contract: RunContract, ranks: Ranks, verdict: Verdict) -> Failure | None:
    """Return why the ranks failed, or None when all of them did what they had to."""
    ends = [state.end for state in ranks.values() if state.end]
    failure = find_first_failure(ends, distributed=contract.distributed)
    if failure is not None or verdict.program is not None:
        return failure or verdict.program
    if verdict.error is not None:
        return Failure(Cause.TRAINER_ERROR, verdict.error[:2048])
    if not ranks and contract.entrypoint.kind is EntrypointKind.DRIVER:
        return _no_trainer() if contract.distributed else None
    if len(ends) < contract.world_size:
        return Failure(Cause.TRAINER_ERROR, "Ray Train returned before all ranks had ended")
    return _find_missing_group(contract, ranks)


def find_notice(ranks: Ranks) -> str | None:
    """Return the sentence about ranks whose progress cannot be seen."""
    broken = {
        rank: state.hook_failure or "the program runs without the trainer's hook"
        for rank, state in ranks.items()
        if state.hook_failure or (state.end and not state.end.stopped and not state.is_hooked)
    }
    if not broken:
        return None
    return f"progress unavailable on {name_ranks(list(broken))}: {next(iter(broken.values()))}"


def _find_missing_group(contract: RunContract, ranks: Ranks) -> Failure | None:
    if not contract.distributed:
        return None
    # Only of a command is it known that its hook would have spoken up.
    speaks_up = contract.entrypoint.kind is EntrypointKind.COMMAND
    for rank, state in sorted(ranks.items()):
        was_seen = state.is_hooked or speaks_up
        if state.group_size is None and was_seen and state.hook_failure is None:
            message = (
                f"rank {rank} ended with exit code 0 and never made a process group: "
                "the ranks did not train together; call deepspeed.initialize or "
                "deepspeed.init_distributed, or say entrypoint.distributed: false"
            )
            return Failure(Cause.NO_PROCESS_GROUP, message, rank, state.pod, 0)
    return None


def _no_trainer() -> Failure:
    message = (
        "the driver program ended with exit code 0 and never ran a TorchTrainer: nothing was"
        " trained; call fit(), use another entrypoint, or say entrypoint.distributed: false"
    )
    return Failure(Cause.NO_PROCESS_GROUP, message, exit_code=0)
