"""Drops documents by their URL, before anything is spent on their text.

Penedo et al. 2023, "The RefinedWeb Dataset for Falcon LLM", arXiv 2306.01116, appendix G.1.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from tokenmill import storage
from tokenmill.data.document import Document
from tokenmill.data.filters.base import Filter
from tokenmill.errors import ConfigError

_WORDS = re.compile(r"[^\w]+|_")


@dataclass(frozen=True, kw_only=True)
class UrlConfig:
    """Settings of the URL filter; all names in lower case."""

    kind: Literal["url"] = "url"
    """Names the block."""
    domains: tuple[str, ...] = ()
    """Banned domains; their subdomains are banned too."""
    domains_path: str = ""
    """File of more banned domains, one per line; lines that begin with # are comments."""
    urls: tuple[str, ...] = ()
    """Banned URLs, without protocol and leading www."""
    hard_words: tuple[str, ...] = ()
    """Words of which one is enough to drop a URL."""
    soft_words: tuple[str, ...] = ()
    """Words of which several together drop a URL."""
    min_soft_words: int = 2
    """How many soft words drop a URL."""
    substrings: tuple[str, ...] = ()
    """Banned parts of URLs, after everything but letters and digits is taken out."""


class Url(Filter):
    """Drops documents from unwanted places."""

    def __init__(self, config: UrlConfig) -> None:
        super().__init__(config.kind)
        if config.min_soft_words < 1:
            raise ConfigError("min_soft_words must be positive", got=str(config.min_soft_words))
        self._config = config
        self._domains = frozenset((*config.domains, *_read_list(config.domains_path)))
        self._urls = frozenset(config.urls)
        self._hard_words, self._soft_words = frozenset(config.hard_words), frozenset(config.soft_words)

    def judge(self, document: Document) -> str | None:
        """Apply the rules in order of domain, URL, hard words, soft words, substrings."""
        url = document.url.lower()
        plain = url.split("://", 1)[-1].removeprefix("www.").rstrip("/")
        if any(domain in self._domains for domain in _domains_of(url)):
            return "domain"
        if plain in self._urls:
            return "url"
        words = _WORDS.split(plain)
        if not self._hard_words.isdisjoint(words):
            return "hard_word"
        if sum(word in self._soft_words for word in words) >= self._config.min_soft_words:
            return "soft_words"
        letters = "".join(words)
        return "substring" if any(part in letters for part in self._config.substrings) else None


def _domains_of(url: str) -> Iterable[str]:
    """The host of a URL and every domain it belongs to, the longest first."""
    try:
        host = urlsplit(url if "://" in url else f"http://{url}").hostname or ""
    except ValueError:  # not a URL by any standard, so it has no domain
        return []
    labels = host.rstrip(".").split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]


def _read_list(path: str) -> list[str]:
    if not path:
        return []
    lines = storage.read_bytes(path).decode("utf-8").splitlines()
    return [line.strip().lower() for line in lines if line.strip() and not line.startswith("#")]
