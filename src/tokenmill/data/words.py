"""Words of a text, found once and shared by every filter, the statistics and MinHash.

The rules follow spaCy's English tokenizer, to whose words the published thresholds of the quality filters are
calibrated: a chunk between white space loses its prefixes and suffixes (punctuation, quotes, currency,
units), is looked up among the contractions and abbreviations, and is cut at infixes (hyphens, ellipses,
slashes between letters). Not followed yet: emoticons inside other text and a few rare abbreviations; on
English prose and documentation about 2 words in 10,000 differ.

Chunks repeat, so each is analysed once per process; a document is then one lookup per chunk and array
arithmetic. Words are kept as numbers: a hash that can be joined (``hash(ab)`` follows from ``hash(a)`` and
``hash(b)``), a length and flags.
"""

import functools
import re
import unicodedata
from array import array
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.data import word_rules
from tokenmill.data.document import Document
from tokenmill.data.native import compiled

Hashes = npt.NDArray[np.uint64]

SYMBOL, ALPHABETIC, SENTENCE_END, PUNCTUATION = 1, 2, 4, 8
HASH_BASE = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_MOST_CHUNKS = 1 << 18
_SYMBOLS = word_rules.SENTENCE_ENDS.union(
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»",
    (chr(code) for code in (*range(9), 11, 12, *range(13, 32), *range(127, 160))),
)
_BLANKS = dict.fromkeys(map(ord, _SYMBOLS), " ")
_NUMBER = re.compile(r"\d+(?:[.,،٫⎖⎗⎘]\d+)?")


class _Table:
    """Flat tables: the words and normalised words of every chunk, and the facts about every word."""

    def __init__(self) -> None:
        self.starts, self.counts, self.words = array("q"), array("i"), array("q")
        self.normal_starts, self.normal_counts, self.normal_hashes = array("q"), array("i"), array("Q")
        self._known: dict[str, int] = {}
        self.hashes, self.powers = array("Q"), array("Q")
        self.lengths, self.flags = array("i"), array("B")

    def add(self, chunk: str) -> int:
        """Analyse a chunk; its index."""
        words, normal_words = word_rules.split_chunk(chunk), normalise(chunk).split()
        self.starts.append(len(self.words))
        self.counts.append(len(words))
        self.words.extend([self._index(word) for word in words])
        self.normal_starts.append(len(self.normal_hashes))
        self.normal_counts.append(len(normal_words))
        self.normal_hashes.extend([_stable_hash(word) for word in normal_words])
        return len(self.starts) - 1

    def _index(self, word: str) -> int:
        index = self._known.setdefault(word, len(self.hashes))
        if index == len(self.hashes):
            self.hashes.append(word_hash(word))
            self.powers.append(pow(HASH_BASE, len(word), 1 << 64))
            self.lengths.append(len(word))
            self.flags.append(_flags_of(word))
        return index


class Words:
    """The words of a text as arrays over words (W), normalised words (N) and chunks (C)."""

    def __init__(self, table: _Table, chunks: npt.NDArray[np.int64]) -> None:
        self._table, self._chunks = table, chunks

    def __len__(self) -> int:
        return len(self._places)

    @functools.cached_property
    def _places(self) -> npt.NDArray[np.int64]:
        table = self._table
        places = _expand(self._chunks, table.starts, table.counts)
        return np.asarray(_view(table.words, np.int64)[places])

    @functools.cached_property
    def hashes(self) -> Hashes:
        """W: joinable hash of the word's characters."""
        return _view(self._table.hashes, np.uint64)[self._places]

    @functools.cached_property
    def powers(self) -> Hashes:
        """W: HASH_BASE to the power of the word's length, for joining hashes."""
        return _view(self._table.powers, np.uint64)[self._places]

    @functools.cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """W: characters."""
        return _view(self._table.lengths, np.int32)[self._places]

    @functools.cached_property
    def flags(self) -> npt.NDArray[np.uint8]:
        """W: SYMBOL (only symbols), ALPHABETIC (some letter), SENTENCE_END, PUNCTUATION."""
        return _view(self._table.flags, np.uint8)[self._places]

    @property
    def chunk_words(self) -> npt.NDArray[np.int32]:
        """C: number of words."""
        return _view(self._table.counts, np.int32)[self._chunks]

    @property
    def normal_hashes(self) -> Hashes:
        """N: hash of the normalised word; see ``normalise``."""
        places = _expand(self._chunks, self._table.normal_starts, self._table.normal_counts)
        return _view(self._table.normal_hashes, np.uint64)[places]


