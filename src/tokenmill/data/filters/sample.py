"""Keeps a share of the documents, chosen by a hash of their identity."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from tokenmill.data.document import Document
from tokenmill.data.filters.base import Filter
from tokenmill.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Settings of the sample."""

    kind: Literal["sample"] = "sample"
    """Names the block."""
    share: float
    """Share of the documents to keep, from 0 to 1."""
    seed: int = 0
    """Another seed gives another sample; a larger share holds every smaller one of the same seed."""


class Sample(Filter):
    """Keeps the same documents whatever the order and the shards."""

    def __init__(self, config: SampleConfig) -> None:
        super().__init__(config.kind)
        if not 0 <= config.share <= 1:
            raise ConfigError("the share of a sample lies between 0 and 1", got=str(config.share))
        self._limit = int(config.share * (1 << 64))
        self._prefix = f"{config.seed}/"

    def judge(self, document: Document) -> str | None:
        """Keep if the hash is small."""
        name = (self._prefix + document.id).encode("utf-8", "surrogatepass")
        value = int.from_bytes(blake2b(name, digest_size=8).digest(), "little")
        return None if value < self._limit else "not_sampled"
