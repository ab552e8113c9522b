"""Readers: pieces of stored files in, documents out.

A piece holds the records that begin in its bytes, so all pieces of a file give each record once:

    *.jsonl.zst   frames of the documents format; other zstd files whole, by the piece that begins at 0
    *.jsonl       lines
    *.jsonl.gz    whole, by the piece that begins at 0
    *.warc.gz     gzip members; see ``tokenmill.data.warc``
    *.warc        records
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import orjson
import zstandard

from tokenmill import storage
from tokenmill.data.document import Document, read_frames, read_lines
from tokenmill.data.warc import Account, read_warc
from tokenmill.errors import FormatError, InputError
from tokenmill.executors.job import Piece

_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".ndjson")
_WARC = (".warc", ".warc.gz")


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How input files become documents."""

    input: str = ""
    """Name of the job's input to read; may be empty if there is one."""
    format: Literal["auto", "jsonl", "warc"] = "auto"
    """auto: by the name of each file."""
    text_key: str = "text"
    """Key of the text in JSON lines."""
    id_key: str = "id"
    """Key of the identity in JSON lines; a line without it is named for its file and place."""
    url_key: str = "url"
    """Key of the URL in JSON lines."""
    max_page_bytes: int = 8_000_000
    """Largest HTML page of a WARC record, in bytes."""


def read_documents(
    pieces: Iterable[Piece], config: ReaderConfig | None = None, account: Account | None = None
) -> Iterator[Document]:
    """Documents of pieces, in order.

    Args:
        pieces: what to read.
        config: how.
        account: takes counts of documents, of records that are not wanted, and of broken ones.

    Raises:
        InputError: a file is missing, or of a format that its name does not tell.
        VersionError: a documents file is of a newer version.
    """
    config, account = config or ReaderConfig(), account or Account()
    for piece in pieces:
        kind = config.format if config.format != "auto" else _format_of(piece.url)
        with storage.open_input(piece.url) as file:
            if kind == "warc":
                yield from read_warc(file, piece, account, max_bytes=config.max_page_bytes)
            else:
                yield from _read_jsonl(file, piece, config, account)


def _format_of(url: str) -> str:
    name = url.lower()
    if name.endswith(_JSONL):
        return "jsonl"
    if name.endswith(_WARC):
        return "warc"
    raise InputError(
        "a file whose name does not tell its format",
        where=url,
        expected=" ".join((*_JSONL, *_WARC)),
        fix="rename the file, or set reader.format",
    )


def _read_jsonl(file: BinaryIO, piece: Piece, config: ReaderConfig, account: Account) -> Iterator[Document]:
    for position, line in _lines(file, piece, account):
        if not line.strip():
            continue
        document = _parse(line, piece, position, config, account)
        if document is not None:
            account.documents += 1
            yield document


def _parse(
    line: bytes, piece: Piece, position: int, config: ReaderConfig, account: Account
) -> Document | None:
    where = f"{piece.url} at text byte {position}"
    try:
        value: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        account.fault("json", where, str(error))
        return None
    text = value.pop(config.text_key, None) if isinstance(value, dict) else None
    if not isinstance(text, str):
        account.fault("no_text", where, f"no string under {config.text_key!r}")
        return None
    identity, url = value.pop(config.id_key, None), value.pop(config.url_key, None)
    metadata = value.pop("metadata", None)
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    return Document(
        id=str(identity) if identity is not None else f"{piece.name}/{position}",
        text=text,
        url=str(url) if url is not None else "",
        metadata={**value, **metadata},
        file_index=piece.file_index,
        position=position,
    )


def _lines(file: BinaryIO, piece: Piece, account: Account) -> Iterator[tuple[int, bytes]]:
    name = piece.url.lower()
    if name.endswith(".zst"):
        yield from _zstd_lines(file, piece, account)
    elif not name.endswith(".gz"):
        yield from _plain_lines(file, piece)
    elif piece.start == 0:
        stream = gzip.GzipFile(fileobj=file)
        yield from _stream_lines(iter(lambda: stream.read(1 << 20), b""), piece, account)


def _plain_lines(file: BinaryIO, piece: Piece) -> Iterator[tuple[int, bytes]]:
    position = piece.start
    if position:
        file.seek(position - 1)
        position += len(file.readline()) - 1  # ends the line that begins before the piece
    while position < piece.end and (line := file.readline()):
        yield position, line
        position += len(line)


def _zstd_lines(file: BinaryIO, piece: Piece, account: Account) -> Iterator[tuple[int, bytes]]:
    try:
        frames = read_frames(file)
    except FormatError as error:
        if piece.start == 0:
            account.fault("cut_off", piece.url, error.what)
        return
    if frames is None:
        if piece.start == 0:
            file.seek(0)
            yield from _stream_lines(_zstd_blocks(file), piece, account)
        return
    for frame in frames:
        if piece.start <= frame.start < piece.end:
            try:
                yield from read_lines(file, frame)
            except FormatError as error:
                account.fault("damaged", piece.url, str(error))


def _zstd_blocks(file: BinaryIO) -> Iterator[bytes]:
    """Text of consecutive zstd frames.

    Raises:
        EOFError: the file ends within a frame.
        zstandard.ZstdError: a frame is damaged.
    """
    decoder, pending = zstandard.ZstdDecompressor().decompressobj(), b""
    is_inside = False
    while pending or (pending := file.read(1 << 18)):
        is_inside = True
        yield decoder.decompress(pending)
        pending = b""
        if decoder.eof:
            pending, is_inside = decoder.unused_data, False
            decoder = zstandard.ZstdDecompressor().decompressobj()
    if is_inside:
        raise EOFError("the file ends within a frame")


def _stream_lines(blocks: Iterator[bytes], piece: Piece, account: Account) -> Iterator[tuple[int, bytes]]:
    """Lines of a stream that cannot be entered in the middle; what follows damage is lost."""
    position, rest = 0, b""
    try:
        for block in blocks:
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield position, line
                position += len(line) + 1
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        account.fault("damaged", f"{piece.url} after text byte {position}", str(error))
        return
    if rest:
        yield position, rest
