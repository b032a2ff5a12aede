"""Figures are replaced, everything else keeps its order."""

from pathlib import Path

from deepspeed_trainer.rank.facts import FactBuffer
from tests.pure.deepspeed_trainer.makers import a_contract


def test_the_newest_figures_replace_older_ones_but_a_first_step_stays() -> None:
    buffer = FactBuffer(a_contract(storage=None), 0)
    buffer.put({"kind": "step", "done": 1, "begun": 1, "first": 1, "loss": "2"})
    buffer.put({"kind": "step", "done": 2, "begun": 2})
    assert buffer.drain() == [
        {"kind": "step", "done": 2, "begun": 2, "first": 1, "loss": "2"},
    ]
    assert buffer.drain() == []


def test_metrics_are_merged_by_name() -> None:
    buffer = FactBuffer(a_contract(storage=None), 0)
    buffer.put({"kind": "metrics", "values": {"a": "1", "b": "1"}})
    buffer.put({"kind": "metrics", "values": {"a": "2"}})
    assert buffer.drain() == [{"kind": "metrics", "values": {"a": "2", "b": "1"}}]


def test_without_storage_a_save_is_the_programs_own_business(tmp_path: Path) -> None:
    buffer = FactBuffer(a_contract(storage=None), 0)
    buffer.put({"kind": "saved", "folder": str(tmp_path), "only": "step5", "step": 5})
    buffer.put({"kind": "save_end"})
    assert buffer.drain() == []


def test_a_save_that_its_framework_has_ended_outlives_its_rank(tmp_path: Path) -> None:
    buffer = FactBuffer(a_contract(storage=str(tmp_path / "volume")), 0)
    (tmp_path / "work" / "tag").mkdir(parents=True)
    (tmp_path / "work" / "tag" / "zero_pp_rank_0_x.pt").touch()
    fact = {"folder": str(tmp_path / "work"), "only": "tag", "tag": "tag", "step": 5}
    more = {"zero_stage": 3, "source": ".", "within": "Accelerator.save_state"}
    buffer.put({"kind": "saved", **fact, **more})
    buffer.put({"kind": "save_whole"})
    buffer.keeper.note_closed(has_failed=True)
    assert [fact["kind"] for fact in buffer.drain()] == ["closed"]
