"""SLURM's client programs, and what to believe of their answers.

A controller that is down lets a client wait for about 20 s and fail. One that hangs does the same and may do
the work all the same, later. So a failed ``sbatch`` decides nothing: the queue is asked for the job's name
until it answers, and only then is a submission believed to be lost.
"""

import logging
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from submitit.core.utils import FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor as SubmititExecutor

from tokenmill.errors import SubmissionError
from tokenmill.executors.worker import environment

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
COMMAND_SECONDS = 60.0
"""Clients block about 20 s while the controller is down, then say so."""
ANSWER_SECONDS = 1800.0
"""How long a controller that does not answer is waited for in the middle of a submission."""
_PAUSE_SECONDS = 2.0
_MOST_SUBMISSIONS = 5
_NO_ANSWER = re.compile(
    r"timed out|Unable to contact|Connection refused|Zero Bytes|Transport endpoint|Communication connection"
    r"|did not answer|temporarily|Slurm backup controller|Resource temporarily unavailable",
    re.IGNORECASE,
)
"""Errors after which the job may exist."""
_log = logging.getLogger("tokenmill.slurm")


def submit(name: str, path: str, job: str) -> str:
    """Submit a script exactly once, whatever the controller does meanwhile; returns the job id.

    Args:
        name: the job's unique name at the scheduler.
        path: the script.
        job: what it is for, for messages.

    Raises:
        SubmissionError: SLURM refused, or does not answer.
    """
    last: SubmissionError | None = None
    for _ in range(_MOST_SUBMISSIONS):
        try:
            return _id_in(_sbatch(path))
        except SubmissionError as error:
            last = error
        if found := _look_up(name):
            return found
        if not _NO_ANSWER.search(str(last)):
            break
        _log.warning("job %s: sbatch had no answer and the queue does not know %s: again", job, name)
    raise SubmissionError(
        "SLURM refused a submission",
        where=f"job {job}, {path}",
        got=str(last).replace("\n", " "),
        fix="mend the site's values or the job's resources, then run again",
    ) from last


def _sbatch(path: str) -> str:
    """Answer of sbatch to a script that names the variables which its tasks may see.

    With ``--export=NAMES`` SLURM starts a login shell before every task and adds what that sets: a quarter of
    a second, and variables that nobody named. So sbatch is shown those variables alone, and exports all.
    """
    script = Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
    named = re.search(r"^#SBATCH --export=(.+)$", script, re.MULTILINE)
    names = named[1].split(",") if named else []
    if not names or {"ALL", "NONE", "NIL"} & set(names) or "=" in "".join(names):
        return run_client(["sbatch", path])  # somebody asked for something else
    return run_client(["sbatch", "--export=ALL", path], environment(names))


def _id_in(answer: str) -> str:
    try:
        return str(SubmititExecutor._get_job_id_from_submission_command(answer))
    except FailedSubmissionError as error:
        raise SubmissionError("sbatch did not answer as expected", got=answer.strip() or "nothing") from error


def _look_up(name: str) -> str:
    """Id of the job of a name, or nothing; asks until the controller answers, and then once more.

    A controller that hung works off what was sent to it meanwhile, the submission too: hence the second look.
    """
    for pause in (0.0, _PAUSE_SECONDS):
        time.sleep(pause)
        if ids := _ask_patiently(name).split():
            return ids[0]
    return ""


def _ask_patiently(name: str) -> str:
    command = ["squeue", "--me", "--noheader", "--states=all", f"--name={name}", "--format=%F"]
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            return run_client(command)
        except SubmissionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)


def run_client(command: Sequence[str], shown: Mapping[str, str] | None = None) -> str:
    """Output of a SLURM client program.

    Args:
        command: the program and its arguments.
        shown: all that it sees of the environment; that of this process if None.

    Raises:
        SubmissionError: it failed or did not answer.
    """
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            env=None if shown is None else dict(shown),
        )
    except FileNotFoundError as error:
        raise SubmissionError(
            f"{command[0]} is not on PATH", fix="log in to the cluster, or use --executor processes"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SubmissionError(f"{command[0]} did not answer in {COMMAND_SECONDS:.0f} s") from error
    if done.returncode:
        raise SubmissionError(
            f"{command[0]} failed",
            got=" ".join(done.stderr.split()) or f"exit code {done.returncode}",
            fix="see with sinfo whether the cluster answers; for a local one, source its env.sh first",
        )
    return done.stdout


def check_programs(programs: Sequence[str] = PROGRAMS) -> None:
    """Refuse to start without SLURM's client programs.

    Raises:
        SubmissionError: one is missing.
    """
    for program in programs:
        if shutil.which(program) is None:
            raise SubmissionError(
                f"{program} is not on PATH",
                expected=", ".join(programs),
                fix="log in to the cluster, source the local cluster's env.sh, or use --executor processes",
            )
