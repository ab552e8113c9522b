"""Repetition rules of Gopher.

Rae et al. 2021, arXiv 2112.11446, table A1. N-grams of words are compared by 64-bit hashes: in a document of
a million words the odds that two different ones count as equal are about one in 40 million.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokenmill.data.document import Document
from tokenmill.data.filters.base import Filter
from tokenmill.data.native import compiled
from tokenmill.data.words import Hashes, words_of

_PARAGRAPHS, _LINES = re.compile(r"\n{2,}"), re.compile(r"\n+")


@dataclass(frozen=True, kw_only=True)
class GopherRepetitionConfig:
    """Settings of the Gopher repetition filter; fractions from 0 to 1."""

    kind: Literal["gopher_repetition"] = "gopher_repetition"
    """Names the block."""
    max_duplicate_lines: float = 0.3
    """Largest fraction of lines that repeat an earlier one."""
    max_duplicate_paragraphs: float = 0.3
    """Largest fraction of paragraphs that repeat an earlier one."""
    max_duplicate_line_characters: float = 0.2
    """Largest fraction of characters in such lines."""
    max_duplicate_paragraph_characters: float = 0.2
    """Largest fraction of characters in such paragraphs."""
    top_ngrams: tuple[tuple[int, float], ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    """(n, largest fraction of characters in the most frequent n-gram)."""
    duplicate_ngrams: tuple[tuple[int, float], ...] = (
        (5, 0.15),
        (6, 0.14),
        (7, 0.13),
        (8, 0.12),
        (9, 0.11),
        (10, 0.10),
    )
    """(n, largest fraction of characters in n-grams that repeat an earlier one)."""


class GopherRepetition(Filter):
    """Drops documents that repeat their paragraphs, lines or n-grams of words."""

    def __init__(self, config: GopherRepetitionConfig) -> None:
        super().__init__(config.kind)
        self._config = config

    def judge(self, document: Document) -> str | None:
        """Apply the rules in order of paragraph, line, top n-gram, duplicate n-gram."""
        if not document.text:
            return "empty"
        return self._by_lines(document.text) or self._by_ngrams(document)

    def _by_lines(self, text: str) -> str | None:
        config = self._config
        paragraphs = _PARAGRAPHS.split(text.strip())
        count, characters = count_duplicates(paragraphs)
        if count / len(paragraphs) > config.max_duplicate_paragraphs:
            return "duplicate_paragraphs"
        if characters / len(text) > config.max_duplicate_paragraph_characters:
            return "duplicate_paragraph_characters"
        lines = _LINES.split(text)
        count, characters = count_duplicates(lines)
        if count / len(lines) > config.max_duplicate_lines:
            return "duplicate_lines"
        return (
            "duplicate_line_characters"
            if characters / len(text) > config.max_duplicate_line_characters
            else None
        )

    def _by_ngrams(self, document: Document) -> str | None:
        words, size = words_of(document), len(document.text)
        for n, most in self._config.top_ngrams:
            if top_ngram_characters(words.hashes, words.lengths, n) / size > most:
                return f"top_{n}_gram"
        for n, most in self._config.duplicate_ngrams:
            if duplicate_ngram_characters(words.hashes, words.powers, words.lengths, n) / size > most:
                return f"duplicate_{n}_grams"
        return None


def count_duplicates(items: list[str]) -> tuple[int, int]:
    """Number of items that repeat an earlier one, and their characters."""
    seen: set[str] = set()
    count = characters = 0
    for item in items:
        if item in seen:
            count += 1
            characters += len(item)
        else:
            seen.add(item)
    return count, characters


@compiled
def top_ngram_characters(hashes: Hashes, lengths: npt.NDArray[np.int32], n: int) -> int:
    """Characters of the most frequent n-gram, words joined by spaces, times its count; the first of equals.

    Args:
        hashes: W: word hashes.
        lengths: W: word lengths in characters.
        n: words of an n-gram.
    """
    num_ngrams = len(hashes) - n + 1
    if num_ngrams <= 0:
        return 0
    slots = 4
    while slots < 2 * num_ngrams:
        slots *= 2
    keys, first = np.zeros(slots, np.uint64), np.full(slots, -1, np.int64)
    counts = np.zeros(slots, np.int64)
    mask = np.uint64(slots - 1)
    for start in range(num_ngrams):
        value = np.uint64(n)
        for place in range(start, start + n):
            value = (value ^ hashes[place]) * np.uint64(0x9FB21C651E98DF25)
            value ^= value >> np.uint64(28)
        slot = value & mask
        while first[slot] >= 0 and keys[slot] != value:
            slot = (slot + np.uint64(1)) & mask
        if first[slot] < 0:
            keys[slot], first[slot] = value, start
        counts[slot] += 1
    best_count, best_first = 0, num_ngrams
    for place in range(slots):
        earlier = counts[place] == best_count and first[place] < best_first
        if counts[place] > best_count or (earlier and counts[place] > 0):
            best_count, best_first = counts[place], first[place]
    characters = n - 1
    for place in range(best_first, best_first + n):
        characters += lengths[place]
    return characters * best_count


@compiled
def duplicate_ngram_characters(hashes: Hashes, powers: Hashes, lengths: npt.NDArray[np.int32], n: int) -> int:
    """Characters, spaces left out, of n-grams that repeat an earlier one; repeats do not overlap.

    Args:
        hashes: W: joinable word hashes; n-grams are equal when their joined characters are.
        powers: W: powers for joining.
        lengths: W: word lengths in characters.
        n: words of an n-gram.
    """
    num_ngrams = len(hashes) - n + 1
    slots = 4
    while slots < 2 * num_ngrams:
        slots *= 2
    keys, used = np.zeros(slots, np.uint64), np.zeros(slots, np.bool_)
    mask = np.uint64(slots - 1)
    characters = start = 0
    while start < num_ngrams:
        value = np.uint64(0)
        for place in range(start, start + n):
            value = value * powers[place] + hashes[place]
        slot = (value ^ (value >> np.uint64(32))) & mask
        while used[slot] and keys[slot] != value:
            slot = (slot + np.uint64(1)) & mask
        if used[slot]:
            for place in range(start, start + n):
                characters += lengths[place]
            start += n
        else:
            keys[slot], used[slot] = value, True
            start += 1
    return characters
