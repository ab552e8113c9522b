"""How ranks of an MPI world are started: what is here, what it is asked, and what is refused.

mpi4py ──> library (MPICH, Open MPI) ──> mpiexec of that library, or srun with what the library speaks
"""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenmill.errors import MissingExtraError, SubmissionError
from tokenmill.executors.job import Job
from tokenmill.executors.launch import Launch

PMI = {"MPICH": "pmi2", "Open MPI": "pmix"}
"""What srun must speak so that ranks of an MPI library find each other."""
_PROGRAM_SECONDS = 60.0


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
    words = [sys.executable, "-u", "-m", "tokenmill.executors.mpi_rank", "--job-folder", launch.folder.url]
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


def start_fix(library: str) -> str:
    """What to do so that ranks find each other.

    Args:
        library: a key of ``PMI``, or what an unknown library says of itself.
    """
    return (
        f"start ranks with the mpiexec of {library}, the library that mpi4py loads, "
        f"or with srun --mpi={PMI.get(library, 'pmi2 or pmix')}"
    )
