"""Tasks as ranks of one MPI world: of this machine, or of the SLURM allocation that the driver runs in.

    driver ──> mpiexec -n N, or srun --mpi=... ──> rank 0  works, and hands out shards from a thread
                                                   rank r  asks rank 0, works, asks again

A launch is one world. Rank 0 decides by messages who takes which shard, so that ranks never compete for a
lease; attempts and commits are those of every other executor. Rank 0 works as well: with one rank per core a
rank that only hands out would waste a core, and one that answers between its own shards would let the others
wait for as long as a shard takes. Nobody waits inside MPI, which keeps a core busy: waits probe and sleep.

A rank that dies ends its world, since mpiexec and srun end the others; the driver launches what is left.
"""

import argparse
import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from tokenmill import storage
from tokenmill.errors import GangError, MissingExtraError, SubmissionError, TokenmillError
from tokenmill.executors.attempt import Place
from tokenmill.executors.job import Job, Shard
from tokenmill.executors.launch import Launch, record_intent
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.plan import remaining
from tokenmill.executors.worker import EXIT_FAILED, Stop, allocated_tasks, equip, log_to_stdout, work

PMI = {"MPICH": "pmi2", "Open MPI": "pmix"}
"""What srun must speak so that ranks of an MPI library find each other."""
_PROGRAM_SECONDS = 60.0
_START_SECONDS = 120.0
"""A world that has not begun to work by then never will."""
_GRACE_SECONDS = 10.0
_ANSWER_SECONDS = 600.0
_POLL_SECONDS = 0.002
_ASK, _ANSWER = 1, 2
_REFUSED, _STARTED = "refused.json", "started.json"


# How ranks are started


@dataclass(frozen=True, kw_only=True)
class Starter:
    """What starts the ranks here."""

    program: str
    """mpiexec with its path, or srun."""
    library: str
    """The MPI library that mpi4py loads: a key of ``PMI``."""
    pmi: str = ""
    """What srun is asked to speak; empty for mpiexec."""


def start_command(starter: Starter, job: Job, num_ranks: int, words: Sequence[str]) -> list[str]:
    """The command that starts a world: a pure function of its arguments.

    Args:
        starter: what starts ranks here.
        job: the job.
        num_ranks: size of the world.
        words: the command of one rank.

    """
    if starter.pmi:
        # steps overlap as processes of one machine do: a job must not wait for the steps of another
        flags = [f"--mpi={starter.pmi}", f"--ntasks={num_ranks}", f"--cpus-per-task={job.resources.cpus}"]
        flags += ["--overlap", "--kill-on-bad-exit=1", "--export=ALL", "--input=0"]
    else:
        flags = ["-n", str(num_ranks)]
        if starter.library == "Open MPI":  # it would refuse more ranks than cores, and nail each to one core
            flags = ["--oversubscribe", "--bind-to", "none", *flags]
    return [starter.program, *flags, *words]


def rank_command(launch: Launch, starter: Starter) -> list[str]:
    """The command of one rank."""
    words = [sys.executable, "-u", "-m", "tokenmill.executors.mpi", "--job-folder", launch.folder.url]
    words += ["--launch", launch.token, "--ranks", str(launch.num_tasks)]
    # standard input ends with the driver; Open MPI's mpiexec does not pass that on faithfully
    return words if starter.library == "Open MPI" else [*words, "--end-with-stdin"]


def library_of(version: str) -> str:
    """Name of an MPI library, from what it says of itself.

    Raises:
        SubmissionError: it is none that tokenmill can start.
    """
    for name in PMI:
        if version.startswith(name):
            return name
    raise SubmissionError(
        "an MPI library that tokenmill cannot start",
        where="mpi4py",
        expected=" or ".join(PMI),
        got=version.strip().partition("\n")[0] or "nothing",
        fix="pip install 'tokenmill[mpi]' brings MPICH",
    )


def pmi_of(library: str, offered: str) -> str:
    """What srun must speak for an MPI library.

    Args:
        library: a key of ``PMI``.
        offered: what ``srun --mpi=list`` printed.

    Raises:
        SubmissionError: srun does not speak it.
    """
    words = offered.replace(",", " ").split()
    if PMI[library] in words:
        return PMI[library]
    fixes = [f"install an MPI library for {pmi}: {name}" for name, pmi in PMI.items() if pmi in words]
    raise SubmissionError(
        f"srun cannot start ranks of {library}",
        where="srun --mpi=list",
        expected=PMI[library],
        got=" ".join(words) or "nothing",
        fix="; ".join(fixes) or "ask for SLURM's plugin, or use --executor slurm",
    )


def _output_of(command: Sequence[str], purpose: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROGRAM_SECONDS, check=False
        )  # srun lists on stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SubmissionError(f"{command[0]} does not answer", where=purpose, got=str(error)) from error
    if done.returncode:
        raise SubmissionError(
            f"cannot {purpose}",
            got=" ".join(done.stderr.split()[-40:]) or f"exit code {done.returncode}",
            fix="pip install 'tokenmill[mpi]', or load an MPI library that mpi4py finds",
        )
    return done.stdout + done.stderr


