"""Training that waits, at given steps, for somebody to disturb it; otherwise it is the trainer.

Each hold happens once in the life of a job: the next attempt finds its mark and passes.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenmill import checkpoint, storage
from tokenmill.checkpoint import State
from tokenmill.executors.job import Task
from tokenmill.training.trainer import TrainerConfig, train

MOST_SECONDS = 240.0
"""A hold that nothing disturbs ends after so long; the rows then show it."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """One wait for a fault."""

    step: int
    """Optimizer step."""
    where: Literal["step", "save"] = "step"
    """step: until the end is announced; save: in the middle of a save, until the process is killed."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training run that is to be disturbed."""

    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """The run."""
    holds: tuple[Hold, ...] = ()
    """Where it waits."""


class Holder:
    """Notes every step of rank 0, and waits where it was told to.

    Args:
        task: rank 0.
        holds: where to wait.
    """

    def __init__(self, task: Task, holds: Sequence[Hold]) -> None:
        self.task, self.holds = task, holds
        self.trace: list[int] = []

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Note a step; called after each."""
        self.trace.append(step)
        url = storage.join(self.task.job_url, "trace", f"{self.task.attempt}.json")
        storage.write_atomic(url, storage.dump_json(self.trace))
        self.wait(step, "step", self.task.stop_requested)

    def close(self) -> None:
        """Nothing to do."""

    def wait(self, step: int, where: str, is_over: Callable[[], bool]) -> None:
        """Wait if there is a hold here that nobody has passed."""
        if not any((hold.step, hold.where) == (step, where) for hold in self.holds):
            return
        value = {"attempt": self.task.attempt, "step": step, "job_id": os.environ.get("SLURM_JOB_ID", "")}
        value["node"] = os.environ.get("SLURMD_NODENAME", "")
        if not storage.publish_once(hold_url(self.task.job_url, step), storage.dump_json(value)):
            return
        end = time.monotonic() + MOST_SECONDS
        while not is_over() and time.monotonic() < end:
            time.sleep(0.05)

    def slow_index(self, folder_url: str, state: State, shards: Sequence[Mapping[str, Any]]) -> None:
        """What a store does that is so slow that death comes in the middle of a save."""
        self.wait(state.step, "save", lambda: False)
        write_index(folder_url, state, shards)


write_index = checkpoint.write_index


def hold_url(job_url: str, step: int) -> str:
    """File that says that rank 0 waits, or has waited, at a step."""
    return storage.join(job_url, "holds", f"{step}.json")


def run(config: Config, task: Task) -> None:
    """Entry: train, and wait to be disturbed."""
    holder = Holder(task, config.holds)
    checkpoint.write_index = holder.slow_index  # in this process, which lives for this attempt
    train(config.trainer, task, holder)
