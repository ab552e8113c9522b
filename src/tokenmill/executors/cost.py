"""What a run takes: core-hours asked and used, GPU-hours, memory, waste, and the price of it.

    attempts/, heartbeats/  ──Account──>  Usage of a job  ──total──>  Usage of a run

asked     cores (GPUs) of a task times the time from its first sign of life to its last
used      CPU time of attempts
wasted    asked by attempts that committed nothing: failed, lost, or late (another was first)

A scheduler is not asked: its accounting may be missing, and tasks say all of it themselves. What is not seen
is the start of an interpreter before its first sign of life.

>>> total([Usage(core_hours=1.5, max_rss_bytes=7), Usage(core_hours=0.5, max_rss_bytes=9)]).core_hours
2.0
"""

import copy
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenmill import storage
from tokenmill.errors import InputError, StorageError
from tokenmill.executors.job import Resources
from tokenmill.executors.ledger import JobFolder

WASTED = ("error", "forgiven", "late", "lost")
"""Outcomes of attempts of which nothing is left."""
_PRICES = "prices.json"
_MOST_BEATS = 500
"""Signs of life of a launch that a look reads, the first aside."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a site charges, in any currency."""

    core_hour: float = 0.0
    """Price of a core-hour."""
    gpu_hour: float = 0.0
    """Price of a GPU-hour."""


def record_prices(run_url: str, prices: Prices) -> None:
    """Let everybody who looks at a run know its prices."""
    value = {"core_hour": prices.core_hour, "gpu_hour": prices.gpu_hour}
    storage.write_atomic(storage.join(run_url, _PRICES), storage.dump_json(value))


def prices_of(run_url: str) -> Prices:
    """Prices of a run; zero if none are recorded."""
    url = storage.join(run_url, _PRICES)
    return Prices(**storage.read_json(url)) if storage.exists(url) else Prices()


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a job or a run has taken so far."""

    attempts: Mapping[str, int] = field(default_factory=dict)
    """Attempts by outcome, ranks of a gang counted once."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Failed and lost attempts by class."""
    launches: int = 0
    """Launches recorded."""
    tasks: int = 0
    """Tasks and ranks that showed life."""
    task_seconds: float = 0.0
    """Time of all tasks and ranks, in seconds."""
    attempt_seconds: float = 0.0
    """The part of it that was spent in attempts, in seconds."""
    done_seconds: float = 0.0
    """Time of attempts that are done, in seconds."""
    core_hours: float = 0.0
    """Core-hours asked."""
    used_core_hours: float = 0.0
    """Core-hours of CPU time in attempts that have ended."""
    wasted_core_hours: float = 0.0
    """Core-hours asked by attempts of which nothing is left."""
    gpu_hours: float = 0.0
    """GPU-hours asked."""
    max_rss_bytes: int = 0
    """Largest memory of a task, in bytes."""
    memory_bytes: int = 0
    """Memory that a task asks for, in bytes."""
    cost: float = 0.0
    """Price of what was asked."""

    @property
    def mean_seconds(self) -> float:
        """Seconds of a done attempt; 0 before there is one."""
        done = self.attempts.get("done", 0)
        return self.done_seconds / done if done else 0.0


def total(usages: Sequence[Usage]) -> Usage:
    """Usage of several jobs together."""
    attempts: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for usage in usages:
        attempts.update(usage.attempts)
        failures.update(usage.failures)
    sums: dict[str, Any] = {
        key: sum(getattr(usage, key) for usage in usages)
        for key in (
            *("launches", "tasks", "task_seconds", "attempt_seconds", "done_seconds"),
            *("core_hours", "used_core_hours", "wasted_core_hours", "gpu_hours", "cost"),
        )
    }
    most = {key: max((getattr(usage, key) for usage in usages), default=0) for key in _LARGEST}
    return Usage(attempts=dict(attempts), failures=dict(failures), **sums, **most)


_LARGEST = ("max_rss_bytes", "memory_bytes")
_TaskKey = tuple[str, int, int]


