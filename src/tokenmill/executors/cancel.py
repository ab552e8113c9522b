"""Ending what runs, from outside the driver.

A job's ``cancelled.json`` says that it shall not run; starting the run again removes it. The driver of this
machine is asked to end, and ends its processes itself; tasks in a queue are cancelled by name.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any

from tokenmill import storage
from tokenmill.config import unknown
from tokenmill.errors import IdentityError, SubmissionError
from tokenmill.executors.controller import cancel_controllers, controller_names
from tokenmill.executors.launch import Executor, launches_of
from tokenmill.executors.leases import BEATS_PER_LEASE
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.status import driver_of, find_shard, folders_of, read_run

_DRIVER_SECONDS = 30.0
_POLL_SECONDS = 0.1


def cancel_shard(run_url: str, target: str) -> str:
    """Set a shard aside and interrupt the attempt that works on it; returns a sentence.

    Args:
        run_url: folder of the run.
        target: ``JOB/SHARD``.

    Raises:
        InputError: the folder is not a run.
        ConfigError: no such job or shard.
    """
    job, shard = find_shard(run_url, target)
    folder = folders_of(run_url, job)[job]
    if shard is None or shard in folder.done():
        return f"{target}: it is done already"
    folder.quarantine(shard, "cancelled by hand")
    seconds = folder.job.resources.lease_seconds / BEATS_PER_LEASE
    return (
        f"{target}: set aside; a task that works on it stops within {seconds:.0f} s. Resuming tries it again"
    )


def cancel(run_url: str, executor: Executor, job: str | None = None) -> list[str]:
    """End what runs of a run, or of one job; returns the names of the jobs that were not complete.

    Args:
        run_url: folder of the run.
        executor: the one that started the tasks.
        job: only this job; the driver goes on with jobs that do not need it.

    Raises:
        ConfigError: no such job.
        IdentityError: the driver is out of reach.
        SubmissionError: the scheduler does not answer.
    """
    run_url = storage.absolute(run_url)
    folders = {
        row["name"]: JobFolder(storage.join(run_url, row["folder"])) for row in read_run(run_url)["jobs"]
    }
    if job is not None and job not in folders:
        raise unknown("job", job, folders, run_url)
    ended = {
        name: folder
        for name, folder in folders.items()
        if name == (job or name) and folder.manifest() is None
    }
    for folder in ended.values():
        storage.write_atomic(folder.at("cancelled.json"), storage.dump_json({"cancelled": time.time()}))
    if job is None:
        if executor.queues:
            cancel_controllers(run_url)
        if driver := driver_of(run_url):
            _end_driver(run_url, driver)
    launches = [launch for folder in ended.values() for launch in launches_of(folder)]
    live = executor.live(launches)
    if live is None:
        raise SubmissionError(
            "the scheduler does not answer", where=run_url, fix="run tokenmill cancel again"
        )
    executor.cancel([launch for launch in launches if launch.token in live])
    return list(ended)


def _end_driver(run_url: str, driver: Mapping[str, Any]) -> None:
    """Ask the driver to end and wait until it has ended its processes."""
    is_job = bool(controller_names(run_url))  # then it was cancelled, and its last act is under way
    if driver["host"] != socket.gethostname() and not is_job:
        raise IdentityError(
            "the driver of this run is on another machine",
            where=run_url,
            got=f"process {driver['pid']} on {driver['host']}",
            fix=f"run tokenmill cancel on {driver['host']}",
        )
    if driver["host"] == socket.gethostname():
        with contextlib.suppress(ProcessLookupError):
            os.kill(driver["pid"], signal.SIGTERM)
    deadline = time.monotonic() + _DRIVER_SECONDS
    while driver_of(run_url) is not None:
        if time.monotonic() > deadline:
            raise IdentityError(
                "the driver does not end",
                where=run_url,
                got=f"process {driver['pid']} on {driver['host']}",
                fix="end it with kill -9; nothing that is done gets lost",
            )
        time.sleep(_POLL_SECONDS)
