"""Which launches of a run may still work, for verbs that take things away."""

import time
from collections.abc import Iterable

from tokenmill import storage
from tokenmill.errors import IdentityError, SubmissionError
from tokenmill.executors.launch import Executor, launches_of
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.status import driver_of

_QUEUE = "slurm"
"""Name of the executor whose tasks outlive their driver, in the records of launches."""
_SETTLE_SECONDS = 15.0
"""Tasks leave the queue a little later than their last commit; that long they are waited for."""


def live_launches(run_url: str, folders: Iterable[JobFolder], executor: Executor) -> set[str]:
    """Tokens of launches of which a task may still run.

    Processes end with their driver, so without a scheduler a living driver is all there is to know.

    Raises:
        IdentityError: a driver works on the run, and its processes are known to it alone; or tasks were
            queued and the executor is not the one to ask.
        SubmissionError: the scheduler does not answer.
    """
    launches = [launch for folder in folders for launch in launches_of(folder)]
    used = {storage.read_json(storage.join(launch.url, "intent.json"))["executor"] for launch in launches}
    if used - {_QUEUE} or not executor.queues:
        refuse_driver(run_url)
    if _QUEUE in used and not executor.queues:
        raise IdentityError(
            "tasks of this run may still be queued at SLURM",
            where=run_url,
            expected="the slurm executor, which can ask",
            got=f"the {executor.name} executor",
            fix="--executor slurm --site NAME",
        )
    live = executor.live(launches)
    if live is None:
        raise SubmissionError("the scheduler does not answer", where=run_url, fix="run this again later")
    return live


def refuse_driver(run_url: str) -> None:
    """Refuse while a driver works on a run.

    Raises:
        IdentityError: one does.
    """
    if driver := driver_of(run_url):
        raise IdentityError(
            "a driver works on this run",
            where=run_url,
            got=f"process {driver['pid']} on {driver['host']}",
            fix="wait until it has ended, or tokenmill cancel",
        )


def refuse_live(run_url: str, folders: Iterable[JobFolder], executor: Executor) -> None:
    """Refuse while anything may work on a run.

    Raises:
        IdentityError: a driver or a task does.
        SubmissionError: the scheduler does not answer.
    """
    refuse_driver(run_url)
    kept = list(folders)
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (live := live_launches(run_url, kept, executor)) and time.monotonic() < deadline:
        time.sleep(executor.poll_seconds)
    if live:
        raise IdentityError(
            "tasks of this run may still work",
            where=run_url,
            got=f"{len(live)} launches in the queue: {', '.join(sorted(live))}",
            fix="wait until they have ended, or tokenmill cancel",
        )
