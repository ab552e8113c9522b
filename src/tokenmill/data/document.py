"""The document, and the one home of the documents format.

A documents file (``.jsonl.zst``, version 1) is zstd in the seekable format::

    skippable frame 0x184D2A50: b"TMDOCS", version (uint16)
    zstd frame: whole lines, at most 1 MiB of them unless one line is longer     (repeated)
    skippable frame 0x184D2A5E: seek table, footer magic 0x8F92EAB1

Every line is a JSON object ``{"id", "text", "url", "metadata"}``. Any zstd tool reads the file; a reader of
ours enters it at any frame, so a file can be cut into pieces.

Seek table: github.com/facebook/zstd, contrib/seekable_format/zstd_seekable_compression_format.md.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

import orjson
import zstandard

from tokenmill.errors import FormatError, VersionError

EXTENSION = ".jsonl.zst"
VERSION = 1
FRAME_BYTES = 1 << 20
_POSITION_BITS = 40
_SKIPPABLE = struct.Struct("<II")
_HEADER = struct.Struct("<6sH")
_HEADER_MAGIC, _TABLE_MAGIC, _FOOTER_MAGIC = 0x184D2A50, 0x184D2A5E, 0x8F92EAB1
_ENTRY, _FOOTER = struct.Struct("<II"), struct.Struct("<IBI")
_NAME = b"TMDOCS"


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> object:
        """Take all the bytes."""


@dataclass(slots=True)
class Document:
    """A text and what is known about it."""

    id: str
    """Name that the source gives it."""
    text: str
    """The text; HTML until it is extracted."""
    url: str = ""
    """Where the text comes from; empty if unknown."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Plain JSON values under names."""
    file_index: int = 0
    """Place of its file in the job's input. Not stored."""
    position: int = 0
    """Place in its file: byte offset in the raw text, or of the stored WARC record. Not stored."""
    words: tuple[str, object] | None = None
    """A text and its words, kept by ``words_of``. Not stored."""

    @property
    def key(self) -> int:
        """Number unique within the input, whatever the shards."""
        assert self.position < 1 << _POSITION_BITS
        return self.file_index << _POSITION_BITS | self.position


def first_key(file_index: int) -> int:
    """Smallest document key of a file."""
    return file_index << _POSITION_BITS


def to_line(document: Document) -> bytes:
    """A document as one line of JSON."""
    value = {
        "id": document.id,
        "text": document.text,
        "url": document.url,
        "metadata": document.metadata,
    }
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS)


