"""Pages of web archives: WARC 1.0 and 1.1, plain or with gzip members, read whole or in pieces.

A piece holds the records that begin in its bytes. With gzip a record begins where the member begins that
holds its first byte, so a piece is entered at the first member in it that decompresses to ``WARC/``; a plain
file has no such mark, and every piece walks it from the start. After an error reading goes on at the next
record.

ISO 28500:2017 (WARC 1.1), annex D on record-at-a-time compression.
"""

import bisect
import contextlib
import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from tokenmill.data.document import Document
from tokenmill.data.native import optional
from tokenmill.executors.job import Piece

_MAGIC = b"\x1f\x8b\x08"
_RECORD = b"WARC/"
_PROBE_BYTES, _PROBE_TEXT, _SCAN_BYTES = 4096, 16, 1 << 20
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a]")
HTML_TYPES = ("text/html", "application/xhtml+xml")


@dataclass(kw_only=True)
class Account:
    """What was read, and why the rest was not."""

    documents: int = 0
    """Documents given."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Sound records that are not wanted, by reason."""
    broken: dict[str, int] = field(default_factory=dict)
    """Records and files that cannot be read, by reason."""
    on_broken: Callable[[str, str], None] = lambda where, what: None
    """Told of each broken record: where, and what is wrong."""

    def skip(self, reason: str) -> None:
        """Count a record that is not wanted."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def fault(self, reason: str, where: str, detail: str = "") -> None:
        """Count something that cannot be read."""
        self.broken[reason] = self.broken.get(reason, 0) + 1
        self.on_broken(where, f"{reason} {detail}".strip())


class GzipText:
    """Text of consecutive gzip members, and where in the file those begin that hold the start of a record.

    Args:
        file: the compressed file.
        offset: where a member begins.

    Attributes:
        member: where the member begins that is being read.
        garbage: where something else follows a member; -1 if nothing does.
    """

    def __init__(self, file: BinaryIO, offset: int) -> None:
        file.seek(offset)
        self._file, self._pending, self._offset = file, b"", offset
        self._decoder = zlib.decompressobj(31)
        self._text_bytes = 0
        self.member, self._is_fresh = offset, True
        self._starts, self._offsets = [0], [offset]
        self.garbage = -1

    @property
    def is_cut_off(self) -> bool:
        """True if the file ends within a member."""
        return not self._decoder.eof

    def tell(self) -> int:
        """Bytes of text read so far."""
        return self._text_bytes

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go forward.

        Raises:
            OSError: the target lies behind, or at the end.
        """
        target = offset + (self._text_bytes if whence == io.SEEK_CUR else 0)
        if target < self._text_bytes or whence == io.SEEK_END:
            raise OSError("gzip text is read forward only")
        while self._text_bytes < target and self.read(target - self._text_bytes):
            pass
        return self._text_bytes

    def close(self) -> None:
        """Nothing to do: the file belongs to the caller."""

    def read(self, size: int = -1) -> bytes:
        """Text of the current member, or of the next one when it is at its end; empty at the end of the file.

        Raises:
            zlib.error: the member is damaged.
        """
        while True:
            if self._decoder.eof and not self._next_member():
                return b""
            if not self._pending:
                self._pending = self._file.read(_SCAN_BYTES // 16)
                self._offset += len(self._pending)
                if not self._pending:
                    return b""
            text = self._decoder.decompress(self._pending, max(size, 0))
            self._pending = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
            if text:
                self._note_member(text)
                self._text_bytes += len(text)
                return text

    def _note_member(self, text: bytes) -> None:
        """Remember where a member begins, if a piece could be entered there."""
        if self._is_fresh and self.member > self._offsets[-1]:
            if len(text) < _PROBE_TEXT:
                text = _probe(self._file, self.member)
                self._file.seek(self._offset)
            if _is_record(text):
                self._starts.append(self._text_bytes)
                self._offsets.append(self.member)
        self._is_fresh = False

    def _next_member(self) -> bool:
        while len(self._pending) < len(_MAGIC) and (more := self._file.read(_SCAN_BYTES // 16)):
            self._pending += more
            self._offset += len(more)
        start = self._offset - len(self._pending)
        if not self._pending.startswith(_MAGIC):
            self.garbage = start if self._pending.strip(b"\0") else -1  # zeros are padding
            return False
        self._decoder = zlib.decompressobj(31)
        self.member, self._is_fresh = start, True
        return True

    def member_of(self, position: int) -> int:
        """Where the last such member begins before or at a byte of the text."""
        return self._offsets[bisect.bisect_right(self._starts, position) - 1]


def find_member(file: BinaryIO, start: int) -> int | None:
    """Where the first gzip member at or after a byte begins that holds a WARC record; None if none does."""
    file.seek(start)
    window = b""
    offset = start
    while block := file.read(_SCAN_BYTES):
        window += block
        place = window.find(_MAGIC)
        while place >= 0:
            if _is_record(_probe(file, offset + place)):
                return offset + place
            place = window.find(_MAGIC, place + 1)
        kept = window[-(len(_MAGIC) - 1) :]
        offset += len(window) - len(kept)
        window = kept
        file.seek(offset + len(kept))
    return None


def _is_record(text: bytes) -> bool:
    return text[:_PROBE_TEXT].lstrip(b"\r\n").startswith(_RECORD)


def _probe(file: BinaryIO, offset: int) -> bytes:
    """First bytes of a member's text; empty if it does not decompress."""
    file.seek(offset)
    try:
        return zlib.decompressobj(31).decompress(file.read(_PROBE_BYTES), _PROBE_TEXT)
    except zlib.error:
        return b""


def _find_plain(file: BinaryIO, start: int) -> int | None:
    """Where the next line begins that looks like the first one of a record."""
    file.seek(start)
    window, offset = b"", start
    while block := file.read(_SCAN_BYTES):
        window += block
        place = window.find(b"\nWARC/1.")
        if place >= 0:
            return offset + place + 1
        offset += len(window) - 7
        window = window[-7:]
    return None


def read_warc(file: BinaryIO, piece: Piece, account: Account, *, max_bytes: int) -> Iterator[Document]:
    """HTML pages of the records that begin in a piece, their text still HTML.

    Args:
        file: the archive.
        piece: which bytes of it.
        account: takes what is not a page, or broken.
        max_bytes: largest page in bytes.
    """
    file.seek(0)
    head = file.read(len(_RECORD))
    if not head:
        return
    is_gzip = head.startswith(_MAGIC)
    text = _probe(file, 0) if is_gzip else head
    if text and not _is_record(text):
        if piece.start == 0:
            account.fault("not_warc", piece.url, repr(text))
        return
    torn: set[int] = set()
    records = _gzip_records(file, piece, account, torn) if is_gzip else _plain_records(file, piece, account)
    held: Document | None = None
    for position, record in records:
        yield from _settled(held, torn, account)
        held = _page(record, f"{piece.url} at byte {position}", account, max_bytes)
        if held is not None:
            held.file_index, held.position = piece.file_index, position
            held.metadata |= {"file": piece.name, "offset": position}
    yield from _settled(held, torn, account)


def _settled(document: Document | None, torn: set[int], account: Account) -> Iterator[Document]:
    """A document, unless its gzip member turned out to be damaged after its last byte."""
    if document is not None and document.position not in torn:
        account.documents += 1
        yield document


def _records(stream: Any) -> Iterator[Any]:
    archive = optional("fastwarc.warc", "reading WARC files")
    with _as_os_error():
        yield from archive.ArchiveIterator(stream, parse_http=False, stream_detect=False)


@dataclass(kw_only=True)
class _Place:
    """How far a run of records has come."""

    last: int
    """Where the last record begins that was seen."""
    number: int = -1
    """Its number."""
    is_past: bool = False
    """True once a record begins after the piece."""


def _gzip_records(
    file: BinaryIO, piece: Piece, account: Account, torn: set[int]
) -> Iterator[tuple[int, Any]]:
    """Records of a piece, each with a number unique in the file: its member's first byte, counted up.

    The number of a record whose member is found damaged later goes into ``torn``.
    """
    offset = 0 if piece.start == 0 else find_member(file, piece.start)
    told = -1
    while offset is not None and offset < piece.end:
        stream, place = GzipText(file, offset), _Place(last=-1)
        fault = ""
        try:
            yield from _run_of_members(stream, piece.end, place)
        except (OSError, zlib.error) as error:
            fault = str(error)
            if stream.member == place.last:
                torn.add(place.number)
        last = max(place.last, offset)
        if fault:
            if stream.member != told:
                account.fault("damaged", f"{piece.url} after byte {last}", fault)
            told = stream.member  # it may be met again on the way to the next record
        elif place.is_past:
            return
        elif stream.is_cut_off:  # damaged lengths may also swallow what follows: look there
            account.fault("cut_off", f"{piece.url} after byte {last}")
        elif stream.garbage >= 0:
            account.fault("garbage", f"{piece.url} at byte {stream.garbage}")
            last = stream.garbage
        else:
            return
        offset = find_member(file, last + 1)


def _run_of_members(stream: GzipText, end: int, place: _Place) -> Iterator[tuple[int, Any]]:
    index = 0
    for record in _records(stream):
        member = stream.member_of(record.stream_pos)
        if member >= end:
            place.is_past = True
            return
        index = index + 1 if member == place.last else 0
        place.last, place.number = member, member + index
        yield place.number, record


def _plain_records(file: BinaryIO, piece: Piece, account: Account) -> Iterator[tuple[int, Any]]:
    offset: int | None = 0
    while offset is not None and offset < piece.end:
        file.seek(offset)
        place = _Place(last=offset)
        try:
            yield from _run_of_records(file, piece, place)
        except OSError as error:
            if place.last >= piece.start:
                account.fault("damaged", f"{piece.url} after byte {place.last}", str(error))
            offset = _find_plain(file, place.last + 1)
            continue
        if not place.is_past and place.last >= piece.start and _rest_after(file, place.last):
            account.fault("cut_off", piece.url)
        return


def _run_of_records(file: BinaryIO, piece: Piece, place: _Place) -> Iterator[tuple[int, Any]]:
    for record in _records(file):
        if record.stream_pos >= piece.end:
            place.is_past = True
            return
        place.last = record.stream_pos
        if place.last >= piece.start:
            yield place.last, record


def _rest_after(file: BinaryIO, start: int) -> bool:
    """Whether more than line ends and zeros follow a record, which then is the beginning of another."""
    file.seek(start)
    head, separator, _ = file.read(_SCAN_BYTES).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\ncontent-length:\s*(\d+)", head)
    if not separator or not length:
        return True
    file.seek(start + len(head) + len(separator) + int(length[1]))
    return bool(file.read(_SCAN_BYTES).strip(b"\r\n\0"))


def _page(record: Any, where: str, account: Account, max_bytes: int) -> Document | None:
    """The page of a record, or None and a count of why not."""
    try:
        with _as_os_error():
            reason, payload = _payload(record, max_bytes)
    except zlib.error:
        return None  # the stream stays at the damage, where going on to the next record counts it
    except (OSError, ValueError) as error:
        account.fault("http", where, str(error))
        return None
    if reason:
        (account.fault(reason, where) if reason == "truncated" else account.skip(reason))
        return None
    html, encoding = decode_html(payload, record.http_charset)
    url = str(record.headers.get("WARC-Target-URI", "")).strip("<>")
    metadata = {"date": record.headers.get("WARC-Date", ""), "encoding": encoding}
    return Document(id=record.record_id or url, text=html, url=url, metadata=metadata)


def _payload(record: Any, max_bytes: int) -> tuple[str, bytes]:
    """Why a record is not a page, or nothing and the page's bytes."""
    reason = _refusal(record, max_bytes)
    if reason:
        return reason, b""
    payload = _decoded(_read(record.reader, max_bytes), record.http_headers, max_bytes)
    if len(payload) > max_bytes:
        return "too_large", b""
    if not payload.strip():
        return "empty", b""
    is_html = record.http_content_type or b"<html" in payload[:_PROBE_BYTES].lower()
    return ("" if is_html else "not_html"), payload


def _refusal(record: Any, max_bytes: int) -> str:
    """Why a record is not a page, as far as its headers tell."""
    kind, num_bytes = str(record.record_type), record.content_length
    if kind != "response" or not record.is_http:
        return f"type_{kind}" if kind != "response" else "not_http"
    if num_bytes > max_bytes:
        return "too_large"
    record.freeze()
    if record.content_length < num_bytes:
        return "truncated"
    record.parse_http(auto_decode="none")
    if record.http_headers.status_code != 200:
        return "http_status"
    content_type = record.http_content_type
    return "not_html" if content_type and content_type.lower() not in HTML_TYPES else ""


def _decoded(body: bytes, headers: Any, max_bytes: int) -> bytes:
    """A body without its encodings; crawlers may have removed them and kept the header."""
    streams = optional("fastwarc.stream_io", "reading WARC files")
    readers = {
        "chunked": streams.ChunkedReader,
        "gzip": streams.GzipReader,
        "x-gzip": streams.GzipReader,
        "deflate": lambda stream: streams.GzipReader(stream, zlib=True),
        "br": streams.BrotliReader,
    }
    encodings = [headers.get(name, "").lower() for name in ("Transfer-Encoding", "Content-Encoding")]
    for encoding in [part.strip() for value in encodings for part in reversed(value.split(","))]:
        if encoding in readers:
            body = _undo(readers[encoding], body, max_bytes)
    return body


def _undo(make_reader: Callable[[BinaryIO], Any], body: bytes, max_bytes: int) -> bytes:
    try:
        return _read(make_reader(io.BytesIO(body)), max_bytes)
    except OSError:
        if b"<" not in body[:1024] or _BINARY.search(body[:1024]):
            raise
        return body


def _read(reader: Any, max_bytes: int) -> bytes:
    """Everything a reader has, or enough to see that it is more than the limit."""
    parts, left = [], max_bytes + 1
    while left > 0 and (part := reader.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn a panic of the native parser, which is not even an Exception, into an error of this record."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise OSError(f"the parser gave up: {error}") from error


def decode_html(payload: bytes, charset: str | None) -> tuple[str, str]:
    """Text of a page and the encoding it was read with.

    What decodes as UTF-8 is UTF-8; else the server's word counts, then the page's own, then a guess.

    Args:
        payload: the page.
        charset: what the server says, if it does.
    """
    escaped = b"\x1b$" in payload[: _PROBE_BYTES * 16]  # ISO-2022, which is also valid ASCII
    if not escaped:
        try:
            return payload.decode("utf-8-sig").replace("\0", ""), "utf-8"
        except UnicodeDecodeError:
            pass
    encodings = optional("resiliparse.parse.encoding", "the encoding of HTML")
    known = encodings.map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    known = known or encodings.detect_encoding(payload, from_html_meta=True) or "utf-8"
    text = encodings.bytes_to_str(payload, known, errors="replace", fallback_encodings=())
    return text.replace("\0", ""), known
