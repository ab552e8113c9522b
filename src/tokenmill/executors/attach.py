"""Standing beside an attempt that runs: its log as it grows, or a shell in its allocation."""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tokenmill import storage
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors.ledger import JobFolder

_POLL_SECONDS = 0.5
_FIRST_BYTES = 4000
"""Of what an attempt has written before somebody looks."""


def running_attempt(folder: JobFolder, shard: int | None = None) -> dict[str, Any]:
    """Record of the newest attempt that runs, of one shard if it is named; of a gang rank 0's.

    Raises:
        InputError: none runs.
    """
    running = [
        record
        for record in folder.attempts()
        if record["outcome"] == "running" and not record["rank"] and shard in (None, record["shard"])
    ]
    if not running:
        what = f"{folder.job.name}{'' if shard is None else f'/{shard}'}"
        raise InputError(
            "no attempt runs",
            where=what,
            fix=f"tokenmill status shows what runs, tokenmill logs RUN {what} what was written",
        )
    return max(running, key=lambda record: float(record["started"]))


def follow(
    folder: JobFolder,
    attempt: Mapping[str, Any],
    *,
    goes_on: Callable[[], bool] = lambda: True,
    first_bytes: int = _FIRST_BYTES,
    poll_seconds: float = _POLL_SECONDS,
) -> Iterator[str]:
    """What an attempt writes to its log, from a little before now until it ends.

    A run folder on an object store has the log only when the attempt has ended.

    Args:
        folder: the job's folder.
        attempt: its record.
        goes_on: False once nothing works on the run any more: a dead attempt does not say that it ended.
        first_bytes: how much of what is there is shown.
        poll_seconds: time between two looks.
    """
    key = (attempt["shard"], attempt["attempt"], attempt["rank"])
    url = folder.log_url(*key)
    position: int | None = None
    while True:
        ended = outcome_of(folder, attempt) != "running" or not goes_on()
        text, position = _read_on(url, position, first_bytes)
        if text:
            yield text.decode(errors="replace")
        if ended:
            return
        if not text:
            time.sleep(poll_seconds)


def outcome_of(folder: JobFolder, attempt: Mapping[str, Any]) -> str:
    """How far an attempt is: running, or its end."""
    name = f"{attempt['shard']:05d}.{attempt['attempt']}.rank{attempt['rank']}.json"
    return str(storage.read_json(folder.at("attempts", name))["outcome"])


def _read_on(url: str, position: int | None, first_bytes: int) -> tuple[bytes, int | None]:
    """What stands after a position, and the position after it; at first a little, from a whole line on."""
    try:
        file = storage.open_input(url)
    except InputError:  # not written yet
        return b"", position
    with file:
        if position is None:
            position = max(0, file.seek(0, 2) - first_bytes)
            file.seek(position)
            position += len(file.readline()) if position else 0  # begin with a whole line
        file.seek(position)
        text = file.read()
    return text, position + len(text)


def shell_command(job_id: str, attempt: Mapping[str, Any]) -> list[str]:
    """The command that opens a shell in the allocation of an attempt, on its node.

    Args:
        job_id: SLURM's own number of the task's job; an array's task has one beside ``ARRAY_INDEX``.
        attempt: its record.
    """
    return ["srun", "--overlap", f"--jobid={job_id}", f"--nodelist={attempt['host']}", "--pty", "bash"]


def own_id(scheduler_id: str, answer: str) -> str:
    """SLURM's own number of a task, from what squeue says of it.

    Args:
        scheduler_id: as the attempt names it: ``123``, or ``123_4`` for a task of an array.
        answer: of ``squeue --noheader --jobs=ID --format=%A``.

    Raises:
        InputError: the task is not in the queue.
    """
    ids = answer.split()
    if not ids:
        raise InputError(
            "the task has left the queue",
            where=f"SLURM job {scheduler_id}",
            fix="tokenmill status shows what runs",
        )
    return ids[0]


def slurm_task(folder: JobFolder, attempt: Mapping[str, Any]) -> str:
    """SLURM's name of the task that an attempt runs in.

    Raises:
        ConfigError: it does not run in SLURM.
    """
    intent = storage.read_json(folder.at("submissions", str(attempt["launch"]), "intent.json"))
    scheduler_id = str(attempt.get("scheduler_id") or "")
    if intent["executor"] != "slurm" or not scheduler_id:
        raise ConfigError(
            "only tasks in SLURM have an allocation to open a shell in",
            where=f"{folder.job.name}/{attempt['shard']}",
            got=f"process {attempt['pid']} on {attempt['host']}",
            fix=f"log in with {shlex.join(['ssh', str(attempt['host'])])}",
        )
    return scheduler_id
