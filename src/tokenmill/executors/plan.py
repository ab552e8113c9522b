"""Inputs become shards: a pure function of the job and of the names and sizes of its input files.

All files of an input stand one behind the other as one stream of bytes, which is cut into equal parts. A part
is a list of pieces; a piece means *the records that begin in its byte range*, so the planner may cut at any
byte and needs to know nothing of a format but whether its reader can begin in the middle. Cuts that fall near
a file border are moved onto it.
"""

import itertools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from tokenmill.errors import InputError
from tokenmill.executors.job import Job, Piece, Shard

ENTERABLE = (".warc", ".warc.gz", ".arc.gz", ".jsonl", ".jsonl.zst")
"""Suffixes of files whose readers can begin in the middle; other files are never cut."""
_SNAP = 0.1


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file that a job reads."""

    url: str
    """Where it lies."""
    name: str
    """Logical name, unique within the input."""
    num_bytes: int
    """Size in bytes."""
    sha256: str = ""
    """Checksum of its bytes, in hexadecimal; empty for a recipe input."""


def make_plan(job: Job, inputs: Mapping[str, Sequence[InputFile]]) -> list[Shard]:
    """Shards of a job.

    Args:
        job: the job.
        inputs: files of every input, in order of logical names.

    Raises:
        InputError: an input has no files.
    """
    for name, files in inputs.items():
        if not files:
            raise InputError(
                "an input has no files",
                where=f"job {job.name}, input {name}",
                expected="at least one file",
                fix="check the path, or the output port of the job that should have written it",
            )
    whole = {
        name: tuple(_whole(index, file) for index, file in enumerate(files)) for name, files in inputs.items()
    }
    if job.sharding.mode == "count":
        return [Shard(index=index, inputs=whole) for index in range(job.sharding.count)]
    if job.sharding.mode == "whole" or not inputs or job.layout == "gang":
        return [Shard(index=0, inputs=whole)]
    over = job.sharding.over or next(iter(inputs))
    if over not in inputs:
        raise InputError(
            "sharding names an input that the job does not have",
            where=f"job {job.name}, sharding.over",
            expected=" or ".join(inputs),
            got=over,
        )
    parts = cut(inputs[over], job.sharding.target_bytes, split_files=job.sharding.split_files)
    return [Shard(index=index, inputs={**whole, over: part}) for index, part in enumerate(parts)]


def remaining(
    shards: Sequence[Shard], *, done: Set[int], quarantined: Set[int], live: Set[int] = frozenset()
) -> list[Shard]:
    """What is left to do: the plan minus done, minus quarantined, minus live.

    All of resuming is this function on what the ledger holds.

    >>> shards = [Shard(index=index, inputs={}) for index in range(5)]
    >>> [shard.index for shard in remaining(shards, done={0, 3}, quarantined={1}, live={4})]
    [2]
    """
    taken = done | quarantined | live
    return [shard for shard in shards if shard.index not in taken]


def cut(files: Sequence[InputFile], target_bytes: int, *, split_files: bool) -> list[tuple[Piece, ...]]:
    """Cut a list of files into parts of about ``target_bytes``, equal as far as borders allow."""
    total = sum(file.num_bytes for file in files)
    count = max(1, -(-total // max(1, target_bytes)))
    ideal = total / count
    parts: list[list[Piece]] = [[] for _ in range(count)]
    offset = 0
    for index, file in enumerate(files):
        cuts = _cuts_inside(file, offset, ideal, split_files)
        borders = [0, *cuts, file.num_bytes]
        for start, end in itertools.pairwise(borders):
            middle = offset + (start + end) / 2  # a piece belongs to the part that holds its middle
            part = min(count - 1, int(middle / ideal)) if ideal else 0
            parts[part].append(_piece(index, file, start, end))
        offset += file.num_bytes
    return [tuple(part) for part in parts if part]


def _cuts_inside(file: InputFile, offset: int, ideal: float, split_files: bool) -> list[int]:
    """Byte offsets at which a file is cut, given the bytes before it in the stream."""
    if not file.name.endswith(ENTERABLE) or not split_files or ideal <= 0:
        return []
    first = int(offset / ideal) + 1
    last = int((offset + file.num_bytes) / ideal)
    places = [round(number * ideal) - offset for number in range(first, last + 1)]
    slack = _SNAP * ideal
    return [place for place in places if slack < place < file.num_bytes - slack]


def _piece(index: int, file: InputFile, start: int, end: int) -> Piece:
    return Piece(
        url=file.url, name=file.name, file_index=index, start=start, end=end, num_bytes=file.num_bytes
    )


def _whole(index: int, file: InputFile) -> Piece:
    return _piece(index, file, 0, file.num_bytes)
