"""What a person who watches a run wants to know, from the run's folder alone: it may lie on another machine.

    job folders ──Watcher.look──> JobView of every job: how far, how fast, how long still, who is alive

One look lists the commit records and reads only what is new since the last look.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tokenmill import storage
from tokenmill.errors import InputError, StorageError
from tokenmill.executors.cost import Account, Usage, prices_of
from tokenmill.executors.leases import Observer
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.status import JobStatus, driver_of, folders_of, job_status
from tokenmill.telemetry import Counters

_WINDOW_SECONDS = 60.0
"""The rate is that of the last minute."""
_SAMPLE_SECONDS = 0.1
"""Time that one look spends on reading new commit records of a job."""
_MOST_SAMPLES = 1000
_MOST_BEATS = 500
"""Tasks of a launch that are listened to; of more, every second, third, ... stands for the others."""
_LEAST_SECONDS = 1.0
_MAIN = ("tokens", "documents_out", "documents", "lines", "words", "requests")
"""Ends of the names of counters that people ask for, the most wanted first."""
_MOST_MAIN = 2
_LAST_BYTES = 2000
_WIDTH = 160
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d),\d{3} [A-Z]+ ")
"""How lines of attempts' logs begin."""


@dataclass(frozen=True, kw_only=True)
class JobView:
    """One job at one look."""

    status: JobStatus
    """State and shards."""
    usage: Usage
    """What it has taken so far."""
    rate: float = 0.0
    """Shards per second now; 0 if unknown."""
    left_seconds: float | None = None
    """Seconds until its last shard is done, if nothing changes; None if unknown."""
    alive: int = 0
    """Tasks that show life."""
    silent: int = 0
    """Tasks that have not ended and show no life for longer than a lease lasts."""
    counters: Mapping[str, float] = field(default_factory=dict)
    """Main counters; estimated from some shards while the job runs."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Their growth per second."""
    words: str = ""
    """What it says of itself, or the last line of its newest log."""


