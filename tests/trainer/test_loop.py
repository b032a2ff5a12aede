"""The helper in one process, beside an engine that only counts: its order, its state, its refusals.

With DeepSpeed itself it is run by test_exact.
"""
# ruff: noqa: NPY002, S311  these generators are what programs draw from

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

from deepspeed_trainer.fingerprint.proof import History, compare, join
from deepspeed_trainer.fingerprint.record import read_segments
from deepspeed_trainer.loop import Loop, equal_batches
from deepspeed_trainer.loop.state import SidecarMissing

LENGTH = 11


@pytest.fixture(autouse=True, scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DSJOB_CHECKPOINT_DIR", "DSJOB_ATTEMPT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


class Augmented(Dataset):
    """Samples that draw from all generators a data set may draw from."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return torch.tensor([float(index), *drawn], dtype=torch.float64)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        yield from range(LENGTH)


class Optimizer:
    _global_grad_norm: Any = None

    def step(self) -> None:
        self._global_grad_norm = torch.rand(())


class Engine:
    """As much of DeepSpeed's engine as the helper sees; one rank, two micro-batches of two."""

    dp_world_size = 1
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.optimizer = Optimizer()
        self.loaded_checkpoint_dp_world_size: int | None = None
        self.global_steps = self._micro = 0

    def train_micro_batch_size_per_gpu(self) -> int:
        return 2

    def gradient_accumulation_steps(self) -> int:
        return 2

    def backward(self, _loss: torch.Tensor) -> None:
        self._micro += 1

    def step(self) -> None:
        if self._micro % 2 == 0:
            self.optimizer.step()
            self.global_steps += 1

    def save_checkpoint(self, save_dir: str, tag: str, client_state: Any) -> None:
        (Path(save_dir) / tag).mkdir(parents=True, exist_ok=True)
        (Path(save_dir) / tag / "model.json").write_text(json.dumps(client_state))
        (Path(save_dir) / "latest").write_text(tag)

    def load_checkpoint(self, load_dir: str, tag: str | None = None) -> tuple[Any, Any]:
        latest = Path(load_dir) / "latest"
        if tag is None and not latest.exists():
            return None, None
        file = Path(load_dir) / (tag or latest.read_text()) / "model.json"
        if not file.exists():
            return None, None
        self.loaded_checkpoint_dp_world_size = 1
        return str(file), json.loads(file.read_text())


def train(run: Loop, engine: Any, **until: int) -> list[list[float]]:
    """Train as people do, with dropout; return what was seen."""
    seen = []
    for batch in run.batches(**until):
        dropped = torch.nn.functional.dropout(batch, 0.5)
        engine.backward(dropped.sum())
        engine.step()
        seen.append(dropped.flatten().tolist())
    return seen


def history(folder: Path) -> History:
    return join(read_segments((folder / "fingerprint/rank-00000.jsonl").read_text(), "rank 0"))


def start(folder: Path, data: Any = None, **words: Any) -> tuple[Loop, Engine]:
    engine = Engine()
    return Loop(engine, data if data is not None else Augmented(), folder=folder, **words), engine


def test_a_resumed_run_sees_and_draws_what_the_undisturbed_one_does(folder: Path) -> None:
    torch.manual_seed(1)
    run, engine = start(folder / "calm")
    calm = train(run, engine, steps=9)
    torch.manual_seed(1)
    run, engine = start(folder / "cut")
    before = train(run, engine, steps=4)
    run.save({"note": "kept"})
    train(run, engine, steps=6)
    torch.manual_seed(99)  # another process has another state
    run, engine = start(folder / "cut")
    assert run.load() == {"note": "kept"}
    torch.rand(5)  # and draws from it on its way
    after = train(run, engine, steps=9)
    assert before + after == calm
    sidecar = json.loads((folder / "cut/step4/loop_rng_state_00000.json").read_text())
    with_checkpoint = join(read_segments("\n".join(sidecar["record"]), "step4"))
    assert (len(with_checkpoint.steps), with_checkpoint.findings) == (4, [])
    cut = history(folder / "cut")
    assert cut.findings == []
    assert (cut.redone, cut.redone_alike) == (2, 2)
    assert compare(cut, history(folder / "calm"), tolerance=None) is None


def test_every_epoch_has_every_sample_once_and_a_batch_may_lie_in_two(folder: Path) -> None:
    run, engine = start(folder)
    indices = []
    for epochs in (1, 2, 3, 4):  # as a program with a loop over epochs asks
        for batch in run.batches(epochs=epochs):
            indices += [int(sample[0]) for sample in batch]
            engine.backward(batch.sum())
            engine.step()
    assert (run.epoch, run.step, run.samples) == (4, LENGTH, 4 * LENGTH)
    for epoch in range(4):
        assert sorted(indices[epoch * LENGTH : (epoch + 1) * LENGTH]) == list(range(LENGTH))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(folder: Path, workers: int) -> None:
    torch.manual_seed(1)
    alone, engine = start(folder / "alone")
    wanted = train(alone, engine, steps=5)
    torch.manual_seed(1)
    loader = DataLoader(Augmented(), batch_size=2, num_workers=workers)
    helped, engine = start(folder / "helped", loader)
    assert train(helped, engine, steps=5) == wanted


def test_reading_samples_moves_no_generator_of_the_program(folder: Path) -> None:
    run, _ = start(folder)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    wanted = [random.random(), np.random.rand(), float(torch.rand(()))]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    next(run.batches(steps=1))
    assert [random.random(), np.random.rand(), float(torch.rand(()))] == wanted


def test_all_generators_are_brought_back(folder: Path) -> None:
    run, engine = start(folder)
    train(run, engine, steps=1)
    random.gauss(0, 1), np.random.randn()  # both keep a second number for later
    run.save()
    wanted = [random.gauss(0, 1), np.random.randn(), random.random(), float(torch.rand(()))]
    run, _ = start(folder)
    next(run.batches(steps=2))
    found = [random.gauss(0, 1), np.random.randn(), random.random(), float(torch.rand(()))]
    assert found == wanted


def test_a_save_inside_an_accumulation_is_refused(folder: Path) -> None:
    run, engine = start(folder)
    batch = next(run.batches(steps=1))
    engine.backward(batch.sum())
    engine.step()
    with pytest.raises(RuntimeError, match=r"engine\.save_checkpoint was called while 2 samples"):
        run.save()
    assert not (folder / "latest").exists()


def test_a_batch_that_is_not_trained_on_is_refused(folder: Path) -> None:
    run, _ = start(folder)
    with pytest.raises(RuntimeError, match="a further batch was asked for while 4 samples"):
        list(run.batches(steps=3))


def test_a_step_without_a_batch_is_refused(folder: Path) -> None:
    _, engine = start(folder)
    with pytest.raises(RuntimeError, match="after 0 samples of this rank where 4 make a step"):
        engine.optimizer.step()


def test_a_missing_sidecar_is_no_quiet_start(folder: Path) -> None:
    run, engine = start(folder)
    train(run, engine, steps=1)
    run.save()
    (folder / "step1" / "loop_rng_state_00000.json").unlink()
    run, _ = start(folder)
    with pytest.raises(SidecarMissing, match="lacks what rank 0 needs"):
        run.load()


def test_a_sidecar_of_another_step_is_refused(folder: Path) -> None:
    """A save into the same tag was cut short between a rank's part and the weights."""
    run, engine = start(folder)
    train(run, engine, steps=1)
    run.save(tag="always")
    old = (folder / "always" / "model.json").read_text()
    train(run, engine, steps=2)
    run.save(tag="always")
    (folder / "always" / "model.json").write_text(old)
    run, _ = start(folder)
    with pytest.raises(SidecarMissing, match="of step 1 the part of rank 0 is of step 2"):
        run.load()


@pytest.mark.parametrize("words", [{"seed": 4}, {"shuffle": False}])
def test_another_order_is_refused(folder: Path, words: dict[str, Any]) -> None:
    run, engine = start(folder)
    train(run, engine, steps=1)
    run.save()
    run, _ = start(folder, **words)
    with pytest.raises(ValueError, match=f"was saved with {next(iter(words))}"):
        run.load()


def test_a_save_that_deepspeed_cannot_load_is_no_quiet_start(folder: Path) -> None:
    run, engine = start(folder)
    train(run, engine, steps=1)
    run.save()
    (folder / "step1" / "model.json").unlink()
    run, _ = start(folder)
    with pytest.raises(RuntimeError, match="could not load the checkpoint"):
        next(run.batches(steps=2))


def test_a_checkpoint_of_another_program_brings_its_weights_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Engine().save_checkpoint(str(folder), "old", {"step": 7})
    run, _ = start(folder)
    assert run.load() == {"step": 7}
    assert run.step == 0
    assert "was not saved with a Loop" in capsys.readouterr().err


def test_a_run_of_another_size_goes_on_at_the_same_sample(folder: Path) -> None:
    run, engine = start(folder)
    train(run, engine, steps=3)
    run.save()
    file = folder / "step3" / "model.json"
    file.write_text(file.read_text().replace('"world_size": 1', '"world_size": 2'))
    (folder / "step3" / "loop_rng_state_00000.json").unlink()
    run, engine = start(folder)
    run.load()
    assert (run.step, run.samples) == (3, 12)
    train(run, engine, steps=5)
    assert [done.ranks[0].position for done in history(folder).steps] == [0, 4, 8, 12, 16]


def test_under_the_hooks_a_sidecar_is_written_before_the_save_is_told(folder: Path) -> None:
    class Hooked(Engine):
        dsjob_write_beside: Any = None

        def save_checkpoint(self, save_dir: str, tag: str, client_state: Any) -> None:
            assert not list(Path(save_dir).glob("*/loop_rng_state_*"))
            super().save_checkpoint(save_dir, tag, client_state)
            self.dsjob_write_beside()

    engine = Hooked()
    run = Loop(engine, Augmented(), folder=folder)
    train(run, engine, steps=1)
    run.save()
    assert (folder / "step1" / "loop_rng_state_00000.json").exists()


def test_in_a_job_nothing_is_written_through_a_link_to_another_attempt(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hooks take such a link away when the save begins; here the engine does."""

    class Relinked(Engine):
        def save_checkpoint(self, save_dir: str, tag: str, client_state: Any) -> None:
            (Path(save_dir) / tag).unlink()
            super().save_checkpoint(save_dir, tag, client_state)

    other, own = folder / "attempt-1" / "step1", folder / "attempt-2" / "checkpoints"
    other.mkdir(parents=True)
    own.mkdir(parents=True)
    (own / "step1").symlink_to(other)
    monkeypatch.setenv("DSJOB_CHECKPOINT_DIR", str(own))
    engine = Relinked()
    run = Loop(engine, Augmented())
    train(run, engine, steps=1)
    run.save()
    assert list(other.iterdir()) == []
    assert (own / "step1" / "loop_rng_state_00000.json").exists()


def test_outside_a_job_what_latest_names_is_whole(folder: Path) -> None:
    class Looking(Engine):
        def save_checkpoint(self, save_dir: str, tag: str, client_state: Any) -> None:
            assert (Path(save_dir) / tag / "loop_rng_state_00000.json").exists()
            super().save_checkpoint(save_dir, tag, client_state)

    engine = Looking()
    run = Loop(engine, Augmented(), folder=folder)
    train(run, engine, steps=1)
    run.save()
    assert (folder / "latest").read_text() == "step1"


def test_a_loop_after_a_load_is_refused(folder: Path) -> None:
    engine = Engine()
    engine.loaded_checkpoint_dp_world_size = 1
    with pytest.raises(ValueError, match="make the Loop before that"):
        Loop(engine, Augmented(), folder=folder)


def test_without_a_folder_it_is_said_how_to_name_one() -> None:
    with pytest.raises(ValueError, match="DSJOB_CHECKPOINT_DIR"):
        Loop(Engine(), Augmented())


def test_in_a_job_records_lie_beside_the_checkpoints(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSJOB_CHECKPOINT_DIR", str(folder / "attempt-3" / "checkpoints"))
    monkeypatch.setenv("DSJOB_ATTEMPT", "3")
    engine = Engine()
    run = Loop(engine, Augmented())
    train(run, engine, steps=1)
    run.save()
    assert (folder / "attempt-3" / "checkpoints" / "step1" / "model.json").exists()
    assert history(folder / "attempt-3").starts[0].attempt == 3


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        (Stream(), TypeError, "Stream is none"),
        (DataLoader(Stream(), batch_size=2), TypeError, "a stream cannot be continued"),
        (DataLoader(Augmented(), batch_size=3), ValueError, "batch_size is 3"),
        (
            DataLoader(Augmented(), batch_size=2, sampler=WeightedRandomSampler([1.0] * 11, 4)),
            ValueError,
            "WeightedRandomSampler",
        ),
        ([], ValueError, "has 0 samples"),
    ],
)
def test_data_that_has_no_such_order_is_refused(
    folder: Path, data: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        Loop(Engine(), data, folder=folder)


def test_ranks_that_share_samples_are_refused(folder: Path) -> None:
    engine = Engine()
    engine.dp_world_size = 2
    with pytest.raises(ValueError, match="2 data-parallel ranks of 1"):
        Loop(engine, Augmented(), folder=folder)


def test_how_long_must_be_said(folder: Path) -> None:
    run, _ = start(folder)
    with pytest.raises(ValueError, match="say how long to train"):
        next(run.batches())


def test_a_stream_ends_with_its_last_whole_step() -> None:
    assert list(equal_batches(Engine(), range(7))) == [0, 1, 2, 3, 4, 5]
