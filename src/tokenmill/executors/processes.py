"""Tasks as processes of this machine (multiprocessing, spawn).

The processes end with the driver: a driver that is killed leaves no worker behind. Two drivers would still be
safe, since commits decide.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess

from tokenmill import storage
from tokenmill.errors import TokenmillError
from tokenmill.executors.attempt import Place
from tokenmill.executors.launch import Launch, record_intent
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.stop import Stop
from tokenmill.executors.worker import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    equip,
    log_to_stdout,
    watch_parent,
    work,
)

_GRACE_SECONDS = 10.0
_LOST_SECONDS = 1.0
"""Grace for the peers of a rank that failed: they can only wait for it."""


def process_main(job_url: str, place: Place, output: str, parent: int) -> None:
    """Body of a worker process; its printed lines go to ``output``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    if output:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    watch_parent(parent, lambda: os._exit(EXIT_FAILED))
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.request)
    signal.signal(signal.SIGUSR1, stop.request)
    try:
        folder = JobFolder(job_url)
        equip(folder)
        log_to_stdout()
        sys.exit(work(folder, replace(place, scheduler_id=str(os.getpid())), stop))
    except TokenmillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_FAILED)


def start_tasks(launch: Launch) -> list[BaseProcess]:
    """Start the processes of a launch: one per task or rank."""
    context = multiprocessing.get_context("spawn")
    gang = launch.folder.job.layout == "gang"
    started: list[BaseProcess] = []
    for index in range(launch.num_tasks):
        if gang:
            place = Place(launch=launch.token, rank=index, world_size=launch.num_tasks, local_rank=index)
        else:
            place = Place(launch=launch.token, index=index, num_tasks=launch.num_tasks)
        output = storage.join(launch.url, f"task-{index}.out") if storage.is_local(launch.url) else ""
        process = context.Process(
            target=process_main,
            args=(launch.folder.url, place, output, os.getpid()),
            name=f"{launch.folder.job.name}-{index}",
        )
        process.start()
        started.append(process)
    return started


class ProcessesExecutor:
    """Tasks as processes of this machine.

    Args:
        workers: most processes at a time; a gang may have more, since its ranks start together.

    """

    name = "processes"
    queues = False
    poll_seconds = 0.1
    settle_seconds = 0.0

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._started: dict[str, list[BaseProcess]] = {}
        self._gangs: set[str] = set()
        self._ends: dict[str, dict[str, str]] = {}

    def num_tasks(self, wanted: int) -> int:
        """At most the number of workers."""
        return min(wanted, self.workers)

    def free_slots(self) -> int:
        """Workers without a process."""
        alive = sum(process.is_alive() for processes in self._started.values() for process in processes)
        return self.workers - alive

    def launch(self, launch: Launch) -> None:
        """Start the processes."""
        record_intent(launch, self.name)
        if launch.folder.job.layout == "gang":
            self._gangs.add(launch.token)
        self._started[launch.token] = start_tasks(launch)

    def live(self, launches: Sequence[Launch]) -> set[str]:
        """Launches with a process that runs; a gang that lost a rank is ended first."""
        alive: set[str] = set()
        for token, processes in list(self._started.items()):
            if token in self._gangs and has_failed(processes):
                end_processes(processes, grace_seconds=_LOST_SECONDS)
            if any(process.is_alive() for process in processes):
                alive.add(token)
            else:
                ended = self._started.pop(token)
                for process in ended:
                    process.join()
                killed = [process for process in ended if (process.exitcode or 0) < 0]
                self._ends[token] = {str(process.pid): "killed" for process in killed}
        return alive & {launch.token for launch in launches}

    def ends(self, launch: Launch) -> dict[str, str]:
        """Processes that a signal ended."""
        return self._ends.get(launch.token, {})

    def nudge(self, launches: Sequence[Launch]) -> None:
        """Interrupt attempts whose shards others have done; a gang has none."""
        for launch in launches:
            if launch.token not in self._gangs:
                _interrupt(self._started.get(launch.token, []))

    def cancel(self, launches: Sequence[Launch]) -> None:
        """End the processes of launches that this driver started."""
        self.nudge(launches)
        for launch in launches:
            end_processes(self._started.pop(launch.token, []))

    def preview(self, launch: Launch) -> list[str]:
        """One line: no script is needed."""
        kind = "ranks" if launch.folder.job.layout == "gang" else "processes"
        return [f"{launch.num_tasks} {kind} on this machine"]


def _interrupt(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive() and process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGUSR2)  # see leases.Heart


def has_failed(processes: Sequence[BaseProcess]) -> bool:
    """True if a process ended with an error; a rank that stopped on request did not."""
    return any(process.exitcode not in (None, EXIT_DONE, EXIT_STOPPED) for process in processes)


def end_processes(processes: Sequence[BaseProcess], grace_seconds: float = _GRACE_SECONDS) -> None:
    """Ask processes to end, and make them after a grace."""
    deadline = time.monotonic() + grace_seconds
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(max(0.1, deadline - time.monotonic()))
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        process.join()
