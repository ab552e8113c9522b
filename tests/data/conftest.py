"""Tasks and files made by hand."""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tokenmill.executors.job import Job, Piece, Shard, Task

MakeTask = Callable[..., Task]


def piece_of(path: Path, file_index: int = 0) -> Piece:
    size = path.stat().st_size
    return Piece(url=str(path), name=path.name, file_index=file_index, start=0, end=size, num_bytes=size)


@pytest.fixture
def whole() -> Callable[..., tuple[Piece, ...]]:
    """Whole files as pieces."""
    return lambda *paths: tuple(piece_of(Path(path), index) for index, path in enumerate(paths))


@pytest.fixture
def cut() -> Callable[[Piece, Sequence[int]], list[Piece]]:
    """A piece cut at some bytes."""

    def make(piece: Piece, places: Sequence[int]) -> list[Piece]:
        edges = sorted({0, piece.num_bytes, *places})
        return [replace(piece, start=start, end=end) for start, end in pairwise(edges)]

    return make


@pytest.fixture
def make_task(tmp_path: Path) -> MakeTask:
    """A task over pieces; ``outputs`` of its port are found with ``port_files``."""

    def make(
        name: str, *, shard: int = 0, num_shards: int = 1, attempt: str = "a0", **inputs: Sequence[Piece]
    ) -> Task:
        pieces = {key: tuple(value) for key, value in inputs.items()}
        return Task(
            job=Job(name=name, entry="x.y"),
            shard=Shard(index=shard, inputs=pieces),
            num_shards=num_shards,
            attempt=attempt,
            job_url=str(tmp_path / name),
        )

    return make


@pytest.fixture
def port_files() -> Callable[[Task, str], list[Path]]:
    """Files that a task has written into a port."""
    return lambda task, port: [
        Path(task.job_url) / output["path"]
        for output in sorted(task.outputs, key=lambda output: str(output["name"]))
        if output["name"].startswith(f"{port}/")
    ]


def make_record(url: str, body: bytes, *, kind: str = "response", status: int = 200, **headers: str) -> bytes:
    """A WARC record with an HTTP message."""
    fields = {"Content-Type": "text/html"} | {key.replace("_", "-"): value for key, value in headers.items()}
    lines = [f"HTTP/1.1 {status} OK", *(f"{key}: {value}" for key, value in fields.items() if value)]
    message = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Record-ID: <urn:{url}>\r\n"
        f"WARC-Date: 2026-01-02T03:04:05Z\r\nContent-Type: application/http; msgtype={kind}\r\n"
        f"Content-Length: {len(message)}\r\n\r\n"
    )
    return head.encode() + message + b"\r\n\r\n"


@pytest.fixture
def record() -> Callable[..., bytes]:
    """Makes a WARC record."""
    return make_record


@pytest.fixture
def write_warc(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as gzip members."""

    def write(name: str, *records: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(gzip.compress(item, mtime=0) for item in records))
        return path

    return write
