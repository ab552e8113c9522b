"""The start of a gang: nobody works before all ranks are there, once each, with the same job and one folder.

    rank r ── here-r.json ──> rank 0 ── roster.json ──> rank r

What each rank writes is read by rank 0, and what rank 0 writes is read by each: a folder that is not shared
shows. Both ways carry times, which bound how far the clocks are apart. Nothing depends on clocks; a gang
whose clocks differ has logs that are hard to read, and is told so.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import tokenmill
from tokenmill import storage
from tokenmill.errors import GangError, StartError, WorldError
from tokenmill.executors.job import Task, TaskStopped

START_SECONDS = 300.0
"""How long a gang may need until all ranks are there."""
PATIENCE_SECONDS = 20.0
"""How long a rank waits for others once the end was announced: they may be on their way to the same call."""
MOST_SKEW_SECONDS = 1.0
"""Clocks further apart are worth a warning."""
_ROSTER = "roster"


def patience(stop_requested: Callable[[], bool]) -> Callable[[], None]:
    """What a rank calls while it waits for others: gives up some time after the end was announced.

    Args:
        stop_requested: whether it was.
    """
    since: list[float] = []

    def check() -> None:
        if not stop_requested():
            return
        since[:] = since or [time.monotonic()]
        if time.monotonic() > since[0] + PATIENCE_SECONDS:
            raise TaskStopped

    return check


def check_size(task: Task) -> None:
    """Refuse a rank of another world than the one the job asks for; waits for nobody.

    Raises:
        WorldError: the number of ranks is wrong.
    """
    wanted = max(1, task.job.resources.tasks)
    if task.world_size == wanted:
        return
    alone = task.world_size == 1
    raise WorldError(
        "every process is a world of its own" if alone else "a gang of the wrong size",
        where=f"job {task.job.name}, rank {task.rank}",
        expected=f"{wanted} ranks",
        got="rank 0 of 1" if alone else f"{task.world_size} ranks",
        fix="start one worker per rank with a single srun, as the script in submissions/ does; "
        "srun_args of the site must not change the number of tasks",
    )


def call_roll(
    task: Task,
    identity: str,
    *,
    timeout_seconds: float = START_SECONDS,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Wait until all ranks are there; returns how far this rank's clock is from others.

    Args:
        task: this rank.
        identity: of the job that this rank was told to work on.
        timeout_seconds: how long to wait.
        clock: this rank's clock, in seconds since the epoch.

    Raises:
        GangError: a rank is missing, there twice, or works on something else.
        StartError: the end was announced before all were there.
    """
    mine: dict[str, Any] = {"rank": task.rank, "world_size": task.world_size, "identity": identity}
    mine |= {"tokenmill": tokenmill.__version__, "host": socket.gethostname(), "pid": os.getpid()}
    mine["time"] = clock()
    if not task.publish(f"here-{task.rank}", mine):
        raise _twice(task, mine)
    store = _store_skew(task, mine["time"])
    if task.rank == 0:
        seen = _gather(task, timeout_seconds, clock)
        _check(task, mine, {rank: here for rank, (here, _) in seen.items()})
        ranks = {str(rank): here | {"seen": when} for rank, (here, when) in seen.items()}
        task.publish(_ROSTER, {"ranks": ranks, "time": clock()})
        skews = {rank: here["time"] - when for rank, (here, when) in seen.items()}
        ahead = max(skews, key=lambda rank: skews[rank])
        if skews[ahead] > MOST_SKEW_SECONDS:
            task.log.warning("the clock of rank %d is at least %.1f s ahead of rank 0's", ahead, skews[ahead])
        return {"clock": {"store_seconds": store}}
    roster = _wait_for_roster(task, timeout_seconds)
    read = clock()
    entry = roster["ranks"][str(task.rank)]
    if (entry["host"], entry["pid"]) != (mine["host"], mine["pid"]):
        raise _twice(task, mine)
    bounds = [mine["time"] - entry["seen"], read - roster["time"]]  # a message arrives after it was sent
    _warn(task, bounds, store)
    return {"clock": {"store_seconds": store, "rank_0_seconds": bounds}}


