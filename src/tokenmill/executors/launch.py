"""Launches and the interface of executors.

A launch is one decision to work on a job: some tasks, started now or queued. Its token names everything that
belongs to it, at the scheduler too, because scheduler ids are used again.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tokenmill import storage
from tokenmill.executors.job import Resources
from tokenmill.executors.ledger import JobFolder


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One decision to work on a job."""

    token: str
    """Unique name: eight hexadecimal digits."""
    folder: JobFolder
    """The job's folder."""
    num_tasks: int
    """Tasks (array) or ranks (gang)."""
    after: tuple["Launch", ...] = ()
    """Launches of parents that must succeed first; only for executors that queue."""
    resources: Resources | None = None
    """What a task gets; None: what the job asks for. More, after attempts that ran out of it."""
    exclude: tuple[str, ...] = ()
    """Nodes to avoid."""
    epoch: int = 0
    """Which driver decided it."""

    @property
    def asked(self) -> Resources:
        """What a task of this launch gets."""
        return self.resources or self.folder.job.resources

    @property
    def url(self) -> str:
        """Folder of the launch's records."""
        return self.folder.at("submissions", self.token)


class Executor(Protocol):
    """Starts tasks and says which may still run; knows nothing of shards."""

    name: str
    """As the user names it."""
    queues: bool
    """True if it can hold a job until the job's parents have ended."""
    poll_seconds: float
    """Seconds between two looks."""
    settle_seconds: float
    """A launch counts as ended once out of sight for so long: its last records may be on the way."""

    def num_tasks(self, wanted: int) -> int:
        """Tasks that one launch may have, given how many are wanted."""

    def free_slots(self) -> int:
        """Tasks that could start now."""

    def launch(self, launch: Launch) -> None:
        """Start or queue the tasks."""

    def live(self, launches: Sequence[Launch]) -> set[str] | None:
        """Tokens of launches of which a task may still run; None if that is unknown now."""

    def ends(self, launch: Launch) -> Mapping[str, str]:
        """Classes of failures (see ``tokenmill.executors.failures``) by the scheduler's name of the task.

        A hint: what is not known is left out.
        """

    def nudge(self, launches: Sequence[Launch]) -> None:
        """Tell tasks of a job that is complete to look up: what they work on is done by others."""

    def cancel(self, launches: Sequence[Launch]) -> None:
        """End the tasks of launches."""

    def preview(self, launch: Launch) -> list[str]:
        """What ``launch`` would submit: scripts, or a line for people."""


def new_token() -> str:
    """Token of a new launch."""
    return os.urandom(4).hex()


def record_intent(launch: Launch, executor: str) -> None:
    """Write down what is about to be started, before it is."""
    value: dict[str, Any] = {
        "launch": launch.token,
        "number": len(launch.folder.launch_order()),
        "executor": executor,
        "num_tasks": launch.num_tasks,
        "after": [parent.token for parent in launch.after],
        "memory_bytes": launch.asked.memory_bytes,
        "time_seconds": launch.asked.time_seconds,
        "exclude": list(launch.exclude),
        "epoch": launch.epoch,
        "done": len(launch.folder.done()),
    }
    storage.write_atomic(storage.join(launch.url, "intent.json"), storage.dump_json(value, indent=1))


def launches_of(folder: JobFolder) -> list[Launch]:
    """Recorded launches of a job, oldest first."""
    intents = [
        storage.read_json(folder.at("submissions", token, "intent.json")) for token in folder.launch_order()
    ]
    return [
        Launch(token=intent["launch"], folder=folder, num_tasks=intent["num_tasks"]) for intent in intents
    ]
