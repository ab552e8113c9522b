"""Entries for tools/bench/executors: shards that do next to nothing. Workers import this file by name."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenmill.executors.job import Task

_STEP_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class TrivialConfig:
    """Values of ``trivial``."""

    output: bool = False
    """Write an output of one line."""
    fsync: Literal["real", "timed", "none"] = "real"
    """Leave os.fsync alone; count its calls and seconds; or leave them out."""


class TimedSync:
    """Stands in for os.fsync and counts.

    Args:
        sync: what is called.

    """

    def __init__(self, sync: Callable[[int], None]) -> None:
        self.sync = sync
        self.calls = 0
        self.seconds = 0.0

    def __call__(self, descriptor: int) -> None:
        """Call, count and time."""
        began = time.perf_counter()
        self.sync(descriptor)
        self.calls += 1
        self.seconds += time.perf_counter() - began


def trivial(config: TrivialConfig, task: Task) -> None:
    """Do nothing, or write one line; with fsync counted, tell what this process has used so far."""
    if config.fsync != "real" and not isinstance(os.fsync, TimedSync):
        vars(os)["fsync"] = TimedSync(os.fsync if config.fsync == "timed" else lambda descriptor: None)
    if config.output:
        with task.output(f"lines/{task.shard_name}.txt") as file:
            file.write(b"one line\n")
    task.counters.add("shards")
    if isinstance(os.fsync, TimedSync):
        now = {"calls": os.fsync.calls, "fsync_seconds": os.fsync.seconds}
        now |= {"cpu_seconds": time.process_time(), "wall_seconds": time.perf_counter()}
        for name, value in now.items():
            task.counters.add(f"{name}_min", value)
            task.counters.add(f"{name}_max", value)


@dataclass(frozen=True, kw_only=True)
class SlowConfig:
    """Values of ``slow``."""

    seconds: float = 0.2
    """What a shard takes."""
    flag: str = ""
    """Path: the process that creates this file is slow ever after; nobody is if empty."""
    factor: float = 20.0
    """How much slower it is."""


def slow(config: SlowConfig, task: Task) -> None:
    """Sleep; one process of all sleeps longer."""
    seconds = config.seconds * (config.factor if config.flag and _is_the_slow_one(config.flag) else 1.0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(_STEP_SECONDS, config.seconds))
    task.counters.add("shards")


def _is_the_slow_one(flag: str) -> bool:
    mine = f"{os.uname().nodename} {os.getpid()}"
    try:
        with Path(flag).open("x") as file:
            file.write(mine)
    except FileExistsError:
        return Path(flag).read_text() == mine
    return True
