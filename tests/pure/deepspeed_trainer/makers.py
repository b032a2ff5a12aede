"""Builders for the trainer's pure tests."""

from typing import Any

from deepspeed_trainer.board.attempt import Attempt
from deepspeed_trainer.board.failures import RankEnd
from deepspeed_trainer.board.ranks import Resume
from deepspeed_trainer.contract import (
    Entrypoint,
    EntrypointKind,
    JobRef,
    Manifest,
    ManifestFile,
    RunContract,
)

SHA = "0" * 64


def a_contract(**changes: Any) -> RunContract:
    fields: dict[str, Any] = {
        "job": JobRef("team", "bert", "uid-1"),
        "run": "run-1",
        "attempt": 1,
        "submission_id": "bert-a1",
        "nodes": 2,
        "ranks_per_node": 1,
        "accelerator": "cpu",
        "backend": "gloo",
        "cpus_per_rank": 1.0,
        "gpus_per_rank": 0,
        "entrypoint": Entrypoint(EntrypointKind.SCRIPT, "train.py", ("--epochs", "1")),
        "deepspeed_config": {"zero_optimization": {"stage": 3}},
        "storage": "/mnt/dsjob",
        "head_pod_uid": "head-1",
        "env": {"NCCL_DEBUG": "INFO"},
    }
    return RunContract(**{**fields, **changes})


def an_end(rank: int, exit_code: int = 0, **changes: Any) -> RankEnd:
    fields = {"rank": rank, "node": f"pod-{rank}", "exit_code": exit_code, "order": rank}
    return RankEnd(**{**fields, **changes})


def a_manifest(step: int = 5, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "step": step,
        "tag": f"step{step}",
        "world_size": 2,
        "zero_stage": 3,
        "attempt": 1,
        "time": 1000.0,
        "versions": {"torch": "2.13.0"},
        "files": (ManifestFile("zero_pp_rank_0_mp_rank_00_model_states.pt", 3, SHA, 0),),
    }
    return Manifest(**{**fields, **changes})


def hello(pod: str) -> dict[str, Any]:
    return {"kind": "hello", "pod": pod, "pod_uid": f"uid-{pod}", "address": f"ip-{pod}", "port": 9}


def a_running_attempt(pods: tuple[str, ...] = ("a", "b"), **changes: Any) -> Attempt:
    attempt = Attempt(a_contract(**changes), 0.0)
    for rank, pod in enumerate(pods):
        attempt.note_hello(rank, hello(pod), 0.0)
        attempt.note_hook(rank, None)
    begin(attempt)
    return attempt


def begin(attempt: Attempt) -> None:
    """All ranks have read what they continue from: nothing."""
    attempt.resuming.choose(Resume(1), None)
    for rank in range(attempt.contract.world_size):
        attempt.resuming.note_prepared(rank, 1)


def a_closed_save(number: int = 1, **changes: Any) -> dict[str, Any]:
    """The fact that a rank holds a save."""
    fact = {
        "kind": "closed",
        "number": number,
        "path": f"run/checkpoints/step-{number}",
        "tag": f"step{number}",
        "step": number,
        "zero_stage": 3,
        "source": ".",
        "report": False,
        "blocked_s": 0.01,
        "wrote_s": 0.02,
        "size_bytes": 3,
    }
    return {**fact, **changes}


def ended(exit_code: int = 0, **changes: Any) -> dict[str, Any]:
    return {"exit_code": exit_code, "stopped": False, "oom_kills": 0, "tail": (), **changes}