class Account:
    """Usage of one job, kept up to date: a record that cannot change any more is read once.

    Args:
        folder: the job's folder.
        prices: what the site charges.
    """

    def __init__(self, folder: JobFolder, prices: Prices | None = None) -> None:
        self._folder, self._prices = folder, prices or Prices()
        self._counted: set[str] = set()
        self._ended_beats: set[tuple[str, str]] = set()
        self._tally = _Tally()
        self._looks = 0
        self._resources = folder.job.resources
        self.running: list[dict[str, Any]] = []
        """Records of the attempts that had not ended at the last look."""

    def look(self, *, alive: bool = True) -> Usage:
        """Usage up to now.

        Args:
            alive: whether tasks may work on the job; if not, attempts that never ended are lost.
        """
        running = self.running = []
        for name in storage.list_names(self._folder.at("attempts")):
            if name not in self._counted:
                record = storage.read_json(self._folder.at("attempts", name))
                if record["outcome"] == "running":
                    running.append(record)
                else:
                    self._tally.add(record)
                    self._counted.add(name)
        launches = storage.list_names(self._folder.at("submissions"))
        for launch in launches:
            self._look_at_beats(launch)
        self._looks += 1
        self._tally.launches = len(launches)
        dead = [] if alive else [settled(self._folder, record) for record in running]
        return self._tally.usage(self._resources, self._prices, running if alive else (), dead)

    def _look_at_beats(self, launch: str) -> None:
        names = storage.list_names(self._folder.at("heartbeats", launch))
        names = [name for name in names if (launch, name) not in self._ended_beats]
        first = self._looks * _MOST_BEATS % max(1, len(names))  # of very many some each time, in turn
        most = _MOST_BEATS if self._looks else len(names)
        for name in [*names[first:], *names[:first]][:most]:
            beat = storage.read_json(self._folder.at("heartbeats", launch, name))
            self._tally.add_beat(launch, beat)
            if beat.get("state") == "ended":
                self._ended_beats.add((launch, name))


def usage_of(
    folder: JobFolder, records: Iterable[Mapping[str, Any]], prices: Prices, *, alive: bool = True
) -> Usage:
    """Usage of a job whose attempt records are at hand; see ``Account.look``."""
    tally = _Tally()
    running = []
    for record in records:
        if record["outcome"] == "running":
            running.append(record)
        else:
            tally.add(record)
    launches = storage.list_names(folder.at("submissions"))
    tally.launches = len(launches)
    for launch in launches:
        for name in storage.list_names(folder.at("heartbeats", launch)):
            tally.add_beat(launch, storage.read_json(folder.at("heartbeats", launch, name)))
    dead = [] if alive else [settled(folder, record) for record in running]
    return tally.usage(folder.job.resources, prices, running if alive else (), dead)


def settled(folder: JobFolder, record: Mapping[str, Any]) -> dict[str, Any]:
    """An attempt whose record says that it runs though nothing does: done if it is its shard's, else lost."""
    try:
        commit = folder.committed(record["shard"])
    except (InputError, StorageError):
        commit = {}
    if commit.get("attempt") == record["attempt"]:
        known = {key: commit[key] for key in ("ended", "seconds", "cpu_seconds")}
        return {**record, **known, "outcome": "done"}
    return {**record, "outcome": "lost", "class": "lost"}


