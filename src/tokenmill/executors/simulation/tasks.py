"""What simulated tasks do: lease shards, try them, try again, then help others out.

The rules are those of ``executors.array``, and its decisions are called, not copied: which shard an idle task
takes over, and from when on a shard is a straggler. Only time is simulated.
"""

import functools
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.executors.array import (
    LONGEST_PAUSE,
    MANY_TASKS,
    MOST_HANDS,
    MOST_REFUSALS,
    SAMPLE,
    SHORTEST_PAUSE,
)
from tokenmill.executors.job import Job
from tokenmill.executors.launch import Launch
from tokenmill.executors.leases import BEATS_PER_LEASE, MOST_TAKEOVERS, Held, choose, straggler_seconds
from tokenmill.executors.simulation.cluster import Cluster, Crew, SimulatedTask
from tokenmill.executors.simulation.events import Events, Unclaimed
from tokenmill.executors.simulation.ledger import SimulatedFolder
from tokenmill.executors.simulation.scenario import Durations, Work
from tokenmill.executors.simulation.usage import USEFUL, Usage

_PER_FOLDER = 1000


@dataclass(kw_only=True)
class Setting:
    """What all simulated jobs share."""

    events: Events
    """The clock."""
    cluster: Cluster
    """The machines."""
    usage: Usage
    """The account."""
    rng: random.Random
    """Draws errors and moments of polls."""
    speculation: bool = True
    """Whether stragglers get a second attempt."""
    signal_seconds: float = 90.0
    """Notice before the time limit."""


def draw_seconds(
    durations: Durations, num_shards: int, num_bytes: npt.NDArray[np.float64] | None, seed: int
) -> npt.NDArray[np.float64]:
    """Seconds of an attempt at each shard, on a node that is not slow.

    Args:
        durations: the distribution.
        num_shards: how many are drawn.
        num_bytes: stored bytes of the shards, shape (num_shards,); None if they are not known.
        seed: the same seed gives the same draws.

    """
    rng = np.random.default_rng(seed)
    if durations.measured_seconds:
        picked = rng.integers(len(durations.measured_seconds), size=num_shards)
        seconds = np.asarray(durations.measured_seconds, dtype=np.float64)[picked]
        if durations.measured_bytes and num_bytes is not None:
            seconds *= num_bytes / np.maximum(1.0, np.asarray(durations.measured_bytes)[picked])
    else:
        sigma = durations.sigma
        seconds = durations.mean_seconds * np.exp(rng.normal(size=num_shards) * sigma - sigma**2 / 2)
    if num_bytes is not None:
        seconds = seconds + durations.seconds_per_byte * num_bytes
    return np.asarray(seconds, dtype=np.float64)