class DocumentWriter:
    """Writes a documents file; call ``close`` at the end, which leaves the sink open.

    Args:
        sink: where the bytes go.
        level: zstd level.
    """

    def __init__(self, sink: Sink, *, level: int = 3) -> None:
        self._sink = sink
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._lines: list[bytes] = []
        self._pending_bytes = 0
        self._entries: list[tuple[int, int]] = []
        header = _HEADER.pack(_NAME, VERSION)
        self._put(_SKIPPABLE.pack(_HEADER_MAGIC, len(header)) + header, 0)

    def write(self, document: Document) -> None:
        """Add a document."""
        line = to_line(document)
        if self._pending_bytes + len(line) > FRAME_BYTES:
            self._flush()
        self._lines.append(line)
        self._pending_bytes += len(line)

    def close(self) -> None:
        """Write the last frame and the seek table."""
        self._flush()
        entries = b"".join(_ENTRY.pack(*entry) for entry in self._entries)
        table = entries + _FOOTER.pack(len(self._entries), 0, _FOOTER_MAGIC)
        self._sink.write(_SKIPPABLE.pack(_TABLE_MAGIC, len(table)) + table)

    def _flush(self) -> None:
        if self._lines:
            self._put(self._compressor.compress(b"".join(self._lines)), self._pending_bytes)
        self._lines, self._pending_bytes = [], 0

    def _put(self, frame: bytes, raw_bytes: int) -> None:
        self._sink.write(frame)
        self._entries.append((len(frame), raw_bytes))


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Place of a frame in a documents file."""

    start: int
    """First byte in the file."""
    num_bytes: int
    """Bytes in the file."""
    position: int
    """First byte in the raw text."""
    raw_bytes: int
    """Bytes of raw text."""


def read_frames(file: BinaryIO) -> list[Frame] | None:
    """Frames that hold lines, from the seek table; None if the file has no seek table.

    Raises:
        VersionError: the file is of a newer version than this reader.
        FormatError: the file begins as a documents file and its seek table is missing or wrong.
    """
    is_ours = _check_header(file)
    size = file.seek(0, 2)
    table = _read_table(file, size)
    if table is None:
        if is_ours:
            raise FormatError("a documents file has no seek table: it was cut off", where=_name_of(file))
        return None
    entries, table_start = table
    frames, start, position = [], 0, 0
    for num_bytes, raw_bytes in entries:
        if raw_bytes:
            frames.append(Frame(start=start, num_bytes=num_bytes, position=position, raw_bytes=raw_bytes))
        start, position = start + num_bytes, position + raw_bytes
    if start != table_start:
        raise FormatError(
            "the seek table does not fit the file",
            where=_name_of(file),
            expected=f"{start} bytes of frames",
            got=f"{table_start} bytes",
        )
    return frames


def read_lines(file: BinaryIO, frame: Frame) -> Iterator[tuple[int, bytes]]:
    """Lines of a frame with their byte offsets in the raw text.

    Raises:
        FormatError: the frame does not decompress to what the seek table says.
    """
    file.seek(frame.start)
    try:
        raw = zstandard.ZstdDecompressor().decompress(
            file.read(frame.num_bytes), max_output_size=frame.raw_bytes
        )
    except zstandard.ZstdError as error:
        raise FormatError(
            "a frame does not decompress", where=f"{_name_of(file)} at byte {frame.start}", got=str(error)
        ) from error
    if len(raw) != frame.raw_bytes:
        raise FormatError(
            "a frame is not as long as the seek table says",
            where=f"{_name_of(file)} at byte {frame.start}",
            expected=str(frame.raw_bytes),
            got=str(len(raw)),
        )
    position = frame.position
    for line in io.BytesIO(raw):  # bytes.splitlines would also cut at a carriage return
        yield position, line
        position += len(line)


def _check_header(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(_SKIPPABLE.size + _HEADER.size)
    if head[: _SKIPPABLE.size] != _SKIPPABLE.pack(_HEADER_MAGIC, _HEADER.size):
        return False
    name, version = _HEADER.unpack_from(head.ljust(_SKIPPABLE.size + _HEADER.size), _SKIPPABLE.size)
    if name != _NAME:
        return False
    if version > VERSION:
        raise VersionError(
            "a documents file of a newer version",
            where=_name_of(file),
            expected=f"at most {VERSION}",
            got=str(version),
            fix="update tokenmill",
        )
    return True


def _read_table(file: BinaryIO, size: int) -> tuple[list[tuple[int, int]], int] | None:
    """Compressed and raw bytes of every frame, and the byte where the seek table begins."""
    if size < _FOOTER.size + _SKIPPABLE.size:
        return None
    file.seek(size - _FOOTER.size)
    count, descriptor, magic = _FOOTER.unpack(file.read(_FOOTER.size))
    if magic != _FOOTER_MAGIC:
        return None
    entry_bytes = _ENTRY.size + (4 if descriptor & 0x80 else 0)  # other writers may add a checksum
    start = size - _FOOTER.size - count * entry_bytes
    if start < _SKIPPABLE.size:
        raise FormatError("the seek table does not fit the file", where=_name_of(file), got=f"{count} frames")
    file.seek(start)
    data = file.read(count * entry_bytes)
    entries = [_ENTRY.unpack_from(data, index * entry_bytes) for index in range(count)]
    return entries, start - _SKIPPABLE.size


def _name_of(file: BinaryIO) -> str:
    return str(getattr(file, "name", "") or getattr(file, "path", "") or "a stream")
