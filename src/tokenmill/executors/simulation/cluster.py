"""A simulated cluster: arrays wait in a queue, tasks start at the scheduler's pace, and die.

What a task does between its start and its end is the business of ``tasks``.
"""

import functools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tokenmill.executors.array import SHORTEST_PAUSE
from tokenmill.executors.simulation.events import Events
from tokenmill.executors.simulation.scenario import Faults, Machines

CLASSES = {
    "killed": "killed",
    "preempted": "preempted",
    "node lost": "node",
    "timeout": "timeout",
    "cancelled": "cancelled",
}
"""Cause of death -> class of failure (see ``executors.failures``)."""


class SimulatedTask:
    """One array task, or all ranks of a gang."""

    __slots__ = (
        "alive",
        "attempt_began",
        "began_at",
        "crew",
        "deadline",
        "ended_at",
        "ended_well",
        "factor",
        "free_share",
        "generation",
        "index",
        "is_helping",
        "last_shard",
        "mean_seconds",
        "num_attempts",
        "pause",
        "position",
        "record",
        "repeats",
        "scanned",
        "shard",
        "since",
        "slots",
        "straggler_seconds",
        "turn",
        "watches_since",
        "width",
    )

    def __init__(self, crew: "Crew", index: int, width: int) -> None:
        self.crew = crew
        self.index = index
        self.width = width
        """Slots that it takes."""
        self.slots: list[int] = []
        self.alive = True
        self.turn = 0
        """Counts what it has begun, so that events of what it has left are known as such."""
        self.since = 0.0
        """When it began what it does now."""
        self.shard = -1
        self.generation = 0
        """Of its lease: how many had the shard before."""
        self.began_at = self.ended_at = 0.0
        """When it could take shards, and when it was gone."""
        self.ended_well = False
        self.last_shard = -1
        """What it worked on when it died."""
        self.attempt_began = 0.0
        self.record: dict[str, Any] = {}
        """Of its attempt."""
        self.repeats: list[int] = []
        """Shards that failed here and are tried again."""
        self.position = 0
        """Where it looks for the next free shard."""
        self.scanned = 0
        """Shards it has looked at."""
        self.free_share = 1.0
        """Share of the shards that were free when it listed them."""
        self.is_helping = False
        """It has found nothing free and waits for what others lose."""
        self.watches_since = 0.0
        self.pause = SHORTEST_PAUSE
        self.straggler_seconds = math.inf
        self.factor = 1.0
        """How much slower than others it is."""
        self.deadline = math.inf
        self.mean_seconds = 0.0
        self.num_attempts = 0