def find_starter(*, allocated: bool) -> Starter:
    """What starts ranks here.

    Args:
        allocated: inside a SLURM allocation, where ranks are a step.

    Raises:
        MissingExtraError: mpi4py is not installed.
        SubmissionError: there is no MPI library, or nothing that starts its ranks.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise MissingExtraError.of("mpi4py", "mpi", "--executor mpi")
    # in a process of its own: the driver is no rank, and a loaded MPI library changes a process
    code = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI"
    asked = [sys.executable, "-c", f"{code}; print(MPI.Get_library_version())"]
    library = library_of(_output_of(asked, "load an MPI library"))
    if allocated:
        offered = _output_of(["srun", "--mpi=list"], "ask srun what it speaks")
        return Starter(program="srun", library=library, pmi=pmi_of(library, offered))
    # beside Python first: pip puts mpiexec there together with the library that mpi4py prefers
    program = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if program is None:
        raise SubmissionError(
            "mpiexec is not on PATH",
            expected=f"mpiexec of {library}",
            fix="pip install 'tokenmill[mpi]', or load the cluster's MPI",
        )
    return Starter(program=program, library=library)


# The executor


class MpiExecutor:
    """Tasks as ranks of one MPI world per launch.

    Args:
        workers: most ranks at a time, gangs aside; 0: the tasks of the allocation, or one per core.

    """

    name = "mpi"
    queues = False
    poll_seconds = 0.1
    start_seconds = _START_SECONDS

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
            if process.poll() is None and late and not storage.exists(storage.join(launch.url, _STARTED)):
                self._end_all()
                raise _never_started(launch, self.starter, self.start_seconds)
            if process.poll() is None:
                continue
            del self._running[token]
            if storage.exists(url := storage.join(launch.url, _REFUSED)):
                self._end_all()
                raise GangError(**storage.read_json(url))
        return set(self._running) & {launch.token for launch in launches}

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
        fix=_start_fix(starter.library),
    )


def _start_fix(library: str) -> str:
    return (
        f"start ranks with the mpiexec of {library}, the library that mpi4py loads, "
        f"or with srun --mpi={PMI.get(library, 'pmi2 or pmix')}"
    )


# A rank


class World:
    """This process as a rank of an MPI world; connects when it is made.

    Raises:
        MissingExtraError: mpi4py is not installed.
    """

    def __init__(self) -> None:
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

    def check(self, wanted: int, where: str) -> None:
        """Refuse a world that is not the one that was asked for.

        Raises:
            GangError: not all ranks are there, or rank 0 could not hand out from a thread.
        """
        threads = self._mpi.Query_thread() >= self._mpi.THREAD_MULTIPLE
        ranks, total = self._comm.allgather(self.rank), self._comm.allreduce(1)
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

    def wait_for_all(self) -> None:
        """Wait until every rank is here; the end of MPI would wait as well, but keep its core busy."""
        here = self._comm.Ibarrier()
        while not here.Test():
            time.sleep(_POLL_SECONDS)


def check_world(
    wanted: int, ranks: Sequence[int], total: int, *, threads: bool, library: str, where: str
) -> None:
    """Refuse a world that is not the one that was asked for.

    Args:
        wanted: ranks that were asked for.
        ranks: rank of every member, as gathered from all.
        total: sum of 1 over all members, as reduced by all.
        threads: several threads may call MPI.
        library: the MPI library.
        where: job and launch.

    Raises:
        GangError: some are missing, two have the same rank, or rank 0 could not hand out from a thread.
    """
    if not threads:
        raise GangError(
            "this MPI library cannot be called from threads",
            where=where,
            expected="MPI_THREAD_MULTIPLE",
            got=library,
            fix="use an MPI library built with threads; pip install 'tokenmill[mpi]' brings one",
        )
    if sorted(ranks) == list(range(wanted)) and total == wanted:
        return
    alone = len(ranks) == 1 and wanted > 1
    name = next((name for name in PMI if library.startswith(name)), library)
    raise GangError(
        "every process is an MPI world of its own" if alone else "not the MPI world that was asked for",
        where=where,
        expected=f"ranks 0 to {wanted - 1}, and {wanted} as the sum of 1 over them",
        got=f"rank 0 of 1, {wanted} times" if alone else f"ranks {sorted(ranks)}, and {total} as the sum",
        fix=_start_fix(name),
    )


def work_as_rank(folder: JobFolder, place: Place, stop: Stop, world: World) -> int:
    """Work until no shard is left, or as a rank of a gang; returns an exit code."""
    if folder.job.layout == "gang":
        code = work(folder, place, stop)
        if code == EXIT_FAILED:  # without the farewell of MPI, so that the others end as well
            _die()
        world.wait_for_all()
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
    world = World()
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
        storage.write_atomic(storage.join(launch.url, _REFUSED), storage.dump_json(fields))
        raise
    if end_with_stdin and world.rank == 0:  # only now: in a broken world all are rank 0, most without input
        threading.Thread(target=_end_with_stdin, name="end-with-stdin", daemon=True).start()
    if world.rank == 0:
        started = {"world_size": world.world_size, "library": world.library}
        storage.write_atomic(storage.join(launch.url, _STARTED), storage.dump_json(started))
    ranks = {"rank": world.rank, "world_size": world.world_size, "local_rank": world.local_rank}
    tasks = {"index": world.rank, "num_tasks": world.world_size}
    mine = ranks if launch.folder.job.layout == "gang" else tasks
    return work_as_rank(launch.folder, Place(launch=launch.token, **mine), stop, world)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of a rank: ``mpiexec -n N python -m tokenmill.executors.mpi``."""
    parser = argparse.ArgumentParser(prog="tokenmill.executors.mpi", description="Work as one rank.")
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
