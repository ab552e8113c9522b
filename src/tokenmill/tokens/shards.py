"""Token shards: ids of many documents in one file, read through a memory map.

Version 1, little endian:

    0    magic           8 bytes   TMTOKENS
    8    version         uint32    1
    12   id_bytes        uint32    2 if vocab_size ≤ 65536, else 4
    16   num_documents   uint64
    24   num_tokens      uint64
    32   vocab_size      uint64
    40   tokenizer       32 bytes  SHA-256 of the tokenizer.json
    72   zeros           56 bytes
    128  ids             num_tokens · id_bytes, then zeros up to a multiple of 8
    …    ends            num_documents · uint64: one past the last id of each document

Every document ends with the tokenizer's end token.
"""

import struct
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tokenmill import storage
from tokenmill.errors import ConfigError, FormatError, InputError, VersionError

FORMAT_VERSION = 1

_MAGIC = b"TMTOKENS"
_HEADER = struct.Struct("<8sIIQQQ32s56x")
_SMALL_VOCAB = 1 << 16


class Sink(Protocol):
    """Anything that takes bytes."""

    def write(self, data: Any, /) -> int:
        """Append bytes."""


class ShardWriter:
    """Collects documents and writes them as one shard.

    The header stands first and counts the documents, so a shard is held in memory until ``write``.

    Args:
        vocab_size: number of token ids.
        tokenizer_sha256: identity of the tokenizer, in hexadecimal.
        end_id: id that ends each document.

    Attributes:
        num_tokens: ids added so far, end tokens included.
        num_documents: documents added so far.
    """

    def __init__(self, *, vocab_size: int, tokenizer_sha256: str, end_id: int) -> None:
        self._vocab_size, self._end_id = vocab_size, end_id
        self._sha256 = bytes.fromhex(tokenizer_sha256)
        self._dtype = np.dtype("<u2" if vocab_size <= _SMALL_VOCAB else "<u4")
        self._documents: list[NDArray[Any]] = []
        self._ends: list[int] = []
        self.num_tokens = 0

    @property
    def num_documents(self) -> int:
        """Documents added so far."""
        return len(self._ends)

    def add(self, ids: Sequence[int]) -> None:
        """Add a document, without its end token.

        Raises:
            FormatError: an id is not in the vocabulary.
        """
        values = np.array([*ids, self._end_id], dtype=np.int64)
        if values.min() < 0 or values.max() >= self._vocab_size:
            raise FormatError(
                "a token id outside the vocabulary",
                where=f"document {self.num_documents}",
                expected=f"0 … {self._vocab_size - 1}",
                got=f"{values.min()} … {values.max()}",
            )
        self._documents.append(values.astype(self._dtype))
        self.num_tokens += len(values)
        self._ends.append(self.num_tokens)

    def write(self, file: Sink) -> None:
        """Write the shard."""
        id_bytes = self._dtype.itemsize
        counts = (self.num_documents, self.num_tokens, self._vocab_size)
        file.write(_HEADER.pack(_MAGIC, FORMAT_VERSION, id_bytes, *counts, self._sha256))
        for document in self._documents:
            file.write(document.tobytes())
        file.write(bytes(-self.num_tokens * id_bytes % 8))
        file.write(np.array(self._ends, dtype="<u8").tobytes())


class TokenShard:
    """A shard opened for reading.

    Args:
        url: where it lies; a local file is mapped, not read.

    Raises:
        InputError: no such file.
        FormatError: the file is no token shard, or is cut.
        VersionError: it is of another version.

    Attributes:
        ids: [num_tokens] uint16 or uint32, read-only.
        ends: [num_documents] uint64, one past the last id of each document.
        vocab_size: number of token ids.
        tokenizer_sha256: identity of the tokenizer, in hexadecimal.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        stored = _map(url)
        if len(stored) < _HEADER.size or bytes(stored[:8]) != _MAGIC:
            raise FormatError(
                "this is no token shard", where=url, expected=str(_MAGIC), got=str(bytes(stored[:8]))
            )
        _, version, id_bytes, num_documents, num_tokens, vocab_size, sha256 = _HEADER.unpack(
            bytes(stored[: _HEADER.size])
        )
        if version != FORMAT_VERSION:
            raise VersionError(
                "token shard of another version", where=url, expected=str(FORMAT_VERSION), got=str(version)
            )
        ids_end = _HEADER.size + num_tokens * id_bytes
        ends_start = ids_end + -ids_end % 8
        expected = ends_start + 8 * num_documents
        if id_bytes not in (2, 4) or len(stored) != expected:
            raise FormatError(
                "a token shard is cut or damaged",
                where=url,
                expected=f"{expected} bytes",
                got=f"{len(stored)} bytes",
                fix="make it again",
            )
        self.ids: NDArray[Any] = stored[_HEADER.size : ids_end].view(f"<u{id_bytes}")
        self.ends: NDArray[Any] = stored[ends_start:].view("<u8")
        self.vocab_size, self.tokenizer_sha256 = int(vocab_size), sha256.hex()

    @property
    def num_tokens(self) -> int:
        """Ids in the shard, end tokens included."""
        return len(self.ids)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.ends)

    def document(self, index: int) -> NDArray[Any]:
        """Ids of one document, its end token last."""
        start = int(self.ends[index - 1]) if index else 0
        return self.ids[start : int(self.ends[index])]


def _map(url: str) -> NDArray[np.uint8]:
    if not storage.is_local(url):
        return np.frombuffer(storage.read_bytes(url), dtype=np.uint8)
    path = storage.local_path(url)
    try:
        if path.stat().st_size == 0:
            return np.zeros(0, dtype=np.uint8)  # an empty file cannot be mapped
        return np.memmap(path, dtype=np.uint8, mode="r")
    except FileNotFoundError as error:
        raise InputError("file not found", where=url) from error


def open_shards(urls: Sequence[str], *, vocab_size: int = 0, tokenizer_sha256: str = "") -> list[TokenShard]:
    """Open shards that belong together.

    Args:
        urls: the files, in order.
        vocab_size: number of ids that their reader knows; 0: whatever they hold.
        tokenizer_sha256: identity of the reader's tokenizer; empty: whatever they hold.

    Raises:
        ConfigError: the shards were made by another tokenizer than the reader's, or by different ones.
        InputError: a file is missing.
        FormatError: a file is damaged.
        VersionError: a file is of another version.
    """
    shards = [TokenShard(url) for url in urls]
    for shard in shards:
        want_size = vocab_size or shards[0].vocab_size
        want_sha256 = tokenizer_sha256 or shards[0].tokenizer_sha256
        if (shard.vocab_size, shard.tokenizer_sha256) != (want_size, want_sha256):
            raise ConfigError(
                "token shards of another tokenizer",
                where=shard.url,
                expected=f"vocab_size {want_size}, tokenizer {want_sha256[:12]}",
                got=f"vocab_size {shard.vocab_size}, tokenizer {shard.tokenizer_sha256[:12]}",
                fix="tokenize the documents with the model's tokenizer, or set the model's vocab_size to 0",
            )
    return shards
