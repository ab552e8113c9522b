"""The plan as a file: a header, then a line per shard with what does not hold all of its inputs.

A task of a job of a hundred thousand shards needs a few of them: lines are parsed when shards are asked for.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, overload

from tokenmill import storage
from tokenmill.errors import StorageError
from tokenmill.executors.job import Piece, Shard
from tokenmill.executors.plan import InputFile


class Plan(Sequence[Shard]):
    """The shards of a job in order of their indices.

    Args:
        header: first line of the file, parsed.
        rows: the other lines.
    """

    def __init__(self, header: Mapping[str, Any], rows: Sequence[bytes]) -> None:
        self._rows = rows
        self._files = {
            name: [InputFile(url=url, name=logical, num_bytes=size) for url, logical, size in found]
            for name, found in header["files"].items()
        }
        self._whole = {
            name: tuple(_piece(index, file, 0, file.num_bytes) for index, file in enumerate(found))
            for name, found in self._files.items()
        }

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Shard: ...

    @overload
    def __getitem__(self, index: slice) -> list[Shard]: ...

    def __getitem__(self, index: int | slice) -> Shard | list[Shard]:
        if isinstance(index, slice):
            return [self._shard(row) for row in self._rows[index]]
        return self._shard(self._rows[index])

    def _shard(self, row: bytes) -> Shard:
        value = _parse(row, "plan.jsonl")
        pieces = {
            name: tuple(_piece(index, self._files[name][index], start, end) for index, start, end in parts)
            for name, parts in value["pieces"].items()
        }
        return Shard(index=value["shard"], inputs=self._whole | pieces)


def dump_plan(
    header: Mapping[str, Any], shards: Sequence[Shard], files: Mapping[str, Sequence[InputFile]]
) -> bytes:
    """Bytes of a plan.

    Args:
        header: what the plan is of; files and the number of shards are put in.
        shards: of the job.
        files: of every input, in order of logical names.
    """
    found = {
        name: [[file.url, file.name, file.num_bytes] for file in listed] for name, listed in files.items()
    }
    lines = [storage.dump_json({**header, "num_shards": len(shards), "files": found})]
    for shard in shards:
        pieces = {
            name: [[piece.file_index, piece.start, piece.end] for piece in parts]
            for name, parts in shard.inputs.items()
            if not _is_whole(parts, len(files[name]))
        }
        lines.append(storage.dump_json({"shard": shard.index, "pieces": pieces}))
    return b"".join(lines)


def load_plan(url: str) -> tuple[dict[str, Any], Plan]:
    """Header and shards of a plan.

    Raises:
        InputError: there is none.
        StorageError: it is damaged.
    """
    first, *rows = storage.read_bytes(url).splitlines()
    header = _parse(first, url)
    return header, Plan(header, rows)


def load_header(url: str) -> dict[str, Any]:
    """Header of a plan.

    Raises:
        InputError: there is none.
        StorageError: it is damaged.
    """
    with storage.open_input(url) as file:
        return _parse(file.readline(), url)


def _parse(line: bytes, url: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError as error:
        raise StorageError(
            "a plan is damaged", where=url, got=str(error), fix="tokenmill verify RUN --repair"
        ) from error


def _piece(index: int, file: InputFile, start: int, end: int) -> Piece:
    return Piece(
        url=file.url, name=file.name, file_index=index, start=start, end=end, num_bytes=file.num_bytes
    )


def _is_whole(parts: Sequence[Piece], num_files: int) -> bool:
    return len(parts) == num_files and all(
        piece.start == 0 and piece.end == piece.num_bytes for piece in parts
    )