class Watcher:
    """Looks at a run again and again.

    Args:
        run_url: folder of the run.
        clock: seconds that never go back.
    """

    def __init__(self, run_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._run_url = storage.absolute(run_url)
        self._prices = prices_of(self._run_url)
        self._jobs: dict[str, _JobWatch] = {}
        self._due = float("-inf")

    def is_due(self) -> bool:
        """True if a driver may look again: it spends a tenth of its time on that at most."""
        return self._clock() >= self._due

    def look(self, statuses: Sequence[JobStatus] | None = None) -> list[JobView]:
        """Every job of the run, in order of the graph.

        Args:
            statuses: states of the jobs, if they are known already.

        Raises:
            InputError: the folder is not a run.
        """
        began = self._clock()
        driven = driver_of(self._run_url) is not None
        known = {status.folder: status for status in statuses or ()}
        views = []
        for folder in folders_of(self._run_url).values():
            if folder.url not in self._jobs:
                self._jobs[folder.url] = _JobWatch(folder, Account(folder, self._prices), self._clock)
            job = self._jobs[folder.url]
            status = known.get(folder.url) or job.status(driven=driven)
            views.append(job.view(status))
        now = self._clock()
        self._due = now + max(_LEAST_SECONDS, 9 * (now - began))
        return views


def plain(view: JobView) -> dict[str, Any]:
    """A view as plain values, for programs: the job's state, and what it has taken and promises."""
    values = asdict(view)
    status, counters = values.pop("status"), values.pop("counters")
    return {**status, "seconds": view.usage.attempt_seconds, **values, "main_counters": counters}


class _JobWatch:
    """What is remembered of a job between two looks."""

    def __init__(self, folder: JobFolder, account: Account, clock: Callable[[], float]) -> None:
        self._folder, self._account, self._clock = folder, account, clock
        self._complete: JobView | None = None
        self._steps: deque[tuple[float, int]] = deque()
        self._sampled: set[int] = set()
        self._sample = Counters()
        self._observers: dict[str, Observer] = {}

    def status(self, *, driven: bool) -> JobStatus:
        """State of the job; of a complete one it is read once."""
        if self._complete is not None and storage.exists(self._folder.at("manifest.json")):
            return self._complete.status
        return job_status(self._folder, driven=driven)

    def view(self, status: JobStatus) -> JobView:
        """The job as it is now."""
        if status.state == "complete":
            if self._complete is None:
                counters = main_counters(status.counters)
                usage = self._account.look(alive=False)
                self._complete = JobView(status=status, usage=usage, counters=counters)
            return self._complete
        self._complete = None
        usage = self._account.look(alive=bool(status.running))
        alive, silent = self._tasks(status)
        rate = self._rate(status, usage)
        left = (status.num_shards or 0) - status.done - status.failed
        counters, rates = self._counters(status, rate)
        at_work = bool(status.running or alive)
        return JobView(
            status=status,
            usage=usage,
            rate=rate if at_work else 0.0,
            left_seconds=_left_seconds(left, max(status.running, alive), usage, rate) if at_work else None,
            alive=alive,
            silent=silent,
            counters=counters,
            rates=rates if at_work else {},
            words=status.message or self._last_line(),
        )

    def _rate(self, status: JobStatus, usage: Usage) -> float:
        """Shards per second over the last minute; at first what the measured times promise."""
        now = self._clock()
        self._steps.append((now, status.done))
        while len(self._steps) > 2 and now - self._steps[0][0] > _WINDOW_SECONDS:
            self._steps.popleft()
        then, done = self._steps[0]
        if status.done > done:
            return (status.done - done) / max(1e-9, now - then)
        return status.running / usage.mean_seconds if usage.mean_seconds else 0.0

    def _tasks(self, status: JobStatus) -> tuple[int, int]:
        """Tasks of the newest launch that show life, and those that ought to."""
        order = self._folder.launch_order()
        if not order or status.state in ("waiting", "cancelled"):
            return 0, 0
        launch = order[-1]
        seconds = self._folder.job.resources.lease_seconds
        observer = self._observers.setdefault(launch, Observer(self._folder, launch, seconds, self._clock))
        tasks = self._folder.beating(launch)
        if not tasks and status.running:  # ranks of a gang have no heartbeats: their attempts say it
            return sum(record["launch"] == launch for record in self._account.running), 0
        step = -(-len(tasks) // _MOST_BEATS) or 1
        sample = {task: self._folder.beat(launch, task) for task in tasks[::step]}
        beats = {task: beat for task, beat in sample.items() if beat and beat["state"] != "ended"}
        silent = sum(observer.is_silent(task, beat) for task, beat in beats.items())
        return (len(beats) - silent) * step, silent * step

    def _counters(self, status: JobStatus, rate: float) -> tuple[dict[str, float], dict[str, float]]:
        """Main counters so far and per second, from a sample of the shards that are done."""
        if status.done and len(self._sampled) < _MOST_SAMPLES:
            self._read_some()
        if not self._sampled:
            return {}, {}
        mean = {name: value / len(self._sampled) for name, value in self._sample.values.items()}
        mean = main_counters(mean)
        per_second = {name: value * rate for name, value in mean.items()}
        return {name: value * status.done for name, value in mean.items()}, per_second

    def _read_some(self) -> None:
        deadline = time.monotonic() + _SAMPLE_SECONDS
        for shard in self._folder.done() - self._sampled:
            try:
                self._sample.merge(self._folder.committed(shard)["counters"])
            except (InputError, StorageError):  # it was withdrawn or folded a moment ago
                continue
            self._sampled.add(shard)
            if time.monotonic() > deadline or len(self._sampled) >= _MOST_SAMPLES:
                return

    def _last_line(self) -> str:
        running = self._account.running
        if not running:
            return ""
        newest = max(running, key=lambda record: float(record["started"]))
        line = last_line(self._folder.log_url(newest["shard"], newest["attempt"], newest["rank"]))
        return f"shard {newest['shard']}: {line}" if line else ""


def main_counters(counters: Mapping[str, float]) -> dict[str, float]:
    """The few counters that people ask for.

    >>> main_counters({"a/dropped/x": 3, "a/documents_out": 5, "tokens": 70, "lines": 2})
    {'tokens': 70, 'a/documents_out': 5}
    """
    found: dict[str, float] = {}
    for end in _MAIN:
        named = [name for name in counters if name == end or name.endswith(f"/{end}")]
        if named and len(found) < _MOST_MAIN:
            found[named[-1]] = counters[named[-1]]  # of several blocks the last one's
    return found


def last_line(url: str) -> str:
    """Last line of a log, cut to a width; empty if there is none."""
    try:
        with storage.open_input(url) as file:
            file.seek(max(0, file.seek(0, 2) - _LAST_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except InputError:
        return ""
    spoken = [line.strip() for line in lines if line.strip()]
    return _STAMP.sub(r"\1 ", spoken[-1])[:_WIDTH] if spoken else ""


def _left_seconds(left: int, at_work: int, usage: Usage, rate: float) -> float | None:
    """Time for the shards that are left: measured seconds of one, over as many tasks as are at work."""
    if left <= 0 or not (usage.mean_seconds or rate):
        return None
    if not usage.mean_seconds:
        return left / rate
    rounds = -(-left // max(1, at_work))
    return max(rounds * usage.mean_seconds, left / rate if rate else 0.0)
