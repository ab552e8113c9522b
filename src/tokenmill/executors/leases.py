"""Which task works on which shard of a launch, and when another may take a shard over.

    leases/<launch>/00007.json      task 3 took shard 7
    leases/<launch>/00007.1.json    task 3 fell silent, or its shard is a straggler: task 9 works on it too
    heartbeats/<launch>/3.json      rewritten while task 3 lives: a number that grows, its shard, its memory

A lease is advice: two tasks may work on one shard, and the first commit wins. So a lease may be wrong, and
only costs time. No two clocks are compared: a task is silent once its number has stood still for
``lease_seconds`` of the observer's own monotonic clock, or its process is gone from the observer's machine.
"""

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from tokenmill.errors import TokenmillError
from tokenmill.executors.ledger import JobFolder

BEATS_PER_LEASE = 6
_MOST_ASKED = 64
"""Tasks of a launch whose signs of life a driver reads at a look; if all of them are silent, it reads all."""
STRAGGLER_FACTOR = 3.0
"""A shard that takes so many times the 95th percentile of the others is tried a second time."""
_FEWEST_TIMES = 3
"""Finished shards from which a percentile is taken."""
_LEAST_STRAGGLER_SECONDS = 0.5
MOST_TAKEOVERS = 2
"""After so many within a launch, a shard whose tasks fall silent may be what ends them: the driver judges."""


class Overtaken(BaseException):
    """Another attempt has committed the shard, or the shard was cancelled: work on it is in vain.

    Not an ``Exception``: an entry that survives bad documents must not survive this.
    """


def machine_id() -> str:
    """What two processes share if each can see whether the other lives: a boot and a process namespace."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def start_time(pid: int) -> str:
    """When a process of this machine began, in clock ticks since boot; empty if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def peak_rss_bytes() -> int:
    """Most memory that this process has held, in bytes.

    Not ``ru_maxrss`` where it can be helped: a process inherits that from the one that started it.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            lines = [line for line in file if line.startswith("VmHWM:")]
        return int(lines[0].split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Heart:
    """Shows that a task lives, and interrupts an attempt whose shard is done by another.

    Use it as a context manager in the main thread of the task's process.

    Args:
        folder: the job's folder.
        launch: token of the launch.
        task: number of the task in the launch.
        host: name of the node.
    """

    def __init__(self, folder: JobFolder, launch: str, task: int, host: str) -> None:
        self._folder, self._launch = folder, launch
        self._seconds = folder.job.resources.lease_seconds / BEATS_PER_LEASE
        self._born = time.monotonic()
        self._number = 0
        self._shard, self._since, self._state = -1, 0.0, "working"
        self._may_interrupt = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._old_handler: Any = None
        self._still = {
            "task": task,
            "host": host,
            "pid": os.getpid(),
            "process_started": start_time(os.getpid()),
            "machine": machine_id(),
        }

    def __enter__(self) -> "Heart":
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGUSR2, self._interrupt)
        self.beat()
        threading.Thread(target=self._run, name="heart", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._state = "ended"
        with contextlib.suppress(TokenmillError, OSError):  # e.g. no space left: silence says the same
            self.beat()
        if self._old_handler is not None:
            signal.signal(signal.SIGUSR2, self._old_handler)

    def beat(self) -> None:
        """Show life once."""
        with self._lock:
            self._number += 1
            now = time.monotonic()
            self._folder.write_beat(
                self._launch,
                {
                    **self._still,
                    "number": self._number,
                    "state": self._state,
                    "shard": self._shard,
                    "seconds": now - self._since if self._shard >= 0 else 0.0,
                    "uptime_seconds": now - self._born,
                    "rss_bytes": peak_rss_bytes(),
                },
            )

    def idle(self) -> None:
        """Say that this task waits for what others may lose."""
        self._state = "idle"
        self.beat()

    def busy(self) -> None:
        """Say that this task works again, before it takes a lease."""
        self._state = "working"
        self.beat()

    @contextlib.contextmanager
    def working_on(self, shard: int) -> Iterator[None]:
        """While it lasts, the task says that it works on a shard."""
        self._shard, self._since, self._state = shard, time.monotonic(), "working"
        try:
            yield
        finally:
            self._shard = -1

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """While it lasts, ``Overtaken`` may be raised anywhere in the main thread."""
        self._may_interrupt = self._old_handler is not None
        try:
            yield
        finally:
            self._may_interrupt = False

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            with contextlib.suppress(TokenmillError, OSError):
                self.beat()
                self._look()

    def _look(self) -> None:
        shard = self._shard
        if shard >= 0 and self._may_interrupt and self._folder.is_settled(shard):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)

    def _interrupt(self, signum: int, frame: object) -> None:
        # between two lines of the main thread, so the flag cannot change meanwhile: never inside a commit
        if self._may_interrupt and self._folder.is_settled(self._shard):
            self._may_interrupt = False
            raise Overtaken


@dataclass(frozen=True, kw_only=True)
class Held:
    """A shard that some task of the launch holds and that is not done, as an idle task sees it."""

    shard: int
    """Index of the shard."""
    generation: int
    """Generation of its newest lease."""
    is_silent: bool
    """Whether the holder has ended or shows no life."""
    seconds: float
    """For how long at least it is worked on."""


def choose(held: Sequence[Held], straggler_seconds: float) -> Held | None:
    """The shard that an idle task takes over; None if it is better to wait.

    A silent holder's shard first. Then stragglers, the longest first, each at most once: a second attempt at
    a shard that is slow by itself helps nobody.

    Args:
        held: shards that others hold.
        straggler_seconds: from when on a shard is a straggler; infinite if that is not known yet.
    """
    silent = [one for one in held if one.is_silent and not is_suspect(one)]
    if silent:
        return min(silent, key=lambda one: (one.generation, one.shard))
    late = [one for one in held if one.seconds > straggler_seconds and not one.generation]
    return max(late, key=lambda one: one.seconds, default=None)


def is_suspect(held: Held) -> bool:
    """True if so many tasks fell silent over a shard that no further one of this launch shall try it."""
    return held.is_silent and held.generation >= MOST_TAKEOVERS


def straggler_seconds(times: Sequence[float]) -> float:
    """From when on a shard is a straggler, given what others took; infinite if too few are done."""
    if len(times) < _FEWEST_TIMES:
        return float("inf")
    ordered = sorted(times)
    percentile = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return max(STRAGGLER_FACTOR * percentile, _LEAST_STRAGGLER_SECONDS)


@dataclass
class _Seen:
    """What an observer knows of a task."""

    number: int
    """Of the newest beat."""
    when: float
    """When that beat was first seen, by the observer's monotonic clock."""


