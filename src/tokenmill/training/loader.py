"""Batches as pure functions of the global sample index.

    shards end to end ──► windows of seq_len + 1 ids ──► mixture picks ──► inputs and labels

Windows overlap by one id, so that every id but the first is a label exactly once an epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenmill.errors import InputError
from tokenmill.kernels.cross_entropy import IGNORED
from tokenmill.tokens.mixture import Mixture
from tokenmill.tokens.shards import TokenShard


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences to learn from."""

    inputs: Tensor
    """[B, S] int64 ids."""
    labels: Tensor
    """[B, S] int64: the next ids, ``IGNORED`` where they do not count."""

    @property
    def num_valid(self) -> int:
        """Labels that count."""
        return int((self.labels != IGNORED).sum())


class TokenStream:
    """Shards end to end, cut into windows.

    Args:
        shards: the shards, in order.
        seq_len: inputs per window.
        mask_document_starts: do not count the first id of a document as a label: nothing before it hints at
            it.
    """

    def __init__(
        self, shards: Sequence[TokenShard], *, seq_len: int, mask_document_starts: bool = False
    ) -> None:
        self._shards, self._seq_len, self._mask = list(shards), seq_len, mask_document_starts
        self._starts = np.cumsum([0, *(shard.num_tokens for shard in self._shards)])

    @property
    def num_tokens(self) -> int:
        """Ids in all shards."""
        return int(self._starts[-1])

    def __len__(self) -> int:
        """Number of windows."""
        return max(0, self.num_tokens - 1) // self._seq_len

    def window(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and labels, each [S] int64, of one window."""
        assert 0 <= index < len(self)
        first = index * self._seq_len
        ids = self._read(first, first + self._seq_len + 1)
        labels = ids[1:].copy()
        if self._mask:
            labels[self._document_starts(first + 1, first + self._seq_len + 1) - first - 1] = IGNORED
        return ids[:-1], labels

    def _parts(self, start: int, end: int) -> list[tuple[TokenShard, int, int]]:
        """Shards that hold the ids [start, end), with the range within each and its first position."""
        parts = []
        shard_index = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < end:
            base, limit = int(self._starts[shard_index]), int(self._starts[shard_index + 1])
            stop = min(end, limit)
            if stop > start:
                parts.append((self._shards[shard_index], start - base, stop - base))
            start, shard_index = max(start, stop), shard_index + 1
        return parts

    def _read(self, start: int, end: int) -> NDArray[Any]:
        parts = [shard.ids[low:high] for shard, low, high in self._parts(start, end)]
        return np.concatenate(parts).astype(np.int64)

    def _document_starts(self, start: int, end: int) -> NDArray[Any]:
        """Positions in [start, end) at which a document begins."""
        found, position = [], start
        for shard, low, high in self._parts(start, end):
            base = position - low
            inner = shard.ends[np.searchsorted(shard.ends, low) : np.searchsorted(shard.ends, high)]
            starts = inner.astype(np.int64) if low else np.concatenate([[0], inner]).astype(np.int64)
            found.append(starts + base)
            position += high - low
        return np.concatenate(found)


class Loader:
    """Batches from a mixture of streams.

    Args:
        streams: name -> stream, all of one seq_len.
        weights: name -> share of the samples.
        seed: seed of the run.

    Raises:
        ConfigError: the weights do not fit the streams.
        InputError: a stream is shorter than one window.
    """

    def __init__(
        self, streams: Mapping[str, TokenStream], *, weights: Mapping[str, float], seed: int
    ) -> None:
        self._streams = dict(streams)
        for name, stream in self._streams.items():
            if len(stream) == 0:
                raise InputError(
                    "too few tokens for a single sequence",
                    where=name,
                    expected="seq_len + 1 tokens",
                    got=f"{stream.num_tokens} tokens",
                    fix="give more documents, or a smaller seq_len",
                )
        sizes = {name: len(stream) for name, stream in self._streams.items()}
        self._mixture = Mixture(sizes=sizes, weights=weights, seed=seed)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The samples with some global indices, in that order."""
        places = [self._mixture.locate(index) for index in indices]
        return stack([self._streams[place.source].window(place.position) for place in places])


def stack(windows: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> Batch:
    """A batch of windows."""
    inputs, labels = zip(*windows, strict=True)
    return Batch(inputs=torch.from_numpy(np.stack(inputs)), labels=torch.from_numpy(np.stack(labels)))
