"""The start of a gang: who is missing, there twice, or works on something else is named."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenmill.errors import GangError, StartError, WorldError
from tokenmill.executors import roll_call
from tokenmill.executors.job import Job, Resources, Shard, Task, TaskStopped
from tokenmill.executors.roll_call import call_roll, check_size, patience


def task_of(folder: Path, rank: int, world_size: int, **values: Any) -> Task:
    job = Job(name="g", entry="x.y", layout="gang", resources=Resources(tasks=world_size))
    place = {"job": job, "job_url": str(folder), "rank": rank, "world_size": world_size}
    return Task(shard=Shard(index=0, inputs={}), num_shards=1, attempt="a-s0r0", **(place | values))


def call(folder: Path, clocks: list[Callable[[], float]], identities: list[str] | None = None) -> list[Any]:
    """What every rank's roll call returned or raised."""
    found: list[Any] = [None] * len(clocks)

    def one(rank: int) -> None:
        try:
            identity = identities[rank] if identities else "i"
            task = task_of(folder, rank, len(clocks))
            found[rank] = call_roll(task, identity, timeout_seconds=1.0, clock=clocks[rank])
        except GangError as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(clocks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_all_ranks_are_there(tmp_path: Path) -> None:
    found = call(tmp_path, [time.time] * 4)
    for rank, finding in enumerate(found):
        assert abs(finding["clock"]["store_seconds"]) < 1
        if rank:
            lower, upper = finding["clock"]["rank_0_seconds"]
            assert lower <= 0 <= upper


@pytest.mark.parametrize("skew", [600.0, -600.0])
def test_a_wrong_clock_is_measured_and_told(
    skew: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="tokenmill.task"):
        _, right, wrong = call(tmp_path, [time.time, time.time, lambda: time.time() + skew])
    lower, upper = wrong["clock"]["rank_0_seconds"]
    assert lower <= skew <= upper
    assert max(lower, -upper) > 590
    assert wrong["clock"]["store_seconds"] == pytest.approx(-skew, abs=5)
    assert abs(right["clock"]["store_seconds"]) < 1
    words = " ".join(record.getMessage() for record in caplog.records)
    assert f"s {'ahead of' if skew > 0 else 'behind'} rank 0's" in words
    assert "store is" in words


def test_missing_ranks_are_named(tmp_path: Path) -> None:
    with pytest.raises(GangError, match=r"missing: rank 1, 2(.|\n)*one folder on all nodes"):
        call_roll(task_of(tmp_path, 0, 3), "i", timeout_seconds=0.05)


def test_a_folder_that_rank_0_does_not_see_is_named(tmp_path: Path) -> None:
    with pytest.raises(GangError, match=r"rank 0 did not answer(.|\n)*not one folder on all nodes"):
        call_roll(task_of(tmp_path, 1, 2), "i", timeout_seconds=0.05)


def test_a_rank_that_is_there_twice_is_named(tmp_path: Path) -> None:
    task_of(tmp_path, 1, 2).publish("here-1", {"host": "n7", "pid": 1})
    with pytest.raises(GangError, match=r"two processes are rank 1(.|\n)*process 1 on n7"):
        call_roll(task_of(tmp_path, 1, 2), "i", timeout_seconds=0.05)


def test_ranks_of_another_job_are_named(tmp_path: Path) -> None:
    found = call(tmp_path, [time.time] * 3, ["i", "i", "j"])
    assert "ranks do not agree on identity" in str(found[0])
    assert "rank 2 on" in str(found[0])


def test_the_end_is_announced_while_ranks_are_missing(tmp_path: Path) -> None:
    for rank in (0, 1):
        with pytest.raises(StartError, match="before all ranks were there"):
            call_roll(task_of(tmp_path, rank, 3, stop_requested=lambda: True), "i", timeout_seconds=60)


@pytest.mark.parametrize(("tasks", "size", "words"), [(4, 1, "a world of its own"), (2, 3, "wrong size")])
def test_a_world_of_another_size_is_refused_with_the_fix(
    tasks: int, size: int, words: str, tmp_path: Path
) -> None:
    job = Job(name="g", entry="x.y", layout="gang", resources=Resources(tasks=tasks))
    with pytest.raises(WorldError, match=rf"{words}(.|\n)*single srun"):
        check_size(task_of(tmp_path, 0, size, job=job))
    check_size(task_of(tmp_path, 0, 3))


def test_patience_ends_some_time_after_the_announcement(monkeypatch: pytest.MonkeyPatch) -> None:
    announced = False
    check = patience(lambda: announced)
    check()
    announced = True
    check()  # the others may be on their way
    monkeypatch.setattr(roll_call, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(TaskStopped):
        check()
