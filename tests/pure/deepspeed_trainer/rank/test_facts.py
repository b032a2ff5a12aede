"""Figures are replaced, everything else keeps its order, and only saves on the storage count."""

from pathlib import Path
from typing import Any

from deepspeed_trainer.rank.facts import FactBuffer


def a_buffer(storage: Path | None, given_up: list[str] | None = None) -> FactBuffer:
    folders: list[str] = given_up if given_up is not None else []
    return FactBuffer(0, str(storage) if storage else None, folders.append)


def drain_until(buffer: FactBuffer, kind: str) -> list[Any]:
    buffer._hasher.shutdown(wait=True)
    facts = buffer.drain()
    assert any(fact["kind"] == kind for fact in facts), facts
    return facts


def a_save(folder: Path) -> dict[str, Any]:
    fact = {"kind": "saved", "folder": str(folder), "tag": folder.name, "step": 5}
    return {**fact, "zero_stage": 3}


def test_the_newest_figures_replace_older_ones_but_a_first_step_stays() -> None:
    buffer = a_buffer(None)
    buffer.put({"kind": "step", "done": 1, "begun": 1, "first": 1, "loss": "2"})
    buffer.put({"kind": "step", "done": 2, "begun": 2})
    assert buffer.drain() == [
        {"kind": "step", "done": 2, "begun": 2, "first": 1, "loss": "2"},
    ]
    assert buffer.drain() == []


def test_metrics_are_merged_by_name() -> None:
    buffer = a_buffer(None)
    buffer.put({"kind": "metrics", "values": {"a": "1", "b": "1"}})
    buffer.put({"kind": "metrics", "values": {"a": "2"}})
    assert buffer.drain() == [{"kind": "metrics", "values": {"a": "2", "b": "1"}}]


def test_a_save_on_the_storage_is_hashed(tmp_path: Path) -> None:
    folder = tmp_path / "step5"
    folder.mkdir()
    (folder / "a.pt").write_text("x")
    buffer = a_buffer(tmp_path)
    buffer.put(a_save(folder))
    facts = drain_until(buffer, "hashed")
    assert [fact["kind"] for fact in facts] == ["saved", "hashed"]
    assert facts[1]["files"][0]["path"] == "a.pt"
    assert facts[1]["number"] == 1


def test_a_save_elsewhere_is_the_programs_own_business(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    buffer = a_buffer(tmp_path / "storage")
    buffer.put(a_save(tmp_path / "elsewhere"))
    assert buffer.drain() == []


def test_a_save_that_vanished_is_told(tmp_path: Path) -> None:
    buffer = a_buffer(tmp_path)
    buffer.put(a_save(tmp_path / "step5"))
    facts = drain_until(buffer, "hash_failed")
    assert "is gone" in facts[1]["message"]


def test_the_board_knows_before_a_folder_is_saved_to_again(tmp_path: Path) -> None:
    given_up: list[str] = []
    buffer = a_buffer(tmp_path, given_up)
    buffer.put({"kind": "saving", "folder": "/s/step5"})
    assert given_up == ["/s/step5"]
    assert buffer.drain() == []