@dataclass
class Observer:
    """An idle task's view of the others of its launch.

    Attributes:
        folder: the job's folder.
        launch: token of the launch.
        lease_seconds: silence after which a task counts as dead.
        clock: seconds that never go back.
    """

    folder: JobFolder
    launch: str
    lease_seconds: float
    clock: Callable[[], float] = time.monotonic
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _held_since: dict[tuple[int, int], float] = field(default_factory=dict)
    _machine: str = field(default_factory=machine_id)
    _store_ahead: float | None = None
    """The store's clock minus ``clock``; None if the store does not say."""

    def set_clock(self, task: int) -> None:
        """Learn the store's time from the sign of life that the observing task has just given."""
        now, written = self.clock(), self.folder.beat_at(self.launch, task)
        self._store_ahead = None if written is None else written - now

    def _age(self, shard: int, generation: int) -> float:
        """For how long a shard has been held, by the times of the store; 0 if it does not say."""
        if self._store_ahead is None:
            return 0.0
        taken = self.folder.leased_at(self.launch, shard, generation)
        return 0.0 if taken is None else self.clock() + self._store_ahead - taken

    def is_silent(self, task: int, beat: Mapping[str, Any] | None) -> bool:
        """Whether a task has ended or shows no life."""
        if beat is not None and (beat["state"] == "ended" or self._is_gone(beat)):
            return True
        number, now = 0 if beat is None else int(beat["number"]), self.clock()
        seen = self._seen.get(task)
        if seen is None or seen.number != number:
            self._seen[task] = _Seen(number, now)
            return False
        return now - seen.when > self.lease_seconds

    def _is_gone(self, beat: Mapping[str, Any]) -> bool:
        mine = beat["machine"] == self._machine
        return bool(mine) and start_time(beat["pid"]) != beat["process_started"]

    def held(self, unfinished: Set[int]) -> list[Held]:
        """The unfinished shards as they are held now; one without a lease counts as lost."""
        leases = self.folder.leased(self.launch)
        found = [
            Held(shard=shard, generation=-1, is_silent=True, seconds=0.0)
            for shard in unfinished - leases.keys()
        ]
        now = self.clock()
        for shard in unfinished & leases.keys():
            generation = leases[shard]
            task = int(self.folder.holder(self.launch, shard, generation)["task"])
            beat = self.folder.beat(self.launch, task)
            since = self._held_since.setdefault((shard, generation), now)
            said = float(beat["seconds"]) if beat is not None and beat["shard"] == shard else 0.0
            found.append(
                Held(
                    shard=shard,
                    generation=generation,
                    is_silent=self.is_silent(task, beat) or _gave_up(beat),
                    seconds=max(now - since, said, self._age(shard, generation)),
                )
            )
        return found


def _gave_up(beat: Mapping[str, Any] | None) -> bool:
    """Whether a living holder looks for other work: it does not come back to what it could not do."""
    return beat is not None and beat["state"] == "idle"


class Vital:
    """A driver's view of launches: whether any of their tasks still shows life."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._observers: dict[str, Observer] = {}
        self._looked: dict[str, float] = {}

    def shows_life(self, folder: JobFolder, launch: str, num_tasks: int, lease_seconds: float) -> bool:
        """False once all tasks of a launch have begun and none shows life; looks only now and then."""
        now = self.clock()
        if now - self._looked.get(launch, float("-inf")) < lease_seconds / BEATS_PER_LEASE:
            return True
        self._looked[launch] = now
        observer = self._observers.setdefault(launch, Observer(folder, launch, lease_seconds, self.clock))
        numbers = folder.beating(launch)
        if len(numbers) < num_tasks:
            return True
        sample = numbers[:: max(1, len(numbers) // _MOST_ASKED)]
        return _lives(folder, observer, sample) or (
            _lives(folder, observer, numbers) or _have_ended(folder, launch, numbers)
        )


def _lives(folder: JobFolder, observer: Observer, tasks: Sequence[int]) -> bool:
    # every task is asked, so that the silence of each is measured from now on
    silent = [observer.is_silent(task, folder.beat(observer.launch, task)) for task in tasks]
    return not all(silent)


def _have_ended(folder: JobFolder, launch: str, tasks: Sequence[int]) -> bool:
    """Whether all say that they have ended: the scheduler will say so soon."""
    return all((folder.beat(launch, task) or {"state": ""})["state"] == "ended" for task in tasks)
