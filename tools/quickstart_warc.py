"""Pages packed as WARC 1.1: one gzip member per record, a warcinfo record first, real digests.

The bytes are a function of the pages alone: no clock and no random number, so that the same input has
the same checksum everywhere.
"""

import base64
import gzip
import hashlib
import io
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True, kw_only=True)
class Page:
    """An HTML page."""

    url: str
    """Where it is published."""
    html: bytes
    """The page in UTF-8 or in the encoding it names itself."""
    seconds: int
    """Time of its file, in seconds since 1970."""
    source: str
    """Archive or folder that it comes from."""


def pack(pages: Sequence[Page], folder: Path, *, num_files: int, about: str) -> list[Path]:
    """Write pages into WARC files of about equal size.

    Args:
        pages: the pages; they stay in order.
        folder: existing folder for the files.
        num_files: number of files wanted; never more than there are pages.
        about: line that says in warcinfo where the pages come from.
    """
    total = sum(len(page.html) for page in pages)
    chunks: list[list[Page]] = [[] for _ in range(max(1, min(num_files, len(pages))))]
    before = 0
    for page in pages:
        chunks[min(before * len(chunks) // max(total, 1), len(chunks) - 1)].append(page)
        before += len(page.html)
    paths = []
    for index, chunk in enumerate(chunk for chunk in chunks if chunk):
        paths.append(folder / f"pages-{index:05d}.warc.gz")
        write_file(chunk, paths[-1], about)
    return paths


def write_file(pages: Iterable[Page], path: Path, about: str) -> None:
    """Write one WARC file; it appears under its name only when it is whole."""
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("wb") as file:
        file.write(_info_record(path.name, about))
        for page in pages:
            file.write(_response_record(page))
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def _info_record(name: str, about: str) -> bytes:
    body = (
        "software: tokenmill quickstart\r\nformat: WARC File Format 1.1\r\n"
        f"description: {about}. The pages are files of published archives;"
        " HTTP headers are made, dates are the files' own.\r\n"
    ).encode()
    fields = {"WARC-Filename": name, "WARC-Date": _date(0), "Content-Type": "application/warc-fields"}
    return _record("warcinfo", name, fields, body)


def _response_record(page: Page) -> bytes:
    length = len(page.html)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n".encode()
    fields = {
        "WARC-Target-URI": quote(page.url, safe=":/?&=#%~@+,;"),
        "WARC-Date": _date(page.seconds),
        "WARC-Payload-Digest": _digest(page.html),
        "WARC-Identified-Payload-Type": "text/html",
        "Content-Type": "application/http; msgtype=response",
    }
    return _record("response", f"{page.source} {page.url}", fields, head + page.html)


def _record(kind: str, name: str, fields: dict[str, str], block: bytes) -> bytes:
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {name} {_digest(block)}")
    lines = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:{identity}>",
        **fields,
        "WARC-Block-Digest": _digest(block),
        "Content-Length": str(len(block)),
    }
    head = "WARC/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in lines.items()) + "\r\n"
    member = io.BytesIO()
    with gzip.GzipFile(fileobj=member, mode="wb", mtime=0) as zipped:
        zipped.write(head.encode() + block + b"\r\n\r\n")
    return member.getvalue()


def _digest(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(max(seconds, 0), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
