"""Entries of the recipe of tools/faults: small jobs over text lines, whose output any attempt repeats."""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenmill import storage
from tokenmill.executors.job import Task


@dataclass(frozen=True, kw_only=True)
class UpperConfig:
    """Values of ``upper``."""

    seconds: float = 0.0
    """Sleep per shard in seconds, between the first half of the output and the second."""
    pad_bytes: int = 0
    """Bytes put behind every line."""
    fail_on: str = ""
    """Raise at this line while the file ``flag`` exists."""
    flag: str = ""
    """Path of a file."""
    tell: str = ""
    """Name of a variable whose value is printed, logged, and part of the error at ``fail_on``."""
    slow_factor: float = 1.0
    """The process that makes the file ``flag`` sleeps so many times longer; all others as they should."""


def lines_of(task: Task, name: str) -> list[str]:
    """Lines that begin in the pieces of an input."""
    found: list[str] = []
    for piece in task.inputs(name):
        position = 0
        for line in storage.read_bytes(piece.url).splitlines(keepends=True):
            if piece.start <= position < piece.end:
                found.append(line.decode().rstrip("\n"))
            position += len(line)
    return found


def _factor(config: UpperConfig) -> float:
    """How many times longer this process sleeps."""
    if config.slow_factor == 1.0:
        return 1.0
    with contextlib.suppress(FileExistsError), Path(config.flag).open("x") as file:
        file.write(str(os.getpid()))
    return config.slow_factor if Path(config.flag).read_text() == str(os.getpid()) else 1.0


def upper(config: UpperConfig, task: Task) -> None:
    """Write every line in capitals."""
    lines = lines_of(task, "lines")
    task.tell(f"shard {task.shard.index} of {task.num_shards}")
    if config.tell:
        print("the value is", os.environ[config.tell], flush=True)
        task.log.info("the value is %s", os.environ[config.tell])
    middle = len(lines) // 2
    with task.output(f"lines/{task.shard_name}.txt") as file:
        file.write(_capitals(config, lines[:middle]))
        time.sleep(config.seconds * _factor(config))
        file.write(_capitals(config, lines[middle:]))
    task.counters.add("lines", len(lines))


def _capitals(config: UpperConfig, lines: Sequence[str]) -> bytes:
    if config.fail_on in lines and Path(config.flag).exists():
        raise ValueError(f"line {config.fail_on!r} cannot be done {os.environ.get(config.tell, '')}")
    return "".join(f"{line.upper()}{'.' * config.pad_bytes}\n" for line in lines).encode()


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    """Values of ``count``."""


def count(config: CountConfig, task: Task) -> None:
    """Count the lines of everything."""
    with task.output("count/count.json") as file:
        file.write(storage.dump_json({"lines": len(lines_of(task, "lines"))}))