class Lexicon(dict[str, int]):
    """Analysed chunks: text -> index into flat tables."""

    def __init__(self) -> None:
        super().__init__()
        self._table = _Table()

    def __missing__(self, chunk: str) -> int:
        index = self[chunk] = self._table.add(chunk)
        return index

    def words(self, text: str) -> Words:
        """Words of a text."""
        if len(self) > _MOST_CHUNKS:  # bounds the memory; words found before keep the old table
            self.clear()
            self._table = _Table()
        chunks = text.split()
        return Words(self._table, np.fromiter(map(self.__getitem__, chunks), np.int64, len(chunks)))


def _expand(
    chunks: npt.NDArray[np.int64], all_starts: "array[int]", all_counts: "array[int]"
) -> npt.NDArray[np.int64]:
    """Places of all items of some chunks, in order."""
    counts = _view(all_counts, np.int32)[chunks]
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    starts: npt.NDArray[np.int64] = _view(all_starts, np.int64)[chunks] - ends + counts
    return np.repeat(starts, counts) + np.arange(total)


def _view(values: "array[int]", dtype: Any) -> npt.NDArray[Any]:
    return np.frombuffer(values, dtype) if len(values) else np.empty(0, dtype)


@functools.lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The process's lexicon: a cache that never changes a result."""
    return Lexicon()


def words_of(document: Document) -> Words:
    """Words of a document's text, computed once for all blocks."""
    if document.words is None or document.words[0] is not document.text:
        document.words = (document.text, lexicon().words(document.text))
    words = document.words[1]
    assert isinstance(words, Words)
    return words


def split_words(text: str) -> list[str]:
    """Words of a text as strings.

    >>> split_words("Don't pay $5.50 (or more) for U.S. tea...")
    ['Do', "n't", 'pay', '$', '5.50', '(', 'or', 'more', ')', 'for', 'U.S.', 'tea', '...']
    """
    return [word for chunk in text.split() for word in word_rules.split_chunk(chunk)]


def word_hash(word: str) -> int:
    """Joinable hash: ``hash(a + b) = hash(a) * HASH_BASE ** len(b) + hash(b)`` modulo 2 ** 64."""
    value = 0
    for letter in word:
        value = (value * HASH_BASE + _letter_hash(letter)) & _MASK
    return value


@functools.lru_cache(maxsize=1 << 16)
def _letter_hash(letter: str) -> int:
    return _stable_hash(letter)


def normalise(text: str) -> str:
    """Lower case without diacritics, symbols as blanks, numbers as 0: what MinHash compares.

    >>> normalise("Café-1,024!")
    'cafe 0 '
    """
    text = _NUMBER.sub("0", text.lower()).translate(_BLANKS)
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def _stable_hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _flags_of(word: str) -> int:
    if word.isalpha():
        return ALPHABETIC
    flags = SYMBOL if all(letter in _SYMBOLS for letter in word) else 0
    flags |= ALPHABETIC if any(letter.isalpha() for letter in word) else 0
    flags |= SENTENCE_END if word in word_rules.SENTENCE_ENDS else 0
    return flags | (PUNCTUATION if all(unicodedata.category(letter)[0] == "P" for letter in word) else 0)


@compiled
def sentences_per_line(
    flags: npt.NDArray[np.uint8], line_words: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Sentences in every line.

    A sentence ends at a sentence-ending word; the next one begins at a word that is not punctuation.

    Args:
        flags: W: flags of all words.
        line_words: L: words in each line; they add up to W.
    """
    counts = np.zeros(len(line_words), np.int64)
    place = 0
    for line in range(len(line_words)):
        ended = True
        for flag in flags[place : place + line_words[line]]:
            if ended and not flag & (SENTENCE_END | PUNCTUATION):
                counts[line] += 1
                ended = False
            elif flag & SENTENCE_END:
                ended = True
        if counts[line] == 0 and line_words[line] > 0:
            counts[line] = 1
        place += line_words[line]
    return counts
