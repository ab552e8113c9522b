"""Entries and a recipe for tests of the executors: small, real jobs over text lines."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tokenmill import storage
from tokenmill.errors import InputError
from tokenmill.executors.job import Job, Recipe, Resources, Sharding, Task
from tokenmill.executors.site import Site

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class UpperConfig:
    """Values of ``upper``."""

    suffix: str = "!"
    """Put behind every line."""
    fail_on: str = ""
    """Raise while the file ``fail_flag`` exists and the shard holds this line."""
    fail_flag: str = ""
    """Path of the flag; always fail if empty."""
    seconds: float = 0.0
    """Sleep per shard in seconds."""
    mistake: bool = False
    """Raise an error that another attempt would repeat."""
    broken: bool = False
    """Raise an error that another node might not."""
    slow_flag: str = ""
    """Path of a file: whoever removes it sleeps for ``slow_seconds``."""
    slow_seconds: float = 0.0
    """See ``slow_flag``."""
    hungry_on: str = ""
    """Run out of memory if the shard holds this line."""
    kill_flag: str = ""
    """Path of a file: whoever removes it ends its process with a signal."""
    deadly_on: str = ""
    """End the process with a signal if the shard holds this line."""


def lines_of(task: Task, name: str) -> list[str]:
    """Lines that begin in the pieces of an input."""
    found: list[str] = []
    for piece in task.inputs(name):
        data = storage.read_bytes(piece.url)
        position = 0
        for line in data.splitlines(keepends=True):
            if piece.start <= position < piece.end:
                found.append(line.decode().rstrip("\n"))
            position += len(line)
    return found


def _misbehave(config: UpperConfig, lines: list[str]) -> None:
    if config.mistake:
        raise InputError("this input cannot be read")
    if config.broken:
        raise OSError("this node is broken")
    if config.hungry_on in lines:
        raise MemoryError("the task has too little")
    if config.deadly_on in lines:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.kill_flag and Path(config.kill_flag).exists():
        Path(config.kill_flag).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if config.slow_flag and Path(config.slow_flag).exists():
        Path(config.slow_flag).unlink(missing_ok=True)
        time.sleep(config.slow_seconds)


def upper(config: UpperConfig, task: Task) -> None:
    """Write every line in capitals."""
    lines = lines_of(task, "lines")
    task.tell(f"shard {task.shard.index} of {task.num_shards}")
    time.sleep(config.seconds)
    _misbehave(config, lines)
    with task.output(f"lines/{task.shard_name}.jsonl") as file:
        for line in lines:
            flagged = not config.fail_flag or Path(config.fail_flag).exists()
            if config.fail_on and line == config.fail_on and flagged:
                raise ValueError(f"line {line!r} cannot be done")
            file.write((line.upper() + config.suffix + "\n").encode())
    task.counters.add("lines", len(lines))


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    """Values of ``count``."""


def count(config: CountConfig, task: Task) -> None:
    """Count the lines of everything."""
    with task.output("count/count.json") as file:
        file.write(storage.dump_json({"lines": len(lines_of(task, "lines"))}))


@dataclass(frozen=True, kw_only=True)
class GangConfig:
    """Values of ``gang``."""

    fail_rank: int = -1
    """This rank raises."""


def gang(config: GangConfig, task: Task) -> None:
    """Every rank tells rank 0 its process id, and writes a file."""
    if task.rank == config.fail_rank:
        raise ValueError("this rank cannot go on")
    task.publish(f"pid-{task.rank}", {"pid": os.getpid()})
    deadline = time.monotonic() + 60
    while any(task.published(f"pid-{rank}") is None for rank in range(task.world_size)):
        assert time.monotonic() < deadline, "a rank is missing"
        time.sleep(0.01)
    pids = {task.published(f"pid-{rank}")["pid"] for rank in range(task.world_size)}
    with task.output(f"ranks/{task.rank}.json") as file:
        file.write(storage.dump_json({"rank": task.rank, "different": len(pids) == task.world_size}))
    task.counters.add("ranks")


def lab_site() -> Site:
    """The local cluster, with these entries importable by workers."""
    return Site(name="lab", poll_seconds=0.2, variables={"PYTHONPATH": str(HERE)})


def make_recipe(folder: Path, *, shards: int = 9, tasks: int = 0, **config: object) -> Recipe:
    """upper -> count, and upper -> gang of two ranks."""
    total = sum(path.stat().st_size for path in folder.iterdir())
    return Recipe(
        name="lines",
        inputs={"text": (str(folder),)},
        jobs=(
            Job(
                name="upper",
                entry="entries.upper",
                config=config,
                inputs={"lines": "text"},
                sharding=Sharding(target_bytes=-(-total // shards)),
                resources=Resources(tasks=tasks, memory_bytes=200_000_000),
            ),
            Job(
                name="count",
                entry="entries.count",
                inputs={"lines": "upper.lines"},
                sharding=Sharding(mode="whole"),
                resources=Resources(memory_bytes=200_000_000),
            ),
            Job(
                name="gang",
                entry="entries.gang",
                inputs={"lines": "upper.lines"},
                layout="gang",
                resources=Resources(tasks=2, memory_bytes=200_000_000),
            ),
        ),
    )


def numbered(config: CountConfig, task: Task) -> None:
    """Write the number of the shard."""
    with task.output(f"numbers/{task.shard_name}.json") as file:
        file.write(storage.dump_json({"shard": task.shard.index}))
