"""The fake's state: one JSON file in the folder that FAKE_SLURM_STATE names, changed only under a lock.

$FAKE_SLURM_STATE/
    config.json      settings, see Settings; a test writes it
    fail/sbatch.json how the next calls of a program fail, see programs.py
    queue.json       every submission and every task
    scripts/12.sh    batch scripts as they were at submission
    steps/12/345     processes of running srun steps, so that step signals find them
"""

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}
COMPACT = {"PENDING": "PD", "RUNNING": "R", "COMPLETING": "CG", "COMPLETED": "CD", "FAILED": "F"}
COMPACT |= {"CANCELLED": "CA", "TIMEOUT": "TO"}


class FakeError(Exception):
    """What a client program prints before it fails."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


@dataclass(kw_only=True)
class Settings:
    """What a test may set in config.json."""

    max_array_size: int = 1001
    """MaxArraySize: the largest index is one less."""
    max_running: int = 4
    """Jobs (array tasks count one each) that run at once."""
    partitions: list[str] = field(default_factory=lambda: ["cpu", "low", "high", "short", "gpu"])
    """Names of partitions; the first is the default."""
    num_nodes: int = 4
    """Nodes that sinfo shows and that tasks are laid on."""
    accounting: bool = False
    """Whether sacct answers."""
    minute_seconds: float = 60.0
    """How long a minute of a time limit lasts; small values make tests of limits fast."""
    requeue_seconds: float = 0.2
    """How long a requeued job waits."""
    kill_wait_seconds: float = 2.0
    """Time between SIGTERM and SIGKILL."""
    max_seconds: float = 600.0
    """After this long the scheduler ends everything, so that nothing outlives a broken test."""


@dataclass(kw_only=True)
class Submission:
    """What one sbatch call asked for."""

    job_id: int
    name: str
    script: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    output: str
    error: str
    append: bool
    indices: list[int]
    """Array indices; empty: no array."""
    throttle: int
    """Array tasks that run at once; 0: any number."""
    dependency: str
    kill_invalid: bool
    partition: str
    num_tasks: int
    """0: not asked for."""
    num_nodes: int
    cpus: int
    """CPUs per task; 0: not asked for."""
    time_seconds: float
    """0: no limit."""
    signal: str
    requeue: bool
    comment: str
    user: str


@dataclass(kw_only=True)
class Entry:
    """One line of the queue: a job, or a task of an array."""

    submission: int
    """Id of the submission; the array's id."""
    job_id: int
    """0: not yet given; array tasks get theirs when they start."""
    index: int | None
    state: str = "PENDING"
    reason: str = "None"
    held: bool = False
    pid: int = 0
    """Leader of the process group, until all of it has ended."""
    exit_code: int = 0
    """As of subprocess: negative for a signal."""
    restarts: int = 0
    begin: float = 0.0
    """Not to be started earlier."""
    started: float = 0.0
    ended: float = 0.0
    killed: float = 0.0
    """When it was asked to end; 0: it was not."""
    warned: bool = False
    """Whether it got the signal that announces its time limit."""

    @property
    def shown_state(self) -> str:
        """State as squeue shows it."""
        return "COMPLETING" if self.pid and self.state != "RUNNING" else self.state

    @property
    def label(self) -> str:
        """Id as users see it: 12 or 12_3."""
        return str(self.submission) if self.index is None else f"{self.submission}_{self.index}"


@dataclass(kw_only=True)
class Queue:
    """Everything the controller knows."""

    next_id: int = 1
    scheduler: int = 0
    """Process id of the scheduler; 0: none runs."""
    submissions: dict[int, Submission] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def of(self, entry: Entry) -> Submission:
        """The submission that an entry belongs to."""
        return self.submissions[entry.submission]

    def new_id(self) -> int:
        """A job id that was never given."""
        self.next_id += 1
        return self.next_id - 1

    def find(self, text: str) -> list[Entry]:
        """Entries that ``12``, ``12_3`` or ``12_[0-4,7]`` means; none if nothing matches."""
        head, _, tail = text.partition("_")
        if not head.isdigit():
            return []
        wanted = set(indices(tail.strip("[]"))[0]) if tail else None
        number = int(head)
        return [
            entry
            for entry in self.entries
            if (wanted is None and entry.job_id == number)
            or (entry.submission == number and (wanted is None or entry.index in wanted))
        ]


def indices(text: str) -> tuple[list[int], int]:
    """Indices and throttle of an array specification such as ``0-9:2,12%3``."""
    spec, _, throttle = text.partition("%")
    found: set[int] = set()
    try:
        for part in spec.split(","):
            span, _, step = part.partition(":")
            first, _, last = span.partition("-")
            found |= set(range(int(first), int(last or first) + 1, int(step or 1)))
        return sorted(found), int(throttle or 0)
    except ValueError:
        raise FakeError("Invalid job array specification") from None


def state_folder() -> Path:
    """Where the fake keeps its state."""
    folder = os.environ.get("FAKE_SLURM_STATE")
    if not folder:
        raise FakeError("the fake SLURM needs the variable FAKE_SLURM_STATE to name a folder")
    return Path(folder)


def settings() -> Settings:
    """What config.json says, else the defaults."""
    path = state_folder() / "config.json"
    return Settings(**json.loads(path.read_text())) if path.exists() else Settings()


@contextmanager
def opened() -> Iterator[Queue]:
    """The queue, alone: what is changed inside the block is written at its end."""
    folder = state_folder()
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / "queue.json"
        before = path.read_text() if path.exists() else ""
        queue = _decode(before) if before else Queue()
        yield queue
        after = json.dumps(dataclasses.asdict(queue))
        if after != before:
            (folder / "queue.json.new").write_text(after)
            (folder / "queue.json.new").replace(path)


def _decode(text: str) -> Queue:
    value = json.loads(text)
    return Queue(
        next_id=value["next_id"],
        scheduler=value["scheduler"],
        submissions={int(key): Submission(**row) for key, row in value["submissions"].items()},
        entries=[Entry(**row) for row in value["entries"]],
    )
