"""Rules that FineWeb adds to those of Gopher and C4.

Penedo et al. 2024, "The FineWeb Datasets", arXiv 2406.17557, section 3.6.
"""

from dataclasses import dataclass
from typing import Literal

from tokenmill.data.document import Document
from tokenmill.data.filters.base import Filter
from tokenmill.data.filters.gopher_repetition import count_duplicates
from tokenmill.data.word_rules import SENTENCE_ENDS
from tokenmill.data.words import words_of


@dataclass(frozen=True, kw_only=True)
class FineWebQualityConfig:
    """Settings of the FineWeb filter; ratios from 0 to 1."""

    kind: Literal["fineweb_quality"] = "fineweb_quality"
    """Names the block."""
    min_punctuated_line_ratio: float = 0.12
    """Smallest share of lines that end in a mark of ``stop_characters``."""
    stop_characters: tuple[str, ...] = ()
    """What a line may end in; empty: Unicode's sentence terminals."""
    max_short_line_ratio: float = 0.67
    """Largest share of short lines."""
    short_line_length: int = 30
    """Longest short line, in characters."""
    max_duplicate_characters: float = 0.01
    """Largest share of characters in lines that repeat an earlier one."""
    max_newline_ratio: float = 0.3
    """Most line ends per word."""


class FineWebQuality(Filter):
    """Drops lists, menus and pages that repeat their lines."""

    def __init__(self, config: FineWebQualityConfig) -> None:
        super().__init__(config.kind)
        self._config = config
        self._stops = config.stop_characters or tuple(sorted(SENTENCE_ENDS))

    def judge(self, document: Document) -> str | None:
        """Apply the rules in order; the first failure is the reason."""
        config, text = self._config, document.text
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            return "empty"
        punctuated = sum(line.endswith(self._stops) for line in lines)
        if punctuated / len(lines) < config.min_punctuated_line_ratio:
            return "too_few_punctuated_lines"
        short = sum(len(line) <= config.short_line_length for line in lines)
        if short / len(lines) > config.max_short_line_ratio:
            return "too_many_short_lines"
        newlines = text.count("\n")
        if count_duplicates(lines)[1] / (len(text) - newlines) > config.max_duplicate_characters:
            return "duplicate_characters"
        return "too_many_newlines" if newlines / len(words_of(document)) > config.max_newline_ratio else None
