"""Quality rules of Gopher.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
arXiv 2112.11446, appendix A1.1.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenmill.data.document import Document
from tokenmill.data.filters.base import Filter
from tokenmill.data.words import ALPHABETIC, SYMBOL, Words, word_hash, words_of


@dataclass(frozen=True, kw_only=True)
class GopherQualityConfig:
    """Settings of the Gopher quality filter; ratios from 0 to 1."""

    kind: Literal["gopher_quality"] = "gopher_quality"
    """Names the block."""
    min_words: int = 50
    """Fewest words that are not symbols."""
    max_words: int = 100_000
    """Most words that are not symbols."""
    min_mean_word_length: float = 3
    """Smallest mean length of words that are not symbols, in characters."""
    max_mean_word_length: float = 10
    """Largest mean length of words that are not symbols, in characters."""
    max_symbol_ratio: float = 0.1
    """Most hash signs, and most ellipses, per word."""
    max_bullet_line_ratio: float = 0.9
    """Largest share of lines that begin with a bullet."""
    max_ellipsis_line_ratio: float = 0.3
    """Largest share of lines that end in an ellipsis."""
    min_alphabetic_ratio: float = 0.8
    """Smallest share of words that hold a letter."""
    min_stop_words: int = 2
    """Fewest distinct stop words."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Stop words; case matters."""


class GopherQuality(Filter):
    """Drops documents whose words and lines are not those of prose."""

    def __init__(self, config: GopherQualityConfig) -> None:
        super().__init__(config.kind)
        self._config = config
        self._stop_hashes = np.array([word_hash(word) for word in config.stop_words], np.uint64)

    def judge(self, document: Document) -> str | None:
        """Apply the rules in the paper's order; the first failure is the reason."""
        words = words_of(document)
        return self._by_words(words) or self._by_lines(document.text, len(words)) or self._by_kind(words)

    def _by_words(self, words: Words) -> str | None:
        config = self._config
        spoken = words.lengths[(words.flags & SYMBOL) == 0]
        if len(spoken) < max(config.min_words, 1):
            return "too_few_words"
        if len(spoken) > config.max_words:
            return "too_many_words"
        mean_length = float(spoken.mean())
        if mean_length < config.min_mean_word_length:
            return "words_too_short"
        return "words_too_long" if mean_length > config.max_mean_word_length else None

    def _by_lines(self, text: str, num_words: int) -> str | None:
        config = self._config
        if text.count("#") / num_words > config.max_symbol_ratio:
            return "too_many_hashes"
        if (text.count("...") + text.count("…")) / num_words > config.max_symbol_ratio:
            return "too_many_ellipses"
        lines = text.splitlines()
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
        if bullets / len(lines) > config.max_bullet_line_ratio:
            return "too_many_bullets"
        ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines)
        return "too_many_ellipsis_lines" if ellipses / len(lines) > config.max_ellipsis_line_ratio else None

    def _by_kind(self, words: Words) -> str | None:
        config = self._config
        alphabetic = int(np.count_nonzero(words.flags & ALPHABETIC))
        if alphabetic / len(words) < config.min_alphabetic_ratio:
            return "too_few_alphabetic_words"
        stop_words = int(np.isin(self._stop_hashes, words.hashes).sum())
        return "too_few_stop_words" if stop_words < config.min_stop_words else None
