"""A volume that is full costs saves, never the training; retention makes room again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepspeed_trainer.contract import EXIT_SUCCEEDED, Keep
from tests.trainer.attempts import Job
from tests.trainer.quota import small_volume
from tests.trainer.raycluster import RayCluster

WORDS = ("--width=16384", "--save-every=5")
"""About 1.07 million parameters: 13 MB a save."""
VOLUME_BYTES = 34_000_000


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    with small_volume(folder, VOLUME_BYTES) as mounted:
        yield mounted


def test_saves_without_room_are_skipped_until_retention_makes_some(
    cluster: RayCluster, volume: Path
) -> None:
    job = Job(cluster, volume)
    first = job.run(1, "tiny.py", *WORDS, "--steps=15")
    assert first.exit_code == EXIT_SUCCEEDED, first.log
    assert first.progress.step == 15
    assert [line["step"] for line in first.of_kind("committed")] == [5, 10]
    assert first.progress.storage_full is not None
    assert "no room" in first.progress.storage_full
    assert (job.checkpoints(1) / "latest").read_text() == "step10"
    left = [path for path in (job.checkpoints(1) / "step15").rglob("*") if path.is_file()]
    assert left == [], "what was written of a skipped save goes"

    keep = Keep(last=1)
    again = job.run(2, "tiny.py", *WORDS, "--steps=100", keep=keep)
    assert again.exit_code == EXIT_SUCCEEDED, again.log
    assert again.progress.resumed_from is not None
    assert again.progress.resumed_from.step == 10
    deleted = [line["path"].rsplit("/", 1)[-1] for line in again.of_kind("deleted")]
    assert deleted[0].startswith("step-00000005-")
    assert again.progress.checkpoint is not None
    assert again.progress.checkpoint.step > 10
