"""A framework's own end of a save closes it: it counts before the program takes another step."""

import importlib.util
import json
from pathlib import Path

import pytest

from deepspeed_trainer.contract import EXIT_SUCCEEDED, MANIFEST_FILE
from tests.trainer.attempts import Job
from tests.trainer.raycluster import RayCluster

ADDED = {
    "accelerate": "random_states_1.pkl",
    "lightning": "",
    "transformers": "trainer_state.json",
}
"""What each framework writes after the engine's save; Lightning gives its state to the engine."""


@pytest.mark.parametrize("framework", ADDED)
def test_a_framework_s_save_counts_before_the_next_step(
    cluster: RayCluster, storage: Path, framework: str
) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    job = Job(cluster, storage, deepspeed_config=None)
    outcome = job.run(1, "frameworks.py", f"--framework={framework}")
    assert outcome.exit_code == EXIT_SUCCEEDED, outcome.log
    for rank in (0, 1):
        said = outcome.rank_log(rank)
        assert "counts" in said.splitlines(), said
    [first, *_] = outcome.of_kind("committed")
    manifest = json.loads((storage / first["path"] / MANIFEST_FILE).read_text())
    names = [file["path"].rsplit("/", 1)[-1] for file in manifest["files"]]
    assert ADDED[framework] in [*names, ""]
