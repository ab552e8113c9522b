"""One rank of an MPI world: it connects, checks the world, and works.

    rank 0   works, and hands out shards from a thread
    rank r   asks rank 0, works, asks again

Gangs are one shard, so nobody asks; their ranks share a world for collectives instead.
"""

import argparse
import contextlib
import faulthandler
import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from tokenmill import storage
from tokenmill.errors import GangError, MissingExtraError, TokenmillError
from tokenmill.executors.attempt import Place
from tokenmill.executors.job import Shard
from tokenmill.executors.launch import Launch
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.mpi_world import MpiWorld, check_world
from tokenmill.executors.plan import remaining
from tokenmill.executors.roll_call import patience
from tokenmill.executors.stop import Stop
from tokenmill.executors.worker import EXIT_FAILED, equip, log_to_stdout, work

START_SECONDS = 120.0
"""A world that has not begun to work by then never will."""
REFUSED, STARTED = "refused.json", "started.json"
"""Files of a launch: why its world refused to work, or that it began."""
_ANSWER_SECONDS = 600.0
_PEER_SECONDS = 600.0
_POLL_SECONDS = 0.002
_ASK, _ANSWER = 1, 2


class Connection:
    """This process as a rank of an MPI world; connects when it is made.

    Args:
        stop_requested: whether the end was announced.

    Raises:
        MissingExtraError: mpi4py is not installed.
    """

    def __init__(self, stop_requested: Callable[[], bool] = lambda: False) -> None:
        try:
            from mpi4py import MPI
        except ModuleNotFoundError as error:
            raise MissingExtraError.of("mpi4py", "mpi", "--executor mpi") from error
        self._mpi = MPI
        self._comm: Any = MPI.COMM_WORLD.Dup()  # entries may use COMM_WORLD for messages of their own
        self.rank: int = self._comm.rank
        self.world_size: int = self._comm.size
        self.local_rank: int = self._comm.Split_type(MPI.COMM_TYPE_SHARED).rank
        self.library = MPI.Get_library_version().strip().partition("\n")[0]
        self.world = MpiWorld(
            rank=self.rank, world_size=self.world_size, comm=self._comm.Dup(), check=patience(stop_requested)
        )

    def check(self, wanted: int, where: str) -> None:
        """Refuse a world that is not the one that was asked for.

        Raises:
            GangError: not all ranks are there, or rank 0 could not hand out from a thread.
        """
        threads = self._mpi.Query_thread() >= self._mpi.THREAD_MULTIPLE
        ranks = [int(rank) for rank in self.world.all_gather(str(self.rank).encode())]
        total = int(self.world.all_reduce(np.ones(1, np.int64))[0])
        check_world(wanted, ranks, total, threads=threads, library=self.library, where=where)

    def ask(self) -> int | None:
        """The next shard, from rank 0; None if none is left.

        Raises:
            GangError: rank 0 does not answer.
        """
        self._comm.send(None, dest=0, tag=_ASK)
        deadline = time.monotonic() + _ANSWER_SECONDS
        while not self._comm.iprobe(source=0, tag=_ANSWER):
            if time.monotonic() > deadline:
                raise GangError(
                    "rank 0 does not hand out shards",
                    where=f"rank {self.rank} of {self.world_size}",
                    expected=f"an answer within {_ANSWER_SECONDS:.0f} s",
                    fix="read task-0.out beside this file",
                )
            time.sleep(_POLL_SECONDS)
        answer: int | None = self._comm.recv(source=0, tag=_ANSWER)
        return answer

    @contextlib.contextmanager
    def handing_out(self, deal: Callable[[], int | None]) -> Iterator[None]:
        """Answer the other ranks from a thread while this one works."""
        over = threading.Event()

        def serve() -> None:
            status = self._mpi.Status()
            while not over.wait(_POLL_SECONDS):
                while self._comm.iprobe(source=self._mpi.ANY_SOURCE, tag=_ASK, status=status):
                    self._comm.recv(source=status.source, tag=_ASK)
                    self._comm.send(deal(), dest=status.source, tag=_ANSWER)

        thread = threading.Thread(target=_or_die, args=(serve,), name="hand-out", daemon=True)
        thread.start()
        yield
        over.set()
        thread.join()

    def wait_for_all(self, seconds: float = float("inf")) -> None:
        """Wait until every rank is here; the end of MPI would wait as well, but keep its core busy.

        Args:
            seconds: how long; ranks of an array may rightly work for as long as their shards take, and a
                rank that dies ends its world.

        Raises:
            GangError: some did not come in time.
        """
        replace(self.world, timeout_seconds=seconds, check=lambda: None).barrier()


