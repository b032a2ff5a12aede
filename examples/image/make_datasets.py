"""Write the quickstart's pairs of text as the two splits that the examples load.

`make_datasets.py FOLDER` makes train.jsonl and validation.jsonl with the columns of sentence pair
tasks: sentence1, sentence2 and label.
"""

import json
import sys
from pathlib import Path

from pairs import Pair, read_senses, split_pairs

TRAIN, VALIDATION = 384, 256


def write(path: Path, pairs: list[Pair]) -> None:
    rows = ({"sentence1": p.word, "sentence2": p.gloss, "label": p.label} for p in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    split = split_pairs(read_senses(Path("wordnet")), VALIDATION, seed=0)
    write(folder / "train.jsonl", split.train[:TRAIN])
    write(folder / "validation.jsonl", split.held_out)


if __name__ == "__main__":
    main()
