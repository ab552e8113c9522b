"""The worker: one task, which takes shards of a job until none is left or its time is over.

The same code runs in every executor. Only this module reads the environment.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import tokenmill
from tokenmill.errors import GangError, TokenmillError, VersionError
from tokenmill.executors import secrets
from tokenmill.executors.array import work_array
from tokenmill.executors.attempt import Place
from tokenmill.executors.gang import work_gang
from tokenmill.executors.job import Shard
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.stop import Stop

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_STOPPED = 85
"""Not finished, but nothing went wrong: launch the job again."""
_GANG_CODES = {"done": EXIT_DONE, "late": EXIT_DONE, "stopped": EXIT_STOPPED, "error": EXIT_FAILED}
_PARENT_POLL_SECONDS = 0.5
_log = logging.getLogger("tokenmill.worker")


def check_version(folder: JobFolder) -> None:
    """Refuse to work for a launch of another version.

    Raises:
        VersionError: the job was launched by another version of tokenmill.
    """
    wanted = folder.record["tokenmill"]
    if wanted != tokenmill.__version__:
        raise VersionError(
            "this worker is of another version than the launch",
            where=f"{folder.url}, {sys.executable}",
            expected=f"tokenmill {wanted}",
            got=f"tokenmill {tokenmill.__version__}",
            fix="install one version for submission and workers, or run again to launch with this one",
        )


def work(folder: JobFolder, place: Place, stop: Stop, take: Callable[[], Shard | None] | None = None) -> int:
    """Take shards until none is left; returns an exit code.

    Args:
        folder: the job's folder.
        place: where this task stands.
        stop: whether the end was announced.
        take: gives the next shard, or None; by default tasks agree by leases in files.

    Raises:
        TokenmillError: the job cannot be worked on at all.
    """
    check_version(folder)
    if place.world_size > 1 or folder.job.layout == "gang":
        return _GANG_CODES[work_gang(folder, place, stop)]
    work_array(folder, place, stop, take)
    return _exit_code(folder, place.launch, stop)


def _exit_code(folder: JobFolder, launch: str, stop: Stop) -> int:
    if folder.finish(launch):
        return EXIT_DONE
    if folder.quarantined():
        return EXIT_FAILED
    return EXIT_STOPPED if not stop.leaves(0.0) else EXIT_DONE


def watch_parent(parent: int, action: Callable[[], None]) -> None:
    """Call ``action`` when the parent process is gone; the watch ends with the process."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_SECONDS)
        action()

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def log_to_stdout() -> None:
    """Send the worker's lines to standard output, where the scheduler keeps them."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False  # an attempt's log holds the lines of the attempt alone


def slurm_place(launch: str, first_task: int, num_tasks: int, segment: int = 0) -> Place:
    """Place of this process, from the variables that SLURM sets.

    Raises:
        GangError: a variable is missing, so this is not a SLURM task.
    """
    environment = os.environ
    host, job_id = (
        environment.get("SLURMD_NODENAME", socket.gethostname()),
        environment.get("SLURM_JOB_ID", ""),
    )
    try:
        if "SLURM_ARRAY_TASK_ID" in environment:
            number = int(environment["SLURM_ARRAY_TASK_ID"])
            name = f"{environment.get('SLURM_ARRAY_JOB_ID', job_id)}_{number}"
            index = first_task + number
            return Place(launch=launch, index=index, num_tasks=num_tasks, host=host, scheduler_id=name)
        return Place(
            launch=launch,
            rank=int(environment["SLURM_PROCID"]),
            world_size=int(environment["SLURM_NTASKS"]),
            local_rank=int(environment["SLURM_LOCALID"]),
            segment=segment,
            restart=int(environment.get("SLURM_RESTART_COUNT", "0")),
            host=host,
            scheduler_id=job_id,
        )
    except KeyError as error:
        raise GangError(
            "this process is not a SLURM task",
            expected="SLURM_ARRAY_TASK_ID, or SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID",
            got=f"{error} is not set",
            fix="start workers through sbatch and srun, as the scripts in submissions/ do",
        ) from error


def equip(folder: JobFolder, *, streams: bool = True) -> None:
    """Put the run's secrets into the environment, and keep secrets out of what this process writes.

    Args:
        folder: the job's folder; its records and logs are kept clean.
        streams: standard output and error are this task's own, and kept clean as well.

    Raises:
        ConfigError: the file of a secret is missing, empty, or readable by others.
    """
    values = secrets.load(secrets.files_of_job(folder.url))
    os.environ.update(values)
    folder.redactor = redactor(values.values())
    if streams:
        sys.stdout, sys.stderr = folder.redactor.stream(sys.stdout), folder.redactor.stream(sys.stderr)


def redactor(values: Iterable[str] = ()) -> secrets.Redactor:
    """Hides these values and those of the environment that are secrets by their name."""
    return secrets.Redactor([*values, *secrets.telling(os.environ)])


def variable(name: str) -> str:
    """Value of a variable of the environment that a person named; empty if it is not set."""
    return os.environ.get(name, "")


def environment(names: Collection[str]) -> dict[str, str]:
    """The variables of these names, and what SLURM's own programs need.

    A driver that is a job itself does not pass on what its own allocation is like.
    """
    own = ["SBATCH_", "SPANK_", "FAKE_SLURM_", *(() if "SLURM_JOB_ID" in os.environ else ("SLURM_",))]
    wanted = {*names, "PATH", "LD_LIBRARY_PATH", "SLURM_CONF"}
    return {name: os.environ[name] for name in os.environ if name in wanted or name.startswith(tuple(own))}


def allocated_tasks() -> int:
    """Tasks of the SLURM allocation that this process runs in; 0 outside of one."""
    return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_JOB_ID" in os.environ else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of a batch script: ``python -m tokenmill.executors.worker``."""
    parser = argparse.ArgumentParser(prog="tokenmill.executors.worker", description="Work on a job's shards.")
    parser.add_argument("--job-folder", required=True)
    parser.add_argument("--launch", required=True)
    parser.add_argument("--first-task", type=int, default=0)
    parser.add_argument("--num-tasks", type=int, default=1)
    parser.add_argument("--segment", type=int, default=0)
    parser.add_argument("--signal-seconds", type=float, default=0.0)
    options = parser.parse_args(arguments)
    try:
        folder = JobFolder(options.job_folder)
        equip(folder)
        log_to_stdout()
        limit = folder.intent(options.launch).get("time_seconds", folder.job.resources.time_seconds)
        stop = Stop(limit, options.signal_seconds)
        signal.signal(signal.SIGUSR1, stop.request)
        signal.signal(signal.SIGTERM, stop.request)
        place = slurm_place(options.launch, options.first_task, options.num_tasks, options.segment)
        return work(folder, place, stop)
    except TokenmillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
