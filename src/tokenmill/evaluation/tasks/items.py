"""Items of multiple choice tasks, read from JSON lines.

Two kinds of lines: prepared items ``{"id", "task", "query", "choices", "gold"}``, or the published rows of
a benchmark, which its task turns into items. Files end in ``.jsonl`` or ``.jsonl.gz``; a compressed file is
read whole by the piece that holds its first byte.
"""

import gzip
import hashlib
import io
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenmill import storage
from tokenmill.errors import ConfigError, InputError
from tokenmill.evaluation.tasks.early_signal import EARLY_SIGNAL, MultipleChoiceTask
from tokenmill.executors.job import Piece

PREPARED = "items"
"""Format of files that hold prepared items."""
PREPARED_VERSION = "prepared"
"""Prompt version of prepared items: their prompts were made elsewhere, their digest tells them apart."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A question with its possible answers."""

    id: str
    """Unique in its task."""
    task: str
    """Task whose metrics the item counts for."""
    prompt_version: str
    """Version of the prompt."""
    query: str
    """Text before the answer; may be empty."""
    choices: tuple[str, ...]
    """Possible continuations of the query, at least two."""
    gold: int
    """Index of the right choice."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the item's scores."""
        values = [self.task, self.id, self.query, list(self.choices), self.gold]
        return hashlib.sha256(storage.dump_json(values)).hexdigest()


def read_items(piece: Piece, file_format: str) -> Iterator[Item]:
    """Items of a piece, in order.

    Args:
        piece: a file or a part of it.
        file_format: ``items``, or the name of a benchmark whose rows the file holds.

    Raises:
        ConfigError: there is no such format.
        InputError: the file is unreadable, or a line is not an item.
    """
    task = _task(file_format)
    for position, line in read_lines(piece):
        where = f"{piece.name}, byte {position}"
        try:
            row = json.loads(line)
            item = _prepared(row) if task is None else _asked(task, row, f"{piece.file_index}@{position}")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                "a line is not an item",
                where=where,
                expected=f"a JSON object of the format {file_format}",
                got=f"{type(error).__name__}: {error}",
                fix="set formats in the config if the file holds a benchmark's own rows",
            ) from error
        _check(item, where)
        yield item


def _task(file_format: str) -> MultipleChoiceTask | None:
    if file_format == PREPARED:
        return None
    if file_format not in EARLY_SIGNAL:
        raise ConfigError(
            "unknown format of items",
            where="formats",
            expected=", ".join([PREPARED, *EARLY_SIGNAL]),
            got=file_format,
        )
    return EARLY_SIGNAL[file_format]


def _prepared(row: dict[str, Any]) -> Item:
    if not isinstance(row["choices"], list):
        raise TypeError("choices is not a list")
    return Item(
        id=row["id"],
        task=row["task"],
        prompt_version=PREPARED_VERSION,
        query=row["query"],
        choices=tuple(row["choices"]),
        gold=row["gold"],
    )


def _asked(task: MultipleChoiceTask, row: dict[str, Any], place: str) -> Item:
    question = task.ask(row)
    return Item(
        id=str(row.get("id", place)),
        task=task.task_of(row),
        prompt_version=task.prompt_version,
        query=question.query,
        choices=question.choices,
        gold=question.gold,
    )


def _check(item: Item, where: str) -> None:
    texts: dict[str, Any] = {"id": item.id, "task": item.task, "query": item.query}
    texts |= {f"choices[{index}]": choice for index, choice in enumerate(item.choices)}
    for name, text in texts.items():
        if not isinstance(text, str) or not (text or name == "query"):
            raise InputError("a text of an item is missing", where=f"{where}, {name}", got=repr(text))
    if len(item.choices) < 2:
        raise InputError(
            "an item has too few choices", where=where, expected="2 or more", got=str(len(item.choices))
        )
    if type(item.gold) is not int or not 0 <= item.gold < len(item.choices):
        raise InputError(
            "the right answer is not one of the choices",
            where=f"{where}, item {item.id}",
            expected=f"gold from 0 to {len(item.choices) - 1}",
            got=repr(item.gold),
        )


def read_lines(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Lines that begin in a piece, with their byte offsets in the raw text; blank lines are left out."""
    if piece.url.endswith(".gz"):
        if piece.start == 0:
            yield from _unpacked_lines(piece)
        return
    with storage.open_input(piece.url) as file:
        position = piece.start
        if position:
            file.seek(position - 1)
            position += len(file.readline()) - 1
        while position < piece.end and (line := file.readline()):
            if line.strip():
                yield position, line
            position += len(line)


def _unpacked_lines(piece: Piece) -> Iterator[tuple[int, bytes]]:
    with storage.open_input(piece.url) as file:
        try:
            lines = io.BytesIO(gzip.decompress(file.read())).readlines()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError("a file does not unpack", where=piece.name, got=str(error)) from error
    starts = itertools.accumulate(map(len, lines), initial=0)
    yield from ((start, line) for start, line in zip(starts, lines, strict=False) if line.strip())
