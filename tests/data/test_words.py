import random

import numpy as np
import pytest

from tokenmill.data import words as module
from tokenmill.data.document import Document
from tokenmill.data.words import (
    ALPHABETIC,
    HASH_BASE,
    PUNCTUATION,
    SENTENCE_END,
    SYMBOL,
    Lexicon,
    normalise,
    sentences_per_line,
    split_words,
    word_hash,
    words_of,
)

TEXT = 'Don\'t panic! "It costs $5.50 (or more)," said U.S. envoys... Zoë—the end.\n\n2024 déjà-vu'


def test_arrays_say_what_the_strings_say() -> None:
    words, strings = Lexicon().words(TEXT), split_words(TEXT)
    assert len(words) == len(strings)
    assert words.lengths.tolist() == list(map(len, strings))
    assert words.hashes.tolist() == [word_hash(word) for word in strings]
    flags = dict(zip(strings, words.flags.tolist(), strict=True))
    assert flags["panic"] == ALPHABETIC
    assert flags["!"] == SYMBOL | SENTENCE_END | PUNCTUATION
    assert flags["$"] == SYMBOL
    assert flags["..."] == SYMBOL | PUNCTUATION
    assert flags['"'] == SYMBOL | PUNCTUATION
    assert flags["2024"] == 0
    assert words.chunk_words.sum() == len(words)
    assert len(words.chunk_words) == len(TEXT.split())


def test_hashes_can_be_joined() -> None:
    for left, right in [("do", "n't"), ("", "a"), ("Zoë", "🎈"), ("ab", "")]:
        joined = (word_hash(left) * pow(HASH_BASE, len(right), 1 << 64) + word_hash(right)) % (1 << 64)
        assert word_hash(left + right) == joined
    assert word_hash("ab") != word_hash("ba")


def test_hashes_are_the_same_in_every_process() -> None:
    assert word_hash("token") == 3350941898094616259
    assert Lexicon().words("Tokens!").normal_hashes.tolist() == [895329032233952773]


def test_normalised_words() -> None:
    assert normalise("The CAFÉ's 1,234.5 naïve—ideas!").split() == [
        "the",
        "cafe",
        "s",
        "0",
        "0",
        "naive",
        "ideas",
    ]
    words = Lexicon().words
    assert words("Hello,   WORLD").normal_hashes.tolist() == words("hello (world)").normal_hashes.tolist()
    assert len(words("--- ... !").normal_hashes) == 0
    assert len(words("").hashes) == 0


def test_words_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    document = Document(id="a", text="One two")
    first = words_of(document)
    assert words_of(document) is first
    document.text = "One two three"
    assert len(words_of(document)) == 3


def test_a_full_lexicon_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CHUNKS", 10)
    lexicon, chance = Lexicon(), random.Random(1)
    early = lexicon.words("to be or not to be")
    for _ in range(30):
        text = " ".join(f"w{chance.randrange(100)}!" for _ in range(20))
        words = lexicon.words(text)
        assert len(lexicon) <= 30
        assert words.hashes.tolist() == [word_hash(word) for word in split_words(text)]
    assert early.hashes.tolist() == [word_hash(word) for word in ["to", "be", "or", "not", "to", "be"]]


@pytest.mark.parametrize(
    ("lines", "counts"),
    [
        (["One. Two! Three?"], [3]),
        (["No end here", "One.", "", "Mr. X came. He went."], [1, 1, 0, 2]),
        (["..."], [1]),
        (['He said "Go." And left.'], [2]),
        (["! ! !"], [1]),
        (["Wait?! What. "], [2]),
    ],
)
def test_sentences(lines: list[str], counts: list[int]) -> None:
    lexicon = Lexicon()
    sizes = np.array([len(lexicon.words(line)) for line in lines], np.int64)
    flags = lexicon.words("\n".join(lines)).flags
    assert sentences_per_line(flags, sizes).tolist() == counts
