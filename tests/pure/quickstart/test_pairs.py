"""The quickstart's pairs are balanced, disjoint and repeatable, on a small WordNet of our own."""

import itertools
from collections import Counter
from pathlib import Path

import pytest

from examples.quickstart.pairs import (
    Sense,
    gloss_reveals,
    read_senses,
    shuffle_labels,
    split_pairs,
)

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"
MANY_NOUNS = [
    f"{first}{second}mer"
    for first, second in itertools.product(["ba", "ce", "di", "fo"], "bdgklnprstvz")
]


class WordNet:
    """Writes index.noun and data.noun, one synset and one word at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data: list[str] = []
        self._index: dict[str, list[str]] = {}
        self._unused: set[str] = set()

    def with_noun(self, *words: str, gloss: str, in_corpus: bool = True) -> "WordNet":
        synset = f"{len(self._data) + 1740:08d}"
        members = " ".join(f"{word} 0" for word in words)
        self._data.append(
            f"{synset} 03 n {len(words):02x} {members} 001 @ 00001740 n 0000 | {gloss}  \n"
        )
        for word in words:
            self._index.setdefault(word.lower(), []).append(synset)
            if not in_corpus:
                self._unused.add(word.lower())
        return self

    def read(self) -> list[Sense]:
        index = [
            f"{word} n {len(synsets)} 2 @ ~ {len(synsets)} {int(word not in self._unused)} "
            f"{' '.join(synsets)}  \n"
            for word, synsets in sorted(self._index.items())
        ]
        (self.folder / "data.noun").write_text(LICENCE + "".join(self._data))
        (self.folder / "index.noun").write_text(LICENCE + "".join(index))
        return read_senses(self.folder)


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    return WordNet(tmp_path)


@pytest.fixture
def senses(wordnet: WordNet) -> list[Sense]:
    for number, word in enumerate(MANY_NOUNS):
        wordnet.with_noun(word, gloss=f"a thing with {number} wheels")
    return wordnet.read()


@pytest.mark.parametrize(
    ("word", "gloss"),
    [
        ("run", "the act of running; traveling on foot at a fast pace"),
        ("happiness", "state of well-being of one who is happy"),
        ("bookcase", "a piece of furniture with shelves for storing books"),
        ("case", "a portable suitcase"),
        ("sheepdog", "a dog that watches sheep"),
        ("dog", "Dogs of one breed"),
    ],
)
def test_a_gloss_with_a_form_of_its_word_reveals_it(word: str, gloss: str) -> None:
    assert gloss_reveals(word, gloss)


@pytest.mark.parametrize(
    ("word", "gloss"),
    [("cathedral", "any large and important church"), ("vest", "a sleeveless garment")],
)
def test_a_gloss_without_its_word_does_not_reveal_it(word: str, gloss: str) -> None:
    assert not gloss_reveals(word, gloss)


def test_the_first_sense_is_read_without_its_examples(wordnet: WordNet) -> None:
    wordnet.with_noun("church", gloss='a place of worship; for prayer; "she went there"')
    wordnet.with_noun("church", gloss="one of the groups of Christians")
    (church,) = wordnet.read()
    assert (church.word, church.gloss) == ("church", "a place of worship; for prayer")
    assert church.synsets == {"00001740", "00001741"}


def test_a_synset_is_used_for_one_word_alone(wordnet: WordNet) -> None:
    wordnet.with_noun("church", "temple", gloss="a place of worship")
    assert [sense.word for sense in wordnet.read()] == ["church"]


@pytest.mark.parametrize(
    "left_out",
    [
        {"words": ("Paris",), "gloss": "the capital of a country"},
        {"words": ("light_year",), "gloss": "a very long way"},
        {"words": ("sheepdog",), "gloss": "a dog that watches sheep"},
        {"words": ("zax",), "gloss": "a tool for roofs", "in_corpus": False},
        {"words": ("ox",), "gloss": "a strong animal"},
    ],
    ids=lambda case: case["words"][0],
)
def test_a_noun_that_cannot_be_asked_about_is_left_out(wordnet: WordNet, left_out: dict) -> None:
    words, options = left_out["words"], {k: v for k, v in left_out.items() if k != "words"}
    wordnet.with_noun(*words, **options).with_noun("vest", gloss="a sleeveless garment")
    assert [sense.word for sense in wordnet.read()] == ["vest"]


def test_half_of_the_pairs_are_true(senses: list[Sense]) -> None:
    split = split_pairs(senses, held_out=12, seed=1)
    for pairs in (split.train, split.held_out):
        assert pairs
        assert 2 * sum(pair.label for pair in pairs) == len(pairs)


def test_a_label_says_whether_the_gloss_is_the_words_own(senses: list[Sense]) -> None:
    own = {sense.word: sense.gloss for sense in senses}
    split = split_pairs(senses, held_out=12, seed=1)
    for pair in [*split.train, *split.held_out]:
        assert pair.label == (own[pair.word] == pair.gloss)


def test_word_or_gloss_alone_say_nothing(senses: list[Sense]) -> None:
    split = split_pairs(senses, held_out=12, seed=1)
    for pairs in (split.train, split.held_out):
        for side in ("word", "gloss"):
            right = Counter(getattr(pair, side) for pair in pairs if pair.label)
            wrong = Counter(getattr(pair, side) for pair in pairs if not pair.label)
            assert right == wrong
            assert set(right.values()) == {1}


def test_no_gloss_reveals_the_word_it_is_put_to() -> None:
    senses = [
        Sense(word, f"like a {MANY_NOUNS[number - 3]}", str(number), frozenset([str(number)]))
        for number, word in enumerate(MANY_NOUNS)
    ]
    split = split_pairs(senses, held_out=12, seed=1)
    pairs = [*split.train, *split.held_out]
    assert pairs
    assert not [pair for pair in pairs if gloss_reveals(pair.word, pair.gloss)]


def test_a_wrong_gloss_defines_no_sense_of_its_word() -> None:
    # Each noun is in the synsets of all nouns, so no gloss is wrong for it.
    synsets = frozenset(map(str, range(len(MANY_NOUNS))))
    senses = [
        Sense(word, f"a thing with {number} wheels", str(number), synsets)
        for number, word in enumerate(MANY_NOUNS)
    ]
    with pytest.raises(ValueError, match="held out"):
        split_pairs(senses, held_out=12, seed=1)


def test_held_out_pairs_share_nothing_with_training(senses: list[Sense]) -> None:
    split = split_pairs(senses, held_out=12, seed=1)
    assert len(split.held_out) == 12
    assert not {pair.word for pair in split.train} & {pair.word for pair in split.held_out}
    assert not {pair.gloss for pair in split.train} & {pair.gloss for pair in split.held_out}


def test_the_seed_decides_all(senses: list[Sense]) -> None:
    assert split_pairs(senses, 12, seed=1) == split_pairs(senses, 12, seed=1)
    assert split_pairs(senses, 12, seed=1) != split_pairs(senses, 12, seed=2)


@pytest.mark.parametrize("held_out", [2 * len(MANY_NOUNS), 13], ids=["too many", "odd"])
def test_pairs_that_cannot_be_held_out_are_refused(senses: list[Sense], held_out: int) -> None:
    with pytest.raises(ValueError, match="hold out fewer"):
        split_pairs(senses, held_out, seed=1)


def test_the_control_keeps_the_balance_and_loses_the_meaning(senses: list[Sense]) -> None:
    pairs = split_pairs(senses, held_out=12, seed=1).train
    control = shuffle_labels(pairs, seed=1)
    kept = sum(before.label == after.label for before, after in zip(pairs, control, strict=True))
    assert sum(pair.label for pair in control) == sum(pair.label for pair in pairs)
    assert 0.25 < kept / len(pairs) < 0.75
