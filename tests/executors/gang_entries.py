"""Entries of gangs for tests: collectives, and a rank that hangs."""

import hashlib
import time
from dataclasses import dataclass

import numpy as np

from tokenmill import storage
from tokenmill.executors.job import Task, TaskStopped


@dataclass(frozen=True, kw_only=True)
class CollectivesConfig:
    """Values of ``collectives``."""

    rounds: int = 2
    """How often everything is done."""


def collectives(config: CollectivesConfig, task: Task) -> None:
    """Call every collective with values that differ by rank, and write a digest of what came back."""
    world, rank, size = task.world, task.rank, task.world_size
    digest = hashlib.sha256()
    for number in range(config.rounds):
        random = np.random.default_rng(100 * number + rank)
        parts = [random.standard_normal(3 * other + rank) for other in range(size)]  # the first is empty
        got = world.all_to_all(parts)
        assert [len(part) for part in got] == [3 * rank + other for other in range(size)]
        again = np.random.default_rng(100 * number)
        wanted = [again.standard_normal(3 * other) for other in range(rank + 1)][-1]
        assert np.array_equal(got[0], wanted), "rank 0's part is that of another rank"
        total = world.all_reduce(random.standard_normal((7, 5)).astype(np.float32))
        assert (total.dtype, total.shape) == (np.float32, (7, 5))
        counts = world.all_reduce(np.array([1, rank], np.int64))
        assert counts.tolist() == [size, size * (size - 1) // 2]
        names = world.all_gather(b"x" * rank)
        assert [len(name) for name in names] == list(range(size))
        told = world.broadcast(f"from {rank}".encode(), source=size - 1)
        assert told == f"from {size - 1}".encode()
        world.barrier()
        digest.update(b"".join(part.tobytes() for part in got) + total.tobytes() + told)
    with task.output(f"digests/{rank}.json") as file:
        file.write(storage.dump_json({"digest": digest.hexdigest()}))


@dataclass(frozen=True, kw_only=True)
class StuckConfig:
    """Values of ``stuck``."""

    rank: int = 1
    """This rank sleeps."""


def stuck(config: StuckConfig, task: Task) -> None:
    """Show some progress; then one rank never comes to the barrier."""
    for number in range(3):
        task.tell(f"{number} of 3")
        time.sleep(0.1)
    if task.rank == config.rank:
        sleep_for_ever()
    task.world.barrier()


def sleep_for_ever() -> None:
    """Do what a rank does that waits for a network."""
    time.sleep(3600)


@dataclass(frozen=True, kw_only=True)
class CountingConfig:
    """Values of ``counting``."""

    steps: int = 6
    """Steps in all."""
    holds: tuple[int, ...] = ()
    """At these steps the gang waits, once each, for the end to be announced."""


def counting(config: CountingConfig, task: Task) -> None:
    """Count up to a number, save at a stop, and go on from there."""
    saved = storage.join(task.progress_url, "count.json")
    start = int(storage.read_json(saved)["step"]) if storage.exists(saved) else 0
    task.world.barrier()  # nobody saves before all have read
    for step in range(start, config.steps):
        if step in config.holds and task.rank == 0:
            hold(task, step)
        stops = task.world.all_reduce(np.array([int(task.stop_requested())], np.int64))
        if stops[0]:
            if task.rank == 0:
                storage.write_atomic(saved, storage.dump_json({"step": step + 1}))
            task.world.barrier()
            raise TaskStopped
    with task.output(f"count/{task.rank}.json") as file:
        file.write(storage.dump_json({"steps": config.steps, "start": start}))


def hold(task: Task, step: int) -> None:
    """Say that rank 0 is here, and wait for the end to be announced; once in the life of a job."""
    said = storage.publish_once(storage.join(task.job_url, "holds", f"{step}.json"), b"{}")
    deadline = time.monotonic() + 60
    while said and not task.stop_requested():
        assert time.monotonic() < deadline, "nobody announced the end"
        time.sleep(0.02)
