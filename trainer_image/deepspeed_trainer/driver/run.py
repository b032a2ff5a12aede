"""The entrypoint of the Ray job: contract in, TorchTrainer run, verdict on the board, exit code.

The exit code tells the kind of end (see contract), the board tells the rest.  Whatever happens
after the board is open is written there before the process ends.
"""

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Final

from deepspeed_trainer.board.ranks import Verdict
from deepspeed_trainer.contract import (
    CONTRACT_ENV,
    EXIT_CONTRACT_INVALID,
    EXIT_SUCCEEDED,
    POD_UID_ENV,
    RANK_RESOURCE,
    Cause,
    ContractError,
    EntrypointKind,
    Progress,
    RunContract,
    RunPhase,
    derive_exit_code,
)
from deepspeed_trainer.driver import raytrain
from deepspeed_trainer.driver.program import Program

POLL_S: Final = 0.2
STOPPED: Final = "the driver was asked to stop"


class AttemptFailed(Exception):
    """The attempt cannot start; cause and message go to the board."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def main() -> int:
    """Run one attempt and return the exit code."""
    try:
        contract = RunContract.from_json(os.environ.get(CONTRACT_ENV, ""))
    except ContractError as error:
        sys.stderr.write(f"{CONTRACT_ENV}: {error}\n")
        return EXIT_CONTRACT_INVALID
    raytrain.set_ray_env()
    try:
        train = _prepare(contract)
    except Exception as error:  # noqa: BLE001  told on the board, which is not there yet
        train = _raising(error)
    board = BoardOfRun(contract)
    verdict = Verdict()
    try:
        verdict = train(board)
    except AttemptFailed as error:
        board.fail(error.cause, str(error))
    except Exception as error:  # noqa: BLE001  told on the board, then by the exit code
        verdict = Verdict(error=f"{type(error).__name__}: {error}")
    progress = board.conclude(verdict)
    if contract.export is not None and progress.failure is None and progress.checkpoint is not None:
        progress = _export(contract, board, progress.checkpoint.path)
    return _report_end(progress)


def _export(contract: RunContract, board: "BoardOfRun", path: str) -> Progress:
    """Export the newest checkpoint on a worker; what goes wrong is told and fails no training."""
    try:
        return board.note_exported(raytrain.export(contract, path), "")
    except Exception as error:  # noqa: BLE001  told on the board
        why = str(error).strip().splitlines() or [""]
        return board.note_exported(None, f"no export: {why[-1]}"[:1000])


def _prepare(contract: RunContract) -> Callable[["BoardOfRun"], Verdict]:
    """Do what needs no Ray, and start a driver program; returns what trains beside a board."""
    _refuse_wrong_head(contract)
    if contract.entrypoint.kind is EntrypointKind.DRIVER:
        return partial(_run_program, contract, Program(contract))
    return partial(_run_workers, contract)


def _raising(error: Exception) -> Callable[["BoardOfRun"], Verdict]:
    def fail(_: "BoardOfRun") -> Verdict:
        raise error

    return fail


def _run_workers(contract: RunContract, board: "BoardOfRun") -> Verdict:
    _wait_for_ranks(contract, board)
    first = raytrain.train(contract)
    return _go_on(contract, board, first, lambda restart: raytrain.train(contract, restart))


def _run_program(contract: RunContract, program: Program, board: "BoardOfRun") -> Verdict:
    try:
        _wait_for_ranks(contract, board)
    except BaseException:
        program.end()
        raise
    first = program.run(board)
    return _go_on(contract, board, first, lambda restart: Program(contract, restart).run(board))


def _go_on(
    contract: RunContract, board: "BoardOfRun", verdict: Verdict, start: Callable[[int], Verdict]
) -> Verdict:
    """Start again as often as the board lets; returns the last verdict."""
    for restart in itertools.count(1):
        if not _goes_again(contract, board, verdict):
            break
        verdict = start(restart)
    return verdict


def _goes_again(contract: RunContract, board: "BoardOfRun", verdict: Verdict) -> bool:
    """Return, when its time has come, whether another group of workers shall start.

    Supervisors have their orders from the board and end when there is no other round.  The pods
    must all be there still; if one is gone the attempt ends, and the operator sees to the pods.
    """
    if not contract.entrypoint.kind.is_in_process or _count_ranks() < contract.world_size:
        return False
    wait_s = board.end_round(verdict)
    if wait_s is None:
        return False
    due = time.monotonic() + wait_s
    while time.monotonic() < due and not board.was_stopped:
        time.sleep(POLL_S)
    return not board.was_stopped


class BoardOfRun:
    """The driver's line to the board; also takes SIGTERM and turns it into an orderly stop."""

    def __init__(self, contract: RunContract) -> None:
        import ray  # noqa: PLC0415  after set_ray_env

        from deepspeed_trainer.board.lookup import open_board  # noqa: PLC0415

        ray.init(address="auto")
        self._ray = ray
        self._id = contract.submission_id
        self.was_stopped = False
        self._board = open_board()
        if contract.entrypoint.kind is not EntrypointKind.DRIVER:  # which imports for itself
            raytrain.preload()
        self.may_start = bool(ray.get(self._board.open.remote(contract.to_json())))
        signal.signal(signal.SIGTERM, self._stop)

    def set_phase(self, phase: RunPhase) -> None:
        """Show where the driver is."""
        self._ray.get(self._board.set_phase.remote(self._id, phase))

    def fail(self, cause: Cause, message: str) -> None:
        """End the attempt."""
        self._ray.get(self._board.fail.remote(self._id, cause, message))

    def end_round(self, verdict: Verdict) -> float | None:
        """Return the seconds until another group of workers may start; None when none may."""
        answer: float | None = self._ray.get(self._board.end_round.remote(self._id, verdict))
        return answer

    def note_override(self, sentence: str) -> None:
        """Show which setting of a driver program gave way to the job's."""
        self._board.note_override.remote(self._id, sentence)

    def conclude(self, verdict: Verdict) -> Progress:
        """Close the board and return what it says last."""
        answer = self._board.conclude.remote(self._id, verdict)
        return Progress.from_json(self._ray.get(answer))

    def note_exported(self, path: str | None, problem: str) -> Progress:
        """Show where the newest checkpoint was exported to, or why it was not."""
        answer = self._board.note_exported.remote(self._id, path, problem)
        return Progress.from_json(self._ray.get(answer))

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Supervisors see this at their next talk, stop their ranks and return."""
        self.was_stopped = True
        self._board.fail.remote(self._id, Cause.STOPPED, STOPPED)


def _refuse_wrong_head(contract: RunContract) -> None:
    here = os.environ.get(POD_UID_ENV, "")
    if contract.head_pod_uid and here != contract.head_pod_uid:
        raise AttemptFailed(
            Cause.WRONG_HEAD,
            f"submitted to head pod {contract.head_pod_uid}, running on {here or 'an unnamed pod'}",
        )


def _count_ranks() -> int:
    """Return how many ranks the pods that are there can hold."""
    import ray  # noqa: PLC0415  after set_ray_env

    return int(ray.cluster_resources().get(RANK_RESOURCE, 0))


def _wait_for_ranks(contract: RunContract, board: BoardOfRun) -> None:
    if not board.may_start:
        raise AttemptFailed(Cause.STORAGE, "the job's storage cannot be used")
    board.set_phase(RunPhase.WAITING_FOR_RANKS)
    deadline = time.monotonic() + contract.ranks_timeout_s
    wanted = contract.world_size
    while (found := _count_ranks()) < wanted:
        if board.was_stopped:
            raise AttemptFailed(Cause.STOPPED, STOPPED)
        if time.monotonic() > deadline:
            raise AttemptFailed(
                Cause.RANKS_MISSING,
                f"{found} of {wanted} ranks joined the Ray cluster within "
                f"{contract.ranks_timeout_s} s; look at the worker pods",
            )
        time.sleep(POLL_S)


def _report_end(progress: Progress) -> int:
    failure = progress.failure
    if failure is None:
        _say(f"{progress.phase} at step {progress.step}")
        return EXIT_SUCCEEDED
    _say(f"{failure.cause}: {failure.message}")
    return derive_exit_code(failure.cause)


def _say(sentence: str) -> None:
    print(f"[trainer] {sentence}", flush=True)  # noqa: T201  the job's log