class _Tally:
    """Sums over attempts that have ended and over tasks."""

    def __init__(self) -> None:
        self.launches = 0
        self._outcomes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._cpu_seconds = 0.0
        self._max_rss_bytes = 0
        self._spans: dict[_TaskKey, tuple[float, float]] = {}
        self._uptimes: dict[_TaskKey, float] = {}
        self._last: dict[_TaskKey, tuple[int, float]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Count an attempt that has ended."""
        outcome = str(record["outcome"])
        seconds = max(0.0, float(record.get("seconds", 0.0)))  # a clock may have been set back
        if not record["rank"]:
            self._outcomes[outcome] += 1
            if outcome in ("error", "forgiven", "lost"):
                self._failures[str(record.get("class") or "error")] += 1
        self._seconds[outcome] += seconds
        self._cpu_seconds += float(record.get("cpu_seconds", 0.0))
        self._max_rss_bytes = max(self._max_rss_bytes, int(record.get("max_rss_bytes", 0)))
        _widen(self._spans, record, seconds)

    def add_beat(self, launch: str, beat: Mapping[str, Any]) -> None:
        """Count a sign of life of a task."""
        key = (launch, int(beat["task"]), 0)
        self._last[key] = (int(beat.get("shard", -1)), float(beat.get("seconds", 0.0)))
        self._uptimes[key] = max(self._uptimes.get(key, 0.0), float(beat.get("uptime_seconds", 0.0)))
        self._max_rss_bytes = max(self._max_rss_bytes, int(beat.get("rss_bytes", 0)))

    def usage(
        self,
        resources: Resources,
        prices: Prices,
        running: Sequence[Mapping[str, Any]],
        dead: Sequence[Mapping[str, Any]] = (),
    ) -> Usage:
        """The sums, with attempts that run counted up to now, and those that died unnoticed."""
        if dead:
            whole = copy.deepcopy(self)
            for record in dead:
                lost = record["outcome"] == "lost"
                whole.add({**record, "seconds": whole.last_seconds(record)} if lost else record)
            return whole.usage(resources, prices, running)
        outcomes, spans, now_seconds = self._outcomes.copy(), dict(self._spans), 0.0
        now = time.time()
        for record in running:
            outcomes["running"] += not record["rank"]
            seconds = self._so_far(record, now)
            now_seconds += seconds
            _widen(spans, record, seconds)
        walls = {key: end - start for key, (start, end) in spans.items()}
        walls |= {key: max(seconds, walls.get(key, 0.0)) for key, seconds in self._uptimes.items()}
        task_seconds = sum(walls.values())
        core_hours = task_seconds * resources.mean_cpus / 3600
        gpu_hours = task_seconds * resources.mean_gpus / 3600
        wasted = sum(self._seconds[outcome] for outcome in WASTED)
        return Usage(
            attempts=dict(outcomes),
            failures=dict(self._failures),
            launches=self.launches,
            tasks=len(walls),
            task_seconds=task_seconds,
            attempt_seconds=sum(self._seconds.values()) + now_seconds,
            done_seconds=self._seconds["done"],
            core_hours=core_hours,
            used_core_hours=self._cpu_seconds / 3600,
            wasted_core_hours=wasted * resources.mean_cpus / 3600,
            gpu_hours=gpu_hours,
            max_rss_bytes=self._max_rss_bytes,
            memory_bytes=resources.memory_bytes,
            cost=core_hours * prices.core_hour + gpu_hours * prices.gpu_hour,
        )

    def last_seconds(self, record: Mapping[str, Any]) -> float:
        """How long an attempt had taken when its task showed life for the last time; 0 if it never did."""
        shard, seconds = self._last.get(_key(record), (-1, 0.0))
        return seconds if shard == record["shard"] else 0.0

    def _so_far(self, record: Mapping[str, Any], now: float) -> float:
        """Seconds of an attempt that has not ended: never beyond the last sign of life of its task."""
        key = _key(record)
        seconds = max(0.0, now - float(record["started"]))
        if key not in self._uptimes:
            return seconds
        return min(seconds, self._uptimes[key])


def _key(record: Mapping[str, Any]) -> _TaskKey:
    """A task or rank of a launch; without a number the process says which."""
    return (str(record["launch"]), int(record.get("task", record["pid"])), int(record["rank"]))


def _widen(spans: dict[_TaskKey, tuple[float, float]], record: Mapping[str, Any], seconds: float) -> None:
    key, started = _key(record), float(record["started"])
    start, end = spans.get(key, (started, started))
    spans[key] = (min(start, started), max(end, started + seconds))
