"""Checkpoints in a bucket, on a real S3 server: programs save to a local folder and never notice.

The pods share no file system here but for the test's own; what one rank finds after a restart came
from the bucket.
"""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deepspeed_trainer.board.storage import RunStorage
from deepspeed_trainer.checkpoints.files import pod_folder
from deepspeed_trainer.checkpoints.stores import CHUNK_BYTES, open_store
from deepspeed_trainer.contract import (
    EXIT_SUCCEEDED,
    Entrypoint,
    EntrypointKind,
    RunContract,
    run_path,
)
from deepspeed_trainer.rank.rankenv import program_checkpoint_dir
from tests.pure.deepspeed_trainer.makers import a_contract
from tests.trainer.attempts import Job
from tests.trainer.raycluster import RayCluster
from tests.trainer.s3 import S3Server, find_server

pytestmark = pytest.mark.skipif(find_server() is None, reason="no versitygw, see tests/trainer/s3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(server: S3Server) -> Iterator[RayCluster]:
    with RayCluster(pods=("worker-a", "worker-b"), env=server.env) as running:
        yield running


def events(server: S3Server, contract: RunContract) -> list[dict[str, Any]]:
    file = server.place_of(run_path(contract.job, "run-1")) / f"attempt-{contract.attempt}"
    return [json.loads(line) for line in (file / "events.jsonl").read_text().splitlines()]


def hashed(line: dict[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((file["path"], file["sha256"]) for file in line["files"])


def test_a_killed_run_goes_on_from_what_the_bucket_holds(
    cluster: RayCluster, server: S3Server, storage: Path
) -> None:
    job = Job(cluster, storage)
    order = job.contract(1, "tiny.py", "--end=1:kill:7", storage=server.uri)
    killed = job.finish(order, job.start(order))
    assert killed.progress.checkpoint is not None
    assert killed.progress.checkpoint.step == 5
    shutil.rmtree(program_checkpoint_dir(order))  # the pods' own disks are gone

    again = job.contract(2, "tiny.py", "--end=1:kill:7", storage=server.uri)
    resumed = job.finish(again, job.start(again))
    assert resumed.exit_code == EXIT_SUCCEEDED, resumed.log
    assert resumed.progress.resumed_from is not None
    assert resumed.progress.resumed_from.step == 5
    assert resumed.progress.first_step == 6
    assert resumed.progress.checkpoint is not None
    assert resumed.progress.checkpoint.step == 10

    brought = [line for line in events(server, order) if line["event"] == "brought"]
    prepared = [line for line in events(server, again) if line["event"] == "prepared"]
    assert len(brought) == len(prepared) == 2
    assert {hashed(line) for line in brought} == {hashed(line) for line in prepared}
    logs = server.place_of(run_path(order.job, "run-1")) / "attempt-2" / "logs"
    assert '"start": 5' in (logs / "rank-00001.log").read_text()


def test_what_given_up_saves_left_in_a_bucket_goes(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    contract = a_contract(storage=server.uri, attempt=2, run="swept")
    storage = RunStorage(contract, 1.0)
    store = open_store(server.uri)
    folder = f"{run_path(contract.job, 'swept')}/checkpoints"
    for name in (
        "step-00000005-a1-1/a.pt",
        "step-00000005-a1-1/tag/b.pt",
        "step-00000010-a2-2/c.pt",
    ):
        store.write(f"{folder}/{name}", b"x")
    storage.sweep(below=2)
    storage.finish()
    assert store.list_folders(folder) == ["step-00000010-a2-2"]

    RunStorage(a_contract(storage=server.uri, attempt=3, run="swept"), 1.0)
    storage.sweep(below=3)
    storage.finish()
    assert store.list_folders(folder) == ["step-00000010-a2-2"], "a newer attempt has begun"


def test_what_a_program_reports_is_in_the_bucket_and_comes_back(
    cluster: RayCluster, server: S3Server, storage: Path
) -> None:
    job = Job(cluster, storage, deepspeed_config=None)
    plain = Entrypoint(EntrypointKind.DRIVER, "own_trainer.py")
    first = job.contract(1, "own_trainer.py", entrypoint=plain, storage=server.uri)
    done = job.finish(first, job.start(first))
    assert done.exit_code == EXIT_SUCCEEDED, done.log
    assert done.progress.checkpoint is not None
    assert done.progress.checkpoint.step == 12
    shutil.rmtree(pod_folder(first.submission_id))  # the pods' own disks are gone

    entrypoint = Entrypoint(EntrypointKind.DRIVER, "own_trainer.py", ("more",))
    again = job.contract(2, "own_trainer.py", entrypoint=entrypoint, storage=server.uri)
    resumed = job.finish(again, job.start(again))
    assert resumed.exit_code == EXIT_SUCCEEDED, resumed.log
    assert resumed.progress.resumed_from is not None
    assert resumed.progress.resumed_from.step == 12
    assert (resumed.progress.first_step, resumed.progress.step) == (13, 20)
    logs = server.place_of(run_path(again.job, "run-1")) / "attempt-2" / "logs"
    assert "result trained 4" in (logs / "driver.log").read_text()


def test_an_upload_that_fails_takes_its_parts_back(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)

    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 6 * CHUNK_BYTES:
                raise OSError("the file has become shorter")
            return super().read(size)

    body = Shrinking(bytes(8 * CHUNK_BYTES))
    source = SimpleNamespace(
        open=lambda _mode: body, stat=lambda: SimpleNamespace(st_size=8 * CHUNK_BYTES)
    )
    store = open_store(server.uri)
    with pytest.raises(OSError, match="become shorter"):
        store.keep(cast("Path", source), "failed/file")
    files = [path for path in server.place_of("..").resolve().rglob("*") if path.is_file()]
    assert [path for path in files if "failed" in path.parts] == []
    # Six were sent; one that was on its way when the upload was aborted may arrive after it.
    assert len([path for path in files if ".sgwtmp" in path.parts]) < 3


def test_a_bucket_that_cannot_be_reached_is_named_before_anything_trains(
    cluster: RayCluster, storage: Path
) -> None:
    job = Job(cluster, storage)
    failure = job.run(1, "tiny.py", storage="s3://not-there/team").progress.failure
    assert failure is not None
    assert failure.cause == "Storage"
    assert "s3://not-there/team" in failure.message