def work_as_rank(folder: JobFolder, place: Place, stop: Stop, world: Connection) -> int:
    """Work until no shard is left, or as a rank of a gang; returns an exit code."""
    if folder.job.layout == "gang":
        code = work(folder, place, stop)
        if code == EXIT_FAILED:  # without the farewell of MPI, so that the others end as well
            _die()
        world.wait_for_all(_PEER_SECONDS)
        return code
    shards = {shard.index: shard for shard in folder.ensure_plan()}

    def take(ask: Callable[[], int | None]) -> Shard | None:
        index = ask()
        if index is None:
            return None
        # nobody competes for the shard; the lease shows that it is worked on
        folder.lease(place.launch, index, {"task": place.index, "pid": os.getpid()})
        return shards[index]

    if world.rank:
        code = work(folder, place, stop, functools.partial(take, world.ask))
        world.wait_for_all()
        return code
    left = remaining(list(shards.values()), done=folder.done(), quarantined=set(folder.quarantined()))
    deal = Dealer([shard.index for shard in left])
    with world.handing_out(deal):
        code = work(folder, place, stop, functools.partial(take, deal))
        world.wait_for_all()
    return code


class Dealer:
    """Gives each shard to one rank, in order; two threads may ask.

    >>> deal = Dealer([4, 7])
    >>> [deal(), deal(), deal(), deal()]
    [4, 7, None, None]
    """

    def __init__(self, shards: Sequence[int]) -> None:
        self._shards = iter(shards)
        self._lock = threading.Lock()

    def __call__(self) -> int | None:
        """The next shard; None if none is left."""
        with self._lock:
            return next(self._shards, None)


def _die() -> NoReturn:
    """End without the farewell of MPI, which waits for the other ranks: the launcher ends them instead."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


def _or_die(action: Callable[[], object]) -> None:
    try:
        action()
    except BaseException:
        traceback.print_exc()
        _die()


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    _die()


def _print_to(launch: Launch, rank: int) -> None:
    """Send what this rank prints to a file of its own, apart from what mpiexec says."""
    if not storage.is_local(launch.url):
        return
    path = storage.local_path(storage.join(launch.url, f"task-{rank}.out"))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def run_rank(launch: Launch, *, end_with_stdin: bool) -> int:
    """Connect, check the world, work; returns an exit code.

    Args:
        launch: what to work on.
        end_with_stdin: rank 0 ends when its standard input does: the driver is gone.

    Raises:
        GangError: it is not the world that was asked for; the launch's folder says so.
    """
    stop = Stop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C may reach the whole group; the driver decides
    faulthandler.dump_traceback_later(START_SECONDS, exit=True)  # connecting has no deadline of its own
    world = Connection(stop.requested)
    for signum in (signal.SIGTERM, signal.SIGUSR1):  # MPI may have set handlers of its own
        signal.signal(signum, stop.request)
    _print_to(launch, world.rank)
    equip(launch.folder)
    log_to_stdout()
    where = f"job {launch.folder.job.name}, launch {launch.token}"
    try:
        world.check(launch.num_tasks, where)
    except GangError as error:
        fields = {key: getattr(error, key) for key in ("what", "where", "expected", "got", "fix")}
        storage.write_atomic(storage.join(launch.url, REFUSED), storage.dump_json(fields))
        raise
    faulthandler.cancel_dump_traceback_later()
    if end_with_stdin and world.rank == 0:  # only now: in a broken world all are rank 0, most without input
        threading.Thread(target=_end_with_stdin, name="end-with-stdin", daemon=True).start()
    if world.rank == 0:
        started = {"world_size": world.world_size, "library": world.library}
        storage.write_atomic(storage.join(launch.url, STARTED), storage.dump_json(started))
    return work_as_rank(launch.folder, _place(launch, world), stop, world)


def _place(launch: Launch, mine: Connection) -> Place:
    if launch.folder.job.layout != "gang":
        return Place(launch=launch.token, index=mine.rank, num_tasks=mine.world_size)
    return Place(
        launch=launch.token,
        rank=mine.rank,
        world_size=mine.world_size,
        local_rank=mine.local_rank,
        world=mine.world,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of a rank: ``mpiexec -n N python -m tokenmill.executors.mpi_rank``."""
    parser = argparse.ArgumentParser(prog="tokenmill.executors.mpi_rank", description="Work as one rank.")
    parser.add_argument("--job-folder", required=True)
    parser.add_argument("--launch", required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--end-with-stdin", action="store_true", help="rank 0 ends when its input ends")
    options = parser.parse_args(arguments)
    folder = JobFolder(options.job_folder)
    try:
        launch = Launch(token=options.launch, folder=folder, num_tasks=options.ranks)
        return run_rank(launch, end_with_stdin=options.end_with_stdin)
    except TokenmillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    except BaseException:
        traceback.print_exc()
    _die()


if __name__ == "__main__":
    sys.exit(main())
