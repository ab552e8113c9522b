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
from tokenmill.executors.launch import Executor, launches_of
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.status import driver_of, read_run

_DRIVER_SECONDS = 30.0
_POLL_SECONDS = 0.1


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
    if job is None and (driver := driver_of(run_url)):
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
    if driver["host"] != socket.gethostname():
        raise IdentityError(
            "the driver of this run is on another machine",
            where=run_url,
            got=f"process {driver['pid']} on {driver['host']}",
            fix=f"run tokenmill cancel on {driver['host']}",
        )
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