def _twice(task: Task, mine: Mapping[str, Any]) -> GangError:
    other = task.published(f"here-{task.rank}") or {}
    return GangError(
        f"two processes are rank {task.rank}",
        where=f"job {task.job.name}, attempt {task.attempt}",
        expected=f"ranks 0 to {task.world_size - 1}, once each",
        got=f"process {other.get('pid')} on {other.get('host')} and process {mine['pid']} on {mine['host']}",
        fix="start all ranks with a single srun or mpiexec; if this job was submitted twice, cancel one",
    )


def _gather(
    task: Task, timeout_seconds: float, clock: Callable[[], float]
) -> dict[int, tuple[dict[str, Any], float]]:
    """What each rank wrote, and when this one saw it."""
    found: dict[int, tuple[dict[str, Any], float]] = {}
    deadline, pause = time.monotonic() + timeout_seconds, 0.005
    while True:
        names = storage.list_names(task.exchange_url)
        for rank in set(range(task.world_size)) - set(found):
            if f"here-{rank}.json" in names:
                found[rank] = (task.published(f"here-{rank}") or {}, clock())
        missing = sorted(set(range(task.world_size)) - set(found))
        if not missing:
            return found
        if time.monotonic() > deadline:
            raise GangError(
                "ranks did not come to the roll call",
                where=f"job {task.job.name}, attempt {task.attempt}",
                expected=f"{task.world_size} ranks within {timeout_seconds:g} s",
                got=f"missing: rank {', '.join(map(str, missing))}",
                fix=f"read what they printed in submissions/; if they did start, they do not see "
                f"{task.exchange_url}: the run folder must be one folder on all nodes",
            )
        pause = _pause(task, pause)


def _wait_for_roster(task: Task, timeout_seconds: float) -> dict[str, Any]:
    deadline, pause = time.monotonic() + timeout_seconds, 0.005
    while (roster := task.published(_ROSTER)) is None:
        if time.monotonic() > deadline:
            raise GangError(
                "rank 0 did not answer the roll call",
                where=f"job {task.job.name}, rank {task.rank} of {task.world_size}, attempt {task.attempt}",
                expected=f"{_ROSTER}.json in {task.exchange_url} within {timeout_seconds:g} s",
                fix="read rank 0's log, which names missing ranks; if it has none, the run folder is not one "
                "folder on all nodes",
            )
        pause = _pause(task, pause)
    return roster


def _pause(task: Task, seconds: float) -> float:
    """Sleep; returns how long to sleep next time."""
    if task.stop_requested():  # nothing was done yet, so this is no stop with its progress saved
        raise StartError(
            "the end was announced before all ranks were there",
            where=f"job {task.job.name}, rank {task.rank} of {task.world_size}, attempt {task.attempt}",
            fix="read what the other ranks printed in submissions/: one of them may have failed at its start",
        )
    time.sleep(seconds)
    return min(0.2, seconds * 1.5)  # a shared file system does not like to be asked often


def _check(task: Task, mine: Mapping[str, Any], ranks: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse ranks that were started for something else."""
    for key in ("identity", "tokenmill", "world_size"):
        others = {rank: here[key] for rank, here in ranks.items() if here[key] != mine[key]}
        if others:
            rank, value = next(iter(others.items()))
            raise GangError(
                f"ranks do not agree on {key}",
                where=f"job {task.job.name}, rank {rank} on {ranks[rank]['host']}",
                expected=f"{mine[key]}, as rank 0 on {mine['host']}",
                got=str(value),
                fix="give all nodes the same installation and the same run folder",
            )


def _store_skew(task: Task, written: float) -> float | None:
    """The store's clock less this rank's, from the time of a file just written; None if it does not say."""
    url = storage.join(task.exchange_url, f"here-{task.rank}.json")
    return storage.local_path(url).stat().st_mtime - written if storage.is_local(url) else None


def _warn(task: Task, bounds: list[float], store: float | None) -> None:
    lower, upper = bounds
    if lower > MOST_SKEW_SECONDS:
        task.log.warning("this clock is at least %.1f s ahead of rank 0's", lower)
    if upper < -MOST_SKEW_SECONDS:
        task.log.warning("this clock is at least %.1f s behind rank 0's", -upper)
    if store is not None and abs(store) > MOST_SKEW_SECONDS:
        task.log.warning("the clock of the run folder's store is %.1f s from this one", store)