class SimulatedJob:
    """The shards of one job and the tasks that work on them.

    Args:
        job: the job.
        folder: its ledger.
        work: what it has to do.
        seconds: seconds of an attempt at each shard, shape (num_shards,).
        setting: the clock, the machines and the account.

    """

    def __init__(
        self,
        job: Job,
        folder: SimulatedFolder,
        work: Work,
        seconds: npt.NDArray[np.float64],
        setting: Setting,
    ) -> None:
        self.job, self.folder, self.work, self.setting = job, folder, work, setting
        self.seconds: list[float] = seconds.tolist()
        self.elapsed: dict[int, float] = {}
        """Seconds that committed attempts took, by shard."""
        self._beat_seconds = job.resources.lease_seconds / BEATS_PER_LEASE
        folder.beat_seconds = self._beat_seconds
        self._usual: tuple[int, float] = (0, math.inf)
        self._most_shards = job.resources.max_shards
        self._running: dict[int, list[SimulatedTask]] = {}
        self._oldest: deque[tuple[SimulatedTask, int]] = deque()
        self._silent: dict[int, float] = {}
        self._unclaimed: dict[str, Unclaimed] = {}
        self._hands: set[SimulatedTask] = set()

    # tasks begin and end

    def crew(self, launch: Launch, after: tuple[Crew, ...]) -> Crew:
        """The tasks of a launch of this job."""
        gang = self.job.layout == "gang"
        return Crew(
            token=launch.token,
            job=self.job.name,
            num_tasks=1 if gang else launch.num_tasks,
            width=launch.num_tasks if gang else 1,
            time_seconds=float(launch.asked.time_seconds),
            after=after,
            exclude=frozenset(launch.exclude),
            begin=self.begin,
            interrupt=self.interrupt,
        )

    def begin(self, task: SimulatedTask) -> None:
        """A task can take shards."""
        self.folder.ensure_plan()
        self._spend("start", task)
        token, size = task.crew.token, self.folder.size
        if token not in self._unclaimed:
            finished, aside = self.folder.finished, self.folder.aside
            free = [shard not in finished and shard not in aside for shard in range(size)]
            self._unclaimed[token] = Unclaimed(free)
            self._silent.clear()
        self.folder.pulses.setdefault(token, {})[task.index] = task
        task.began_at = self.setting.events.now
        task.position = task.index * size // max(1, task.crew.num_tasks)
        task.scanned = 0
        self._touch("list", 3 + size // _PER_FOLDER)
        self._next(task)

    def interrupt(self, task: SimulatedTask, cause: str) -> None:
        """A task dies with what it holds: others may go on with its shard after a while."""
        self._hands.discard(task)
        if task.shard < 0:
            self._spend("idle" if task.num_attempts else "start", task)
            return
        now, shard = self.setting.events.now, task.shard
        self._leave(task)
        saved = self._saved(max(0.0, now - task.attempt_began))
        self.seconds[shard] -= saved / task.factor
        task.since += saved
        self.setting.usage.spend(USEFUL, saved, task.width, self.job.resources.cpus)
        self._spend(cause, task)
        self.setting.usage.outcomes[cause] += 1
        newest = self.folder.taken[task.crew.token].get(shard, 0)
        if shard not in self.folder.finished and task.generation == newest:
            lived = max(0.0, now - task.attempt_began)  # the last beat was some time ago
            self._silent[shard] = now - min(lived, self.setting.rng.uniform(0, self._beat_seconds))

    def _saved(self, elapsed: float) -> float:
        """Seconds of an attempt that a checkpoint keeps."""
        every = self.work.checkpoint_seconds
        return every * math.floor(elapsed / every) if every else 0.0

    def _end(self, task: SimulatedTask) -> None:
        if task.alive and task.shard < 0:
            self._hands.discard(task)
            self._spend("idle", task)
            out_of_time = not self._leaves(task, 0.0) and not self._is_over()
            self.setting.cluster.end(task, failed=out_of_time or bool(self.folder.aside))

    # what a task does next

    def _next(self, task: SimulatedTask) -> None:
        if task.is_helping:
            self._look(task)
        elif not self._may_begin(task):
            self._end(task)
        else:
            if task.num_attempts <= 1:  # the leases are listed when the first shard is behind
                task.free_share = self._unclaimed[task.crew.token].left / self.folder.size
            before = task.scanned
            shard = self._claim(task)
            refused = round((task.scanned - before) * task.free_share)
            if refused > MOST_REFUSALS:  # the listing is old: it lists again
                refused = MOST_REFUSALS
                task.free_share = self._unclaimed[task.crew.token].left / self.folder.size
                self._touch("list", 3 + self.folder.size // _PER_FOLDER)
            self._touch("lease", refused)
            pause = refused * self.setting.cluster.machines.call_seconds
            if shard is not None:
                self._attempt(task, shard, 0, pause)
            else:
                self._soon(task, pause, functools.partial(self._go_on, task))

    def _go_on(self, task: SimulatedTask) -> None:
        """Nothing is free."""
        self._spend("overhead", task)
        if task.repeats:
            self._attempt(task, task.repeats.pop(), 0)
        elif task.crew.num_tasks > 1 and self._has_room(task):
            task.is_helping = True
            self._begin_to_help(task)
        else:
            self._end(task)

    def _may_begin(self, task: SimulatedTask) -> bool:
        return self._has_room(task) and self._leaves(task, task.mean_seconds)

    def _has_room(self, task: SimulatedTask) -> bool:
        return not self._most_shards or task.num_attempts < self._most_shards

    def _leaves(self, task: SimulatedTask, seconds: float) -> bool:
        """The worker's rule: something is begun only if it would end before the limit."""
        return self.setting.events.now + seconds < task.deadline - self.setting.signal_seconds

    def _is_over(self) -> bool:
        return len(self.folder.finished) + len(self.folder.aside) >= self.folder.size

    def _claim(self, task: SimulatedTask) -> int | None:
        """The next free shard in the task's order; it has been refused at those that it passed."""
        size = self.folder.size
        shard = self._unclaimed[task.crew.token].claim(task.position)
        passed = size - task.scanned if shard is None else (shard - task.position) % size
        task.scanned += passed
        if shard is not None:
            task.position = (shard + 1) % size
        return shard

    # helping others

    def _begin_to_help(self, task: SimulatedTask) -> None:
        num_held = self.folder.size - len(self.folder.finished) - len(self.folder.aside)
        wanted = min(num_held, MOST_HANDS)
        many = task.crew.num_tasks > MANY_TASKS
        calls = 2 + self.folder.size // _PER_FOLDER + (2 if many else task.crew.num_tasks)
        self._touch("look", calls)
        task.watches_since = self.setting.events.now
        if (task.crew.num_hands if many else len(self._hands)) >= wanted:
            calls_seconds = calls * self.setting.cluster.machines.call_seconds
            self._soon(task, calls_seconds, functools.partial(self._end, task))
            return
        task.crew.num_hands += 1
        self._hands.add(task)
        self._look(task)

    def _look(self, task: SimulatedTask) -> None:
        """One look of an idle task at what others hold."""
        self._hands.add(task)
        if self._is_over() or not self._may_begin(task):
            self._end(task)
            return
        held = self._held(task)
        choice = choose(held, self._late_after(task))
        self._touch("look", 3 * (self.folder.size - len(self.folder.finished)))
        if choice is not None:
            task.pause = SHORTEST_PAUSE
            self._hands.discard(task)
            self._spend("idle", task)
            self._silent.pop(choice.shard, None)
            self._attempt(task, choice.shard, choice.generation + 1)
            return
        usual = max(SHORTEST_PAUSE, task.mean_seconds / 2)
        self._soon(task, task.pause, functools.partial(self._look, task))
        task.pause = min(1.5 * task.pause, LONGEST_PAUSE, usual)

    def _held(self, task: SimulatedTask) -> list[Held]:
        """Of what others hold, that which ``choose`` could choose: what is silent, and what takes longest."""
        now, leases = self.setting.events.now, self.folder.taken[task.crew.token]
        ripe = (shard for shard in self._ripe(task, now) if leases.get(shard, 0) < MOST_TAKEOVERS)
        found = [
            Held(shard=shard, generation=leases.get(shard, 0), is_silent=True, seconds=0.0)
            for shard in itertools.islice(ripe, 1)
        ]
        while self._oldest:
            other, turn = self._oldest[0]
            if other.turn == turn and not leases.get(other.shard, 0):
                seconds = now - other.attempt_began
                found.append(Held(shard=other.shard, generation=0, is_silent=False, seconds=seconds))
                break
            self._oldest.popleft()
        return found

    def _ripe(self, task: SimulatedTask, now: float) -> Iterator[int]:
        """Shards of tasks that an idle task knows to be dead, in order of their deaths."""
        at_once = self.setting.cluster.machines.sees_processes
        patience = self.job.resources.lease_seconds
        for shard, last in self._silent.items():
            if at_once or now - max(last, task.watches_since) > patience:
                yield shard

    def _late_after(self, task: SimulatedTask) -> float:
        if not self.setting.speculation:
            return math.inf
        if task.straggler_seconds == math.inf:
            count = len(self.elapsed)
            if count > 1.01 * self._usual[0]:  # a hundredth more hardly moves a percentile
                times = list(self.elapsed.values())[:: max(1, count // SAMPLE)]
                self._usual = (count, straggler_seconds(times))
            task.straggler_seconds = self._usual[1]
        return task.straggler_seconds

    # attempts

    def _attempt(self, task: SimulatedTask, shard: int, generation: int, pause: float = 0.0) -> None:
        """Lease a shard now, and begin to work on it after a pause."""
        setting = self.setting
        task.turn += 1
        task.shard, task.generation = shard, generation
        task.num_attempts += 1
        task.since = setting.events.now
        task.attempt_began = task.since + pause
        self.folder.lease(task.crew.token, shard, {}, generation)
        self._running.setdefault(shard, []).append(task)
        self._oldest.append((task, task.turn))
        task.record = self._record(task)
        self.folder.write_attempt(task.record)
        seconds = self.seconds[shard] * task.factor
        faults = setting.cluster.faults
        if shard in faults.slow_shards and len(self.folder.by_shard[shard]) == 1:
            seconds *= faults.slow_factor
        finish = self._succeed
        if self.work.error_share and setting.rng.random() < self.work.error_share:
            seconds, finish = seconds * setting.rng.random(), self._fail
        self._soon(task, pause + seconds + self.work.overhead_seconds, functools.partial(finish, task))
        self._touch("lease", 1)
        self._touch("attempt", 1)

    def _record(self, task: SimulatedTask) -> dict[str, Any]:
        return {
            "shard": task.shard,
            "attempt": f"{task.crew.token}-{len(self.folder.tries):06x}",
            "rank": 0,
            "launch": task.crew.token,
            "host": self.setting.cluster.host(task),
            "task": task.index,
            "scheduler_id": f"{task.crew.token}_{task.index}",
            "memory_bytes": self.job.resources.memory_bytes,
            "time_seconds": task.crew.time_seconds,
            "pid": 0,
            "started": task.attempt_began,
            "outcome": "running",
        }

    def _succeed(self, task: SimulatedTask) -> None:
        shard, elapsed = task.shard, self.setting.events.now - task.attempt_began
        self._leave(task)
        self._touch("commit", 1)
        if not self.folder.commit({"shard": shard, "seconds": elapsed}):
            self._after(task, "late", elapsed)
            return
        overhead = self.work.overhead_seconds + task.attempt_began - task.since
        self.setting.usage.spend("overhead", overhead, task.width, self.job.resources.cpus)
        task.since += overhead
        self.elapsed[shard] = elapsed
        for other in self._running.get(shard, []):
            delay = self.setting.rng.uniform(0, self._beat_seconds)
            self._soon(other, delay, functools.partial(self._give_up, other))
        self._after(task, "done", elapsed)

    def _give_up(self, task: SimulatedTask) -> None:
        """Another attempt has committed the shard."""
        elapsed = self.setting.events.now - task.attempt_began
        self._leave(task)
        self._after(task, "late", elapsed)

    def _fail(self, task: SimulatedTask) -> None:
        shard, elapsed = task.shard, self.setting.events.now - task.attempt_began
        self._leave(task)
        task.record |= {"error": "simulated", "class": "error"}
        task.record["outcome"] = "error"
        if reason := self.folder.hopeless(shard):
            self.folder.quarantine(shard, reason)
        else:
            task.repeats.append(shard)
        self._after(task, "error", elapsed)

    def _after(self, task: SimulatedTask, outcome: str, elapsed: float) -> None:
        self._spend(USEFUL if outcome == "done" else outcome, task)
        task.record |= {"outcome": outcome, "seconds": elapsed, "ended": self.setting.events.now}
        task.mean_seconds += (elapsed - task.mean_seconds) / task.num_attempts
        self.setting.usage.outcomes[outcome] += 1
        self._touch("attempt", 1)
        self._touch("heartbeat", int(elapsed / self._beat_seconds))
        self._next(task)

    def _leave(self, task: SimulatedTask) -> None:
        """A task lets go of its shard."""
        runners = self._running[task.shard]
        runners.remove(task)
        if not runners:
            del self._running[task.shard]
        task.shard = -1
        task.turn += 1

    def _soon(self, task: SimulatedTask, seconds: float, action: Callable[[], None]) -> None:
        """Let a task do something after a while, unless it has died or gone on to something else."""
        turn = task.turn

        def act() -> None:
            if task.turn == turn and task.alive:
                action()

        if seconds > 0:
            self.setting.events.after(seconds, act)
        else:
            action()

    def _spend(self, cause: str, task: SimulatedTask) -> None:
        now = self.setting.events.now
        self.setting.usage.spend(cause, now - task.since, task.width, self.job.resources.cpus)
        task.since = now

    def _touch(self, kind: str, count: int) -> None:
        if count:
            self.setting.usage.touch(self.setting.events.now, kind, count)
