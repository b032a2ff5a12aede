"""Word and gloss pairs out of WordNet's files: does this gloss define this word?

The quickstart needs sentence pairs that are real text, balanced, and without a way around the
meaning. So every noun is paired with the gloss of its most frequent sense (label 1) and with the
gloss of another noun (label 0), and every gloss likewise; a gloss that shows its word, or a form
of it, is left out. The same seed gives the same pairs on every rank. Left out: other parts of
speech, rarer senses, expressions of several words, names, and the glosses' examples of use.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")

STEM_LETTERS = 4
"""Words that share this many first letters count as forms of each other: rather too many than
too few, as WordNet has glosses to spare."""


@dataclass(frozen=True, slots=True)
class Sense:
    """The most frequent sense of a word, and all synsets that the word belongs to."""

    word: str
    gloss: str
    synset: str
    synsets: frozenset[str]


@dataclass(frozen=True, slots=True)
class Pair:
    """A word, a gloss, and whether the gloss defines the word (1) or not (0)."""

    word: str
    gloss: str
    label: int


@dataclass(frozen=True, slots=True)
class Split:
    """Pairs to train on and pairs held out; no word, gloss or synset is in both."""

    train: list[Pair]
    held_out: list[Pair]


def gloss_reveals(word: str, gloss: str) -> bool:
    """Whether the gloss has the word, a form of it, or one that contains it or is part of it."""
    return any(
        token[:STEM_LETTERS] == word[:STEM_LETTERS]
        or word in token
        or (len(token) >= STEM_LETTERS and token in word)
        for token in re.findall(r"[a-z]+", gloss.lower())
    )


def read_senses(folder: Path) -> list[Sense]:
    """Read index.noun and data.noun of WordNet: one sense per word, gloss and synset.

    Taken are plain words that WordNet's own corpus uses, and whose gloss does not reveal them.

    Raises: FileNotFoundError if the folder does not hold these files.
    """
    glosses = _read_glosses(folder / "data.noun")
    senses: dict[str, Sense] = {}
    for line in _records(folder / "index.noun"):
        # lemma pos synset_cnt p_cnt [ptr_symbol...] sense_cnt tagsense_cnt synset_offset...
        word, _, synset_count, *rest = line.split()
        synsets = rest[-int(synset_count) :]
        senses_in_corpus = int(rest[-int(synset_count) - 1])
        gloss = glosses.get(synsets[0])
        if gloss is None or not senses_in_corpus or not re.fullmatch(r"[a-z]{3,}", word):
            continue
        if gloss not in senses and not gloss_reveals(word, gloss):
            senses[gloss] = Sense(word, gloss, synsets[0], frozenset(synsets))
    return list(senses.values())


def _read_glosses(path: Path) -> dict[str, str]:
    """The definition by synset; synsets that hold a name are left out."""
    glosses: dict[str, str] = {}
    for line in _records(path):
        # synset_offset lex_filenum ss_type w_cnt word lex_id [word lex_id...] ... | gloss
        fields, _, gloss = line.partition(" | ")
        synset, _, _, word_count_hex, *rest = fields.split()
        words = rest[: 2 * int(word_count_hex, 16) : 2]
        if all(word.islower() for word in words):
            glosses[synset] = gloss.partition('; "')[0].strip()
    return glosses


def _records(path: Path) -> Iterator[str]:
    """The lines of a WordNet file without its licence, whose lines begin with two spaces."""
    with path.open(encoding="ascii") as lines:
        yield from (line for line in lines if not line.startswith("  "))


def split_pairs(senses: Sequence[Sense], held_out: int, seed: int) -> Split:
    """Hold out that many pairs (an even number) and make pairs to train on from the other words.

    Raises: ValueError if the senses do not suffice.
    """
    shuffled = _shuffled(senses, seed)
    kept = _ring(shuffled, held_out // 2)
    kept_words = {sense.word for sense in kept}
    others = [sense for sense in shuffled if sense.word not in kept_words]
    train = _ring(others, len(others))
    if 2 * len(kept) != held_out or not train:
        raise ValueError(
            f"{held_out} pairs cannot be held out of {len(senses)} usable senses with some left "
            "for training: hold out fewer (an even number)"
        )
    return Split(_pair(train, seed), _pair(kept, seed))


def _pair(ring: Sequence[Sense], seed: int) -> list[Pair]:
    """Put each word to its own gloss and to the next word's, and shuffle.

    So every word and every gloss is once right and once wrong: who looks at one of the two alone
    cannot do better than chance.
    """
    true = [Pair(sense.word, sense.gloss, 1) for sense in ring]
    following = [*ring[1:], *ring[:1]]
    wrong = [Pair(sense.word, other.gloss, 0) for sense, other in zip(ring, following, strict=True)]
    return _shuffled(true + wrong, seed)


def _ring(senses: Sequence[Sense], size: int) -> list[Sense]:
    """Up to that many senses, of which each word can be put to the next one's gloss, in a ring.

    A sense that does not fit behind the one before it is left out.
    """
    ring: list[Sense] = []
    for sense in senses:
        follows = not ring or _is_wrong(ring[-1], sense)
        closes = len(ring) + 1 < size or _is_wrong(sense, (ring or [sense])[0])
        if len(ring) < size and follows and closes:
            ring.append(sense)
    while ring and not _is_wrong(ring[-1], ring[0]):
        ring.pop()
    return ring


def _is_wrong(sense: Sense, other: Sense) -> bool:
    """Whether the other's gloss defines no sense of the word, and does not show it."""
    return other.synset not in sense.synsets and not gloss_reveals(sense.word, other.gloss)


def shuffle_labels(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Give each pair the label of another one: a control from which nothing can be learned."""
    labels = _shuffled([pair.label for pair in pairs], seed)
    return [replace(pair, label=label) for pair, label in zip(pairs, labels, strict=True)]


def _shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)  # noqa: S311  repeatable on purpose
    return shuffled
