"""One attempt at one shard: the entry is called, its outputs are committed, and the attempt is recorded.

The order is the whole point: outputs are written under private names and made durable, then the commit record
is published, then the attempt is recorded as done. Death before the commit leaves files that nobody reads;
death after it leaves a finished shard.
"""

import functools
import io
import logging
import os
import socket
import time
import traceback
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import tokenmill
from tokenmill import storage, values
from tokenmill.errors import ConfigError, GangError, StorageError, TokenmillError
from tokenmill.executors.failures import error_class
from tokenmill.executors.hang import watched
from tokenmill.executors.job import Job, Shard, Task, TaskStopped
from tokenmill.executors.leases import Heart, Overtaken, peak_rss_bytes
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.roll_call import call_roll, check_size, patience
from tokenmill.executors.world import FileWorld, World
from tokenmill.telemetry import Counters, Report

_PEER_SECONDS = 600.0
_POLL_SECONDS = 0.05
_PROGRESS_NAMES = 4


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a task stands among its like."""

    launch: str
    """Token of the launch."""
    index: int = 0
    """Number of the task in the launch."""
    num_tasks: int = 1
    """Tasks of the launch."""
    rank: int = 0
    """Rank in the gang."""
    world_size: int = 1
    """Ranks of the gang; 1 in an array."""
    local_rank: int = 0
    """Rank within the node."""
    host: str = field(default_factory=socket.gethostname)
    """Name of the node."""
    scheduler_id: str = ""
    """The task as its scheduler names it."""
    segment: int = 0
    """Which of the launch's submissions that follow each other; of a gang."""
    restart: int = 0
    """How often the scheduler has started this submission before; of a gang."""
    world: World | None = None
    """The ranks' connection, where the executor has one; else they meet at files."""
    in_driver: bool = False
    """This process is the driver's own, so it must not be ended."""


def attempt_name(place: Place, layout: str) -> str:
    """Name of a new attempt: unique, and for a gang the same on all its ranks."""
    unique = f"s{place.segment}r{place.restart}" if layout == "gang" else os.urandom(3).hex()
    return f"{place.launch}-{unique}"


def run_attempt(
    folder: JobFolder, shard: Shard, place: Place, stop: Callable[[], bool], heart: Heart | None = None
) -> str:
    """Try a shard; returns the outcome: done, late (another attempt was first), stopped or error.

    Args:
        folder: the job's folder.
        shard: what to work on.
        place: where this task stands.
        stop: whether the end was announced.
        heart: interrupts the entry when another attempt has committed the shard.
    """
    job = folder.job
    attempt = attempt_name(place, job.layout)
    intent = folder.intent(place.launch)
    record: dict[str, Any] = {
        "shard": shard.index,
        "attempt": attempt,
        "rank": place.rank,
        "launch": place.launch,
        "host": place.host,
        "task": place.index,
        "scheduler_id": place.scheduler_id,
        "memory_bytes": intent.get("memory_bytes", job.resources.memory_bytes),
        "time_seconds": intent.get("time_seconds", job.resources.time_seconds),
        "pid": os.getpid(),
        "started": time.time(),
        "outcome": "running",
    }
    if job.layout == "gang":  # failures after new progress are not held against those before it
        record["progress"] = storage.list_names(folder.at("progress"))[-_PROGRESS_NAMES:]
    folder.write_attempt(record)
    with _attempt_log(folder, shard.index, attempt, place.rank) as log:
        log.info(
            "job %s, shard %d of %d, attempt %s, rank %d of %d, host %s, pid %d, tokenmill %s",
            *(job.name, shard.index, folder.num_shards(), attempt, place.rank, place.world_size),
            *(record["host"], record["pid"], tokenmill.__version__),
        )
        task = Task(
            job=job,
            shard=shard,
            num_shards=folder.num_shards() or 1,
            attempt=attempt,
            job_url=folder.url,
            rank=place.rank,
            world_size=place.world_size,
            local_rank=place.local_rank,
            log=log,
            stop_requested=stop,
            redact=folder.redactor.text,
        )
        task.world = place.world or _file_world(task)
        end = functools.partial(_end_hanging, folder, record, task)
        with watched(task, end) if job.layout == "gang" and not place.in_driver else nullcontext():
            outcome, error = _call(folder, task, record, heart)
        log.info("outcome: %s", outcome)
    _write_end(folder, record, task, outcome, error)
    return outcome


@contextmanager
def _counting_requests(task: Task) -> typing.Iterator[None]:
    """Note what the entry and the commit asked of object stores."""
    before = Counter(storage.requests())
    try:
        yield
    finally:
        if requests := dict(Counter(storage.requests()) - before):
            task.findings["requests"] = requests


def _end_hanging(folder: JobFolder, record: Mapping[str, Any], task: Task, error: GangError) -> None:
    """End this process: the thread of the entry may be stuck where no Python runs."""
    _write_end(folder, record, task, "error", error)
    if reason := folder.hopeless(task.shard.index):
        folder.quarantine(task.shard.index, reason)
    os._exit(1)


def _file_world(task: Task) -> World:
    return FileWorld(
        rank=task.rank,
        world_size=task.world_size,
        check=patience(task.stop_requested),
        url=storage.join(task.exchange_url, "world"),
    )


def _write_end(
    folder: JobFolder, record: Mapping[str, Any], task: Task, outcome: str, error: Exception | None
) -> None:
    folder.write_attempt(
        {
            **record,
            **task.findings,
            "outcome": outcome,
            "error": "" if error is None else folder.redactor.text(f"{type(error).__name__}: {error}"),
            "class": "" if error is None else error_class(error),
            "ended": time.time(),
            "seconds": time.time() - record["started"],
            "cpu_seconds": time.process_time() - task.cpu_start,
            "max_rss_bytes": peak_rss_bytes(),
        }
    )


