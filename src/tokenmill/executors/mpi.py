"""Tasks as ranks of one MPI world: of this machine, or of the SLURM allocation that the driver runs in.

    driver ──> mpiexec -n N, or srun --mpi=... ──> rank 0  works, and hands out shards from a thread
                                                   rank r  asks rank 0, works, asks again

A launch is one world. Rank 0 decides by messages who takes which shard, so that ranks never compete for a
lease; attempts and commits are those of every other executor. Rank 0 works as well: with one rank per core a
rank that only hands out would waste a core, and one that answers between its own shards would let the others
wait for as long as a shard takes. Nobody waits inside MPI, which keeps a core busy: waits probe and sleep.

A rank that dies ends its world, since mpiexec and srun end the others; the driver launches what is left.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from functools import cached_property

from tokenmill import storage
from tokenmill.errors import GangError
from tokenmill.executors.launch import Launch, record_intent
from tokenmill.executors.mpi_rank import REFUSED, START_SECONDS, STARTED
from tokenmill.executors.mpi_start import Starter, find_starter, rank_command, start_command, start_fix
from tokenmill.executors.worker import allocated_tasks

_GRACE_SECONDS = 10.0


class MpiExecutor:
    """Tasks as ranks of one MPI world per launch.

    Args:
        workers: most ranks at a time, gangs aside; 0: the tasks of the allocation, or one per core.

    """

    name = "mpi"
    queues = False
    poll_seconds = 0.1
    settle_seconds = 0.0
    start_seconds = START_SECONDS

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers or allocated_tasks() or len(os.sched_getaffinity(0))
        self._running: dict[str, tuple[Launch, subprocess.Popen[bytes], float]] = {}

    @cached_property
    def starter(self) -> Starter:
        """What starts ranks here; looked for once."""
        return find_starter(allocated=allocated_tasks() > 0)

    def check(self) -> None:
        """Refuse to start without MPI.

        Raises:
            MissingExtraError: mpi4py is not installed.
            SubmissionError: there is no MPI library, or nothing that starts its ranks.
        """
        _ = self.starter

    def num_tasks(self, wanted: int) -> int:
        """At most the number of workers."""
        return min(wanted, self.workers)

    def free_slots(self) -> int:
        """Workers that are no rank now."""
        return self.workers - sum(launch.num_tasks for launch, _, _ in self._running.values())

    def launch(self, launch: Launch) -> None:
        """Start a world."""
        command = start_command(
            self.starter, launch.folder.job, launch.num_tasks, rank_command(launch, self.starter)
        )
        record_intent(launch, self.name)
        with contextlib.ExitStack() as stack:
            output = None
            if storage.is_local(launch.url):
                path = storage.local_path(storage.join(launch.url, "mpiexec.out"))
                output = stack.enter_context(path.open("ab"))
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if self.starter.library == "Open MPI" else subprocess.PIPE,
                stdout=output,
                stderr=output and subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the driver, which decides
            )
        self._running[launch.token] = (launch, process, time.monotonic())
        # a driver looks no more once all shards are done, but the world may need another moment
        threading.Thread(target=_reap, args=(process,), name="reap", daemon=True).start()

    def live(self, launches: Sequence[Launch]) -> set[str]:
        """Launches whose world has not ended.

        Raises:
            GangError: a world refused to work, or never began to.
        """
        for token, (launch, process, started) in list(self._running.items()):
            late = time.monotonic() > started + self.start_seconds
            if process.poll() is None and late and not storage.exists(storage.join(launch.url, STARTED)):
                self._end_all()
                raise _never_started(launch, self.starter, self.start_seconds)
            if process.poll() is None:
                continue
            del self._running[token]
            if storage.exists(url := storage.join(launch.url, REFUSED)):
                self._end_all()
                raise GangError(**storage.read_json(url))
        return set(self._running) & {launch.token for launch in launches}

    def ends(self, launch: Launch) -> dict[str, str]:
        """Nothing: which rank ended a world is not known."""
        return {}

    def nudge(self, launches: Sequence[Launch]) -> None:
        """Nothing to do: ranks look up by themselves."""

    def cancel(self, launches: Sequence[Launch]) -> None:
        """End the worlds that this driver started."""
        for launch in launches:
            if launch.token in self._running:
                _end(self._running.pop(launch.token)[1])

    def _end_all(self) -> None:
        self.cancel([launch for launch, _, _ in list(self._running.values())])

    def preview(self, launch: Launch) -> list[str]:
        """The command."""
        command = start_command(
            self.starter, launch.folder.job, launch.num_tasks, rank_command(launch, self.starter)
        )
        return [subprocess.list2cmdline(command)]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a world to end, and make it after a grace."""
    # mpiexec and srun hand USR1 to every rank; TERM would end ranks in the middle of a shard
    for signum, seconds in ((signal.SIGUSR1, _GRACE_SECONDS), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        if process.poll() is None:
            process.send_signal(signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _never_started(launch: Launch, starter: Starter, seconds: float) -> GangError:
    return GangError(
        "the ranks did not find each other",
        where=f"job {launch.folder.job.name}, {launch.url}",
        expected=f"{launch.num_tasks} ranks at work within {seconds:.0f} s",
        got="none",
        fix=start_fix(starter.library),
    )
