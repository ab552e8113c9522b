"""Rules of C4, which drop lines as well as documents.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning", JMLR 21(140), section 2.2; line rules on word
length and policies as in the published code of C4.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenmill.data.document import Document
from tokenmill.data.filters.base import Filter
from tokenmill.data.words import lexicon, sentences_per_line, words_of

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


@dataclass(frozen=True, kw_only=True)
class C4QualityConfig:
    """Settings of the C4 filter."""

    kind: Literal["c4_quality"] = "c4_quality"
    """Names the block."""
    terminal_punctuation: bool = True
    """Drop lines that do not end in a terminal punctuation mark; FineWeb leaves this off."""
    remove_citations: bool = True
    """Remove marks such as [1] and [citation needed]."""
    min_sentences: int = 5
    """Fewest sentences of a document, after its lines are filtered; 0: no limit."""
    min_words_per_line: int = 3
    """Fewest words between white space of a line; 0: no limit."""
    max_word_length: int = 1000
    """Longest word between white space, in characters; 0: no limit."""
    lorem_ipsum: bool = True
    """Drop documents with the printers' filler text."""
    curly_bracket: bool = True
    """Drop documents with a curly bracket."""
    javascript: bool = True
    """Drop lines that speak of JavaScript."""
    policies: bool = True
    """Drop lines that speak of cookies and terms of use."""


class C4Quality(Filter):
    """Removes lines that are not sentences, and documents of which too little is left."""

    def __init__(self, config: C4QualityConfig) -> None:
        super().__init__(config.kind)
        self._config = config

    def judge(self, document: Document) -> str | None:
        """Filter the lines in order; a document rule met on the way ends it."""
        lines = document.text.splitlines()
        chunk_counts = np.array([len(line.split()) for line in lines], np.int64)
        kept: list[str] = []
        origins: list[int] = []
        changed: list[str] = []
        for index, full_line in enumerate(lines):
            line, fault = self._judge_line(full_line.strip(), int(chunk_counts[index]))
            if fault in ("lorem_ipsum", "curly_bracket"):
                return fault
            if fault:
                self.tally.event(f"lines_dropped/{fault}")
            else:
                kept.append(line)
                (origins.append(index) if line == full_line.strip() else changed.append(line))
        if self._config.min_sentences:
            sentences = self._sentences(document, chunk_counts, origins) + _count_sentences(changed)
            if sentences < self._config.min_sentences:
                return "too_few_sentences"
        text = "\n".join(kept).strip()
        if text != document.text:
            document.text = text
        return None if text else "empty"

    def _judge_line(self, line: str, num_chunks: int) -> tuple[str, str]:
        """The line as it is kept, and the word for what is wrong with it."""
        config = self._config
        if (
            config.max_word_length
            and len(line) > config.max_word_length
            and max(map(len, line.split())) > config.max_word_length
        ):
            return line, "long_word"
        if config.remove_citations and "[" in line:
            line = _CITATION.sub("", line)
        if config.terminal_punctuation and (
            not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...")
        ):
            return line, "no_terminal_punctuation"
        if num_chunks < config.min_words_per_line:
            return line, "too_few_words"
        return line, self._judge_content(line)

    def _judge_content(self, line: str) -> str:
        config, lower = self._config, line.lower()
        if config.lorem_ipsum and "lorem ipsum" in lower:
            return "lorem_ipsum"
        if config.javascript and "javascript" in lower:
            return "javascript"
        if config.curly_bracket and "{" in line:
            return "curly_bracket"
        if config.policies and any(policy in lower for policy in _POLICIES):
            return "policy"
        return ""

    @staticmethod
    def _sentences(
        document: Document, chunk_counts: "np.ndarray[tuple[int], np.dtype[np.int64]]", lines: list[int]
    ) -> int:
        """Sentences in some of a document's lines, from the words that all filters share."""
        words = words_of(document)
        ends = np.concatenate([[0], np.cumsum(words.chunk_words, dtype=np.int64)])
        line_ends = ends[np.cumsum(chunk_counts)]
        line_words = np.diff(line_ends, prepend=0)
        return int(sentences_per_line(words.flags, line_words)[lines].sum())


def _count_sentences(lines: list[str]) -> int:
    total = 0
    for line in lines:
        words = lexicon().words(line)
        total += int(sentences_per_line(words.flags, np.array([len(words)], np.int64))[0])
    return total
