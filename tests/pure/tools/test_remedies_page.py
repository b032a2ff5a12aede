"""The page says of every cause what the table in the trainer says."""

import re
from pathlib import Path

from deepspeed_trainer.contract import REMEDIES, Cause, Remedy

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "restarts.md").read_text()
ROWS = {
    "the ranks start again": Remedy.RANKS,
    "another attempt": Remedy.ATTEMPT,
    "nothing": Remedy.NONE,
}


def test_every_cause_is_in_the_row_of_its_remedy() -> None:
    said: dict[str, Remedy] = {}
    for line in PAGE.splitlines():
        for start, remedy in ROWS.items():
            if line.startswith(f"| {start}"):
                said |= dict.fromkeys(re.findall(r"`([A-Z]\w+)`", line), remedy)
    assert said == {str(cause): REMEDIES[cause] for cause in Cause}