@dataclass(kw_only=True)
class Crew:
    """The tasks of one launch."""

    token: str
    """Token of the launch."""
    job: str
    """Name of the job."""
    num_tasks: int
    """Tasks of the launch."""
    width: int = 1
    """Slots of a task: the ranks of a gang, else 1."""
    time_seconds: float = math.inf
    """Time limit."""
    after: tuple["Crew", ...] = ()
    """Crews that must end well first."""
    begin: Callable[[SimulatedTask], None] = lambda task: None
    """Called when a task has started and can take shards."""
    interrupt: Callable[[SimulatedTask, str], None] = lambda task, cause: None
    """Called when a task dies, with the cause, before it is gone."""
    waiting: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of tasks of arrays that have waited long enough, but whose parents run."""
    left: int = 0
    """Tasks that have not ended."""
    failed: bool = False
    """A task has ended badly."""
    tasks: set[SimulatedTask] = field(default_factory=set)
    """Tasks that run."""
    num_hands: int = 0
    """Tasks that have waited for what others lose."""
    ends: dict[int, str] = field(default_factory=dict)
    """Task that died -> class of its end, as the scheduler would tell."""
    exclude: frozenset[str] = frozenset()
    """Nodes to avoid."""

    @property
    def live(self) -> bool:
        """True while a task runs or is queued."""
        return self.left > 0


class Cluster:
    """Slots, nodes, the queue and the faults.

    Args:
        machines: the cluster.
        faults: what goes wrong.
        events: the simulated clock.
        rng: draws waits and faults.

    """

    def __init__(self, machines: Machines, faults: Faults, events: Events, rng: random.Random) -> None:
        self.machines, self.faults, self.events, self.rng = machines, faults, events, rng
        self.crews: dict[str, Crew] = {}
        self.num_running = 0
        self.num_queued = 0
        self.num_deaths = 0
        self.wait_seconds = 0.0
        self._free = list(range(machines.slots - 1, -1, -1))
        self._nodes: dict[int, set[SimulatedTask]] = {}
        self._away: set[int] = set()
        self._used: set[int] = set()
        self._queue: deque[tuple[Crew, int, int, float]] = deque()
        self._next_start = 0.0
        for seconds in faults.kill_seconds:
            events.at(seconds, self._kill_one)
        self._schedule_node_loss()

    # the queue

    def submit(self, crew: Crew, arrays: Iterable[tuple[int, int]]) -> None:
        """Queue the arrays of a crew: pairs of first task and number of tasks."""
        self.crews[crew.token] = crew
        for first, count in arrays:
            crew.left += count
            self.num_queued += count
            wait = lognormal(self.rng, self.machines.queue_wait_seconds, self.machines.queue_wait_sigma)
            self.wait_seconds += wait * count
            self.events.after(wait, functools.partial(self._may_start, crew, first, first + count))

    def _may_start(self, crew: Crew, first: int, end: int) -> None:
        if crew.token not in self.crews:  # cancelled meanwhile
            self.num_queued -= end - first
        elif any(parent.live for parent in crew.after):
            crew.waiting.append((first, end))
        elif any(parent.failed for parent in crew.after):
            self._drop(crew, end - first)  # kill-on-invalid-dep
        else:
            self._queue.append((crew, first, end, self.events.now))
            self._dispatch()

    def _drop(self, crew: Crew, count: int) -> None:
        self.num_queued -= count
        crew.failed = True
        crew.left -= count
        self._check_children(crew)

    def _dispatch(self) -> None:
        """Give free slots to what is queued, in order; gangs that do not fit are passed by."""
        passed: list[tuple[Crew, int, int, float]] = []
        while self._queue and self._free:
            crew, first, end, since = self._queue.popleft()
            slots = self._take_slots(crew)
            if not slots:
                passed.append((crew, first, end, since))
                continue
            task = SimulatedTask(crew, first, crew.width)
            task.slots = slots
            self._next_start = max(self.events.now, self._next_start) + 1 / self.machines.starts_per_second
            self.wait_seconds += self._next_start - since
            self.events.at(self._next_start, functools.partial(self._start, task))
            if first + 1 < end:
                self._queue.appendleft((crew, first + 1, end, since))
        self._queue.extendleft(reversed(passed))

    def _take_slots(self, crew: Crew) -> list[int]:
        """Slots for a task of a crew; none if there are too few."""
        if not crew.exclude:
            slots = self._free[-crew.width :] if crew.width <= len(self._free) else []
            del self._free[len(self._free) - len(slots) :]
        else:
            good = [slot for slot in self._free if self._name(slot) not in crew.exclude]
            slots = good[-crew.width :] if crew.width <= len(good) else []
            for slot in slots:
                self._free.remove(slot)
        self._used.update(slots)
        return slots

    def _name(self, slot: int) -> str:
        return f"node{slot // self.machines.slots_per_node:05d}"

    # tasks

    def _start(self, task: SimulatedTask) -> None:
        crew = task.crew
        self.num_queued -= 1
        if crew.token not in self.crews:  # cancelled meanwhile
            self._give_back(task)
            return
        self.num_running += task.width
        crew.tasks.add(task)
        for slot in task.slots:
            self._nodes.setdefault(slot // self.machines.slots_per_node, set()).add(task)
        task.since = self.events.now
        task.deadline = self.events.now + crew.time_seconds
        slow = self.faults.slow_task_share and self.rng.random() < self.faults.slow_task_share
        task.factor = self.faults.slow_factor if slow else 1.0
        self._draw_death(task)
        begin = functools.partial(_if_alive, task, functools.partial(crew.begin, task))
        self.events.after(self.machines.start_seconds, begin)

    def _draw_death(self, task: SimulatedTask) -> None:
        rates = {
            "killed": self.faults.kills_per_task_hour * task.width / 3600,
            "preempted": self.faults.preemptions_per_task_hour * task.width / 3600,
        }
        limits = {cause: self.rng.expovariate(rate) for cause, rate in rates.items() if rate}
        limits["timeout"] = task.crew.time_seconds
        cause = min(limits, key=limits.__getitem__)
        die = functools.partial(self.die, task, cause)
        self.events.after(limits[cause], functools.partial(_if_alive, task, die))

    def die(self, task: SimulatedTask, cause: str) -> None:
        """End a task badly."""
        self.num_deaths += 1
        task.last_shard = task.shard
        task.crew.ends[task.index] = CLASSES[cause]
        task.crew.interrupt(task, cause)
        self.end(task, failed=True, died=True)

    def host(self, task: SimulatedTask) -> str:
        """Name of the node of a task."""
        return self._name(task.slots[0])

    def end(self, task: SimulatedTask, *, failed: bool = False, died: bool = False) -> None:
        """End a task: its slots are free again, unless their node is away."""
        if not task.alive:
            return
        task.alive = False
        task.ended_at = self.events.now
        task.ended_well = not died
        task.turn += 1
        crew = task.crew
        crew.tasks.discard(task)
        crew.failed = crew.failed or failed
        crew.left -= 1
        self.num_running -= task.width
        self._give_back(task)
        self._check_children(crew)
        if self._queue:
            self._dispatch()

    def _give_back(self, task: SimulatedTask) -> None:
        for slot in task.slots:
            node = slot // self.machines.slots_per_node
            self._nodes.get(node, set()).discard(task)
            self._used.discard(slot)
            if node not in self._away:
                self._free.append(slot)

    def _check_children(self, crew: Crew) -> None:
        if crew.live:
            return
        for child in list(self.crews.values()):
            if crew in child.after and child.waiting:
                ranges, child.waiting = child.waiting, []
                for first, end in ranges:
                    self._may_start(child, first, end)

    def cancel(self, tokens: Iterable[str]) -> None:
        """End all tasks of crews, and take them out of the queue."""
        for token in tokens:
            crew = self.crews.pop(token, None)
            if crew is None:
                continue
            queued = [item for item in self._queue if item[0] is crew]
            self._queue = deque(item for item in self._queue if item[0] is not crew)
            self.num_queued -= sum(end - first for _, first, end, _ in queued)
            self.num_queued -= sum(end - first for first, end in crew.waiting)
            for task in list(crew.tasks):
                self.die(task, "cancelled")
            crew.left, crew.failed = 0, True
            self._check_children(crew)

    # faults

    def _kill_one(self) -> None:
        running = sorted(
            (task for crew in self.crews.values() for task in crew.tasks),
            key=lambda task: (task.crew.token, task.index),
        )
        if running:
            self.die(self.rng.choice(running), "killed")

    def _schedule_node_loss(self) -> None:
        num_nodes = math.ceil(self.machines.slots / self.machines.slots_per_node)
        rate = self.faults.node_losses_per_node_hour * num_nodes / 3600
        if rate:
            self.events.after(self.rng.expovariate(rate), self._lose_node)

    def _lose_node(self) -> None:
        num_nodes = math.ceil(self.machines.slots / self.machines.slots_per_node)
        node = self.rng.randrange(num_nodes)
        if node not in self._away:
            self._away.add(node)
            self._free = [slot for slot in self._free if slot // self.machines.slots_per_node != node]
            for task in sorted(self._nodes.get(node, ()), key=lambda task: task.index):
                self.die(task, "node lost")
            self.events.after(self.faults.repair_seconds, functools.partial(self._repair, node))
        self._schedule_node_loss()

    def _repair(self, node: int) -> None:
        self._away.discard(node)
        first = node * self.machines.slots_per_node
        slots = range(first, min(first + self.machines.slots_per_node, self.machines.slots))
        self._free.extend(slot for slot in slots if slot not in self._used)
        self._dispatch()


def _if_alive(task: SimulatedTask, action: Callable[[], object]) -> None:
    if task.alive:
        action()


def lognormal(rng: random.Random, mean: float, sigma: float) -> float:
    """A draw with a given mean; sigma is of the logarithm."""
    if mean <= 0:
        return 0.0
    return mean * math.exp(rng.gauss(0.0, 1.0) * sigma - sigma * sigma / 2) if sigma else mean
