"""What the driver does once a training has succeeded."""

from dataclasses import dataclass, field

import pytest

from deepspeed_trainer.contract import Progress
from deepspeed_trainer.driver import raytrain, run
from deepspeed_trainer.rank.export import CannotExport
from tests.pure.deepspeed_trainer.makers import a_contract


@dataclass
class Told:
    """The driver's line to the board."""

    said: list[tuple[str | None, str]] = field(default_factory=list)

    def note_exported(self, path: str | None, problem: str) -> Progress:
        self.said.append((path, problem))
        return Progress(submission_id="a", attempt=1)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        ("run/exports/step-5", ("run/exports/step-5", "")),
        (CannotExport("step-5 holds no shards"), (None, "no export: step-5 holds no shards")),
    ],
)
def test_an_export_is_shown_and_one_that_fails_is_told_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, outcome: str | Exception, told: tuple[str | None, str]
) -> None:
    def export(_contract: object, _path: str) -> str:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(raytrain, "export", export)
    line = Told()
    run._export(a_contract(export="Float32"), line, "run/checkpoints/step-5")  # type: ignore[arg-type]
    assert line.said == [told]