def _call(
    folder: JobFolder, task: Task, record: Mapping[str, Any], heart: Heart | None
) -> tuple[str, Exception | None]:
    """Call the entry and commit; returns the outcome and the error."""
    error: Exception | None = None
    try:
        with _counting_requests(task):
            outcome = _work_and_commit(folder, task, record, heart)
    except TaskStopped:
        return "stopped", None
    except Overtaken:
        task.log.info("another attempt was first, or the shard was cancelled")
        outcome = "late"
    except Exception as raised:
        task.log.error("%s", traceback.format_exc())
        # if the failure came after the record was there, its files are needed
        outcome, error = ("done", None) if _is_committed(folder, task) else ("error", raised)
    if outcome != "done":
        _discard(folder, task, error)
    return outcome, error


def _work_and_commit(folder: JobFolder, task: Task, record: Mapping[str, Any], heart: Heart | None) -> str:
    cpu_start = time.process_time()
    function, config_type = values.load_entry(task.job.entry, where=f"job {task.job.name}")
    config: Any = values.build(config_type, task.job.config, where=f"job {task.job.name}, config")
    if task.job.layout == "gang":
        check_size(task)
    if task.world_size > 1:
        task.findings |= call_roll(task, folder.record["identity"])
    task.signs += 1  # from here on a gang may hang
    with heart.interruptible() if heart else nullcontext():
        function(config, task)
    if task.rank:
        _send_outputs(folder, task)
        return "done"
    _gather_outputs(task)
    won = folder.commit(_commit_record(folder, task, record, time.process_time() - cpu_start))
    return "done" if won else "late"


def _commit_record(
    folder: JobFolder, task: Task, record: Mapping[str, Any], cpu_seconds: float
) -> dict[str, Any]:
    return {
        "shard": task.shard.index,
        "attempt": task.attempt,
        "identity": folder.record["identity"],
        "inputs": folder.plan_inputs,
        "host": record["host"],
        "started": record["started"],
        "ended": time.time(),
        "seconds": time.time() - record["started"],
        "cpu_seconds": cpu_seconds,
        "outputs": sorted(task.outputs, key=lambda output: output["name"]),
        "counters": task.counters.values,
        "figures": folder.redactor.value(task.report.figures),
    }


def _is_committed(folder: JobFolder, task: Task) -> bool:
    try:
        return bool(storage.read_json(folder.done_url(task.shard.index))["attempt"] == task.attempt)
    except (TokenmillError, OSError):
        return False


def _discard(folder: JobFolder, task: Task, error: Exception | None) -> None:
    """Remove the private files of an attempt that will not be committed; ``tokenmill gc`` finds what stays.

    They stay where the record may name them yet: on stores on which a loser of the race to publish cannot be
    sure that it lost, and after a store did not say whether it took the record.
    """
    if isinstance(error, StorageError) and not storage.is_local(folder.url):
        return
    with suppress(StorageError):  # the attempt's own error is the one to tell
        if not storage.is_exclusive(folder.url):
            return
        for output in task.outputs:
            if task.attempt in output["path"]:  # adopted files belong to the job's progress
                storage.remove(folder.at(output["path"]))


def _send_outputs(folder: JobFolder, task: Task) -> None:
    figures = folder.redactor.value(task.report.figures)
    task.publish(
        f"outputs-{task.rank}",
        {"outputs": task.outputs, "counters": task.counters.values, "figures": figures},
    )


def _gather_outputs(task: Task) -> None:
    """Rank 0 waits for the outputs of its peers and merges them in order of ranks."""
    deadline, check = time.monotonic() + _PEER_SECONDS, patience(task.stop_requested)
    for rank in range(1, task.world_size):
        while (sent := task.published(f"outputs-{rank}")) is None:
            if time.monotonic() > deadline:
                raise GangError(
                    "a rank did not finish",
                    where=f"job {task.job.name}, rank {rank} of {task.world_size}",
                    expected=f"its outputs within {_PEER_SECONDS:.0f} s of rank 0's",
                    fix="read its log in the job folder",
                )
            check()
            time.sleep(_POLL_SECONDS)
        task.outputs.extend(sent["outputs"])
        task.counters.merge(Counters(sent["counters"]))
        merged = Report(figures=task.report.figures)
        merged.merge(sent["figures"])


@contextmanager
def _attempt_log(folder: JobFolder, shard: int, attempt: str, rank: int) -> typing.Iterator[logging.Logger]:
    """Logger whose lines go to the attempt's log file."""
    url = folder.log_url(shard, attempt, rank)
    handler: logging.Handler
    buffer = io.StringIO()
    if storage.is_local(url):
        path = storage.local_path(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    else:  # object stores cannot append: the log is stored when the attempt ends
        handler = logging.StreamHandler(buffer)
    handler.setFormatter(folder.redactor.formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("tokenmill")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield logging.getLogger("tokenmill.task")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with suppress(OSError, TokenmillError):  # a log is for people: without space for it the work stands
            handler.close()
            if buffer.getvalue():
                storage.write_atomic(url, buffer.getvalue().encode())


def shard_of(folder: JobFolder, job: Job) -> Shard:
    """The one shard of a gang.

    Raises:
        ConfigError: the job has several.
    """
    shards = folder.ensure_plan()
    if len(shards) != 1:
        raise ConfigError("a gang has one shard", where=f"job {job.name}", got=f"{len(shards)} shards")
    return shards[0]
