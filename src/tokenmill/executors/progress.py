"""How far a run is, while it runs: a board on a terminal, a line per change elsewhere; always on stderr."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tokenmill.executors.cost import total
from tokenmill.executors.status import JobStatus
from tokenmill.executors.units import duration, hours, price, rate, si, size
from tokenmill.executors.verify import Verification
from tokenmill.executors.watch import JobView

_WORDS_SECONDS = 30.0
"""Seconds between two lines with a job's own words."""
_READ_SECONDS = 10.0
"""Seconds between two lines about what was read."""
_SHORTEST_BAR, _LONGEST_BAR, _WORDS_WIDTH = 8, 30, 80
_QUIET = ("complete", "waiting")
"""States of jobs of which nothing more is said."""
COLOURS = {"complete": "green", "failed": "red", "cancelled": "red", "running": "blue"}


class Display(Protocol):
    """Shows people how far a run is."""

    wants_views: bool
    """Whether ``tick`` has a use for views."""

    def tick(self, statuses: Sequence[JobStatus], views: Sequence[JobView] | None) -> None:
        """Show the states of jobs, and what a watcher saw if it has looked again."""

    def show(self, views: Sequence[JobView], queue: Mapping[str, str]) -> None:
        """Show what a watcher saw, and what the queue says of jobs by their names."""


@contextlib.contextmanager
def progress(*, silent: bool = False) -> Iterator[Display]:
    """What shows a run: a board on a terminal, lines elsewhere, or nothing."""
    if silent:
        yield Silence()
    elif sys.stderr.isatty():
        with Live(console=Console(stderr=True), auto_refresh=False) as live:
            yield _Board(live)
    else:
        yield _Lines()


def reading(*, silent: bool = False) -> Callable[[Verification], None]:
    """A function that says once in a while how much was verified."""
    spoken = time.monotonic()

    def show(found: Verification) -> None:
        nonlocal spoken
        if not silent and time.monotonic() - spoken >= _READ_SECONDS:
            spoken = time.monotonic()
            damaged = f"{len(found.damages)} damaged"
            _print(f"verify: {found.num_files} files, {size(found.num_bytes)}, {damaged}")

    return show


def shards_done(status: JobStatus) -> str:
    """Done shards of all, for people."""
    return "-" if status.num_shards is None else f"{status.done}/{status.num_shards}"


def _state(status: JobStatus) -> str:
    """State of a job as people see it: between two shards it is planned for a moment, and still at work."""
    return "running" if status.state == "planned" and status.done else status.state


class Silence:
    """Shows nothing."""

    wants_views = False

    def tick(self, statuses: Sequence[JobStatus], views: Sequence[JobView] | None) -> None:
        """Do nothing."""

    def show(self, views: Sequence[JobView], queue: Mapping[str, str]) -> None:
        """Do nothing."""


class _Board:
    """Shows bars that stay in their place."""

    wants_views = True

    def __init__(self, live: Live) -> None:
        self._live = live

    def tick(self, statuses: Sequence[JobStatus], views: Sequence[JobView] | None) -> None:
        if views is not None:
            self.show(views, {})

    def show(self, views: Sequence[JobView], queue: Mapping[str, str]) -> None:
        self._live.update(board(views, queue, self._live.console.width), refresh=True)


class _Lines:
    """Prints a line when a job changes its state or has got on by a tenth."""

    wants_views = False

    def __init__(self) -> None:
        self._shown: dict[str, tuple[str, int]] = {}
        self._heard: dict[str, float] = {}

    def tick(self, statuses: Sequence[JobStatus], views: Sequence[JobView] | None) -> None:
        for status in statuses:
            self._line(status, "")

    def show(self, views: Sequence[JobView], queue: Mapping[str, str]) -> None:
        for view in views:
            more = [_pace(view), _tasks(view), queue.get(view.status.name, "")]
            self._line(view.status, "".join(f", {text}" for text in more if text))

    def _line(self, status: JobStatus, more: str) -> None:
        tenth = 10 * status.done // status.num_shards if status.num_shards else 0
        news = (_state(status), tenth)
        if self._shown.get(status.name, ("waiting", 0)) != news:
            self._shown[status.name] = news
            failed = f", {status.failed} failed" if status.failed else ""
            _print(f"{status.name}: {news[0]} {shards_done(status)}{failed}{more}")
        elif status.state != "failed" and (status.message or more) and self._may_speak(status.name):
            _print(f"{status.name}: {status.message or shards_done(status)}{more}")

    def _may_speak(self, name: str) -> bool:
        """True once in a while, so that a job's own words do not flood the log."""
        now = time.monotonic()
        if now - self._heard.setdefault(name, now) < _WORDS_SECONDS:
            return False
        self._heard[name] = now
        return True


def _print(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


# The board


def board(views: Sequence[JobView], queue: Mapping[str, str], width: int = 120) -> Group:
    """The jobs of a run with bars, then what those at work say.

    Args:
        views: the jobs.
        queue: name of a job -> what the queue holds of it.
        width: of the terminal, in letters; bars get what words leave.
    """
    bar_width = max(_SHORTEST_BAR, min(_LONGEST_BAR, width - _WORDS_WIDTH))
    table = Table("job", "state", "", "shards", "pace", "left", "tasks", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    said: list[Text] = []
    for view in views:
        status = view.status
        state = _state(status)
        left = "" if view.left_seconds is None else duration(view.left_seconds)
        tasks = ", ".join(text for text in (_tasks(view), queue.get(status.name, "")) if text)
        cells = (Text(status.name, "bold"), Text(state, COLOURS.get(state, "dim")), bar(status, bar_width))
        table.add_row(*cells, _shards(status), _pace(view, left=False), left, tasks)
        words = [" ".join(text.split()) for text in (_counters(view), view.words) if state not in _QUIET]
        said += [
            Text.assemble((f"{status.name}  ", "bold"), (text, "dim"), no_wrap=True) for text in words if text
        ]
    usage = total([view.usage for view in views])
    took = [
        f"{hours(usage.core_hours)} core-hours",
        f"{hours(usage.gpu_hours)} GPU-hours" if usage.gpu_hours else "",
    ]
    took += [f"cost {price(usage.cost)}" if usage.cost else "", _failures(usage.failures)]
    last = Text(f"{time.strftime('%H:%M:%S')}  {', '.join(text for text in took if text)}", "dim")
    return Group(table, *said, last)


def bar(status: JobStatus, width: int) -> Text:
    """Done, failed, running and other shards as pieces of a bar; what is there at all has a cell at least."""
    whole = status.num_shards or 0
    parts = ((status.done, "green"), (status.failed, "red"), (status.running, "blue"))
    text, used = Text(), 0
    for count, colour in parts:
        cells = min(width - used, max(1, width * count // whole)) if whole and count else 0
        text.append("━" * cells, colour)
        used += cells
    return text.append("─" * (width - used), "dim")


def _shards(status: JobStatus) -> str:
    failed = f", {status.failed} failed" if status.failed else ""
    return f"{shards_done(status)}{failed}"


def _pace(view: JobView, *, left: bool = True) -> str:
    now = rate(view.rate) if view.rate else ""
    still = f"{duration(view.left_seconds)} left" if left and view.left_seconds is not None else ""
    return ", ".join(text for text in (now, still) if text)


def _tasks(view: JobView) -> str:
    silent = f", {view.silent} silent" if view.silent else ""
    return f"{view.alive} alive{silent}" if view.alive or view.silent else ""


def _counters(view: JobView) -> str:
    texts = []
    for name, value in view.counters.items():
        growth = view.rates.get(name, 0.0)
        texts.append(f"{name} {si(round(value))}" + (f" ({rate(growth)})" if growth else ""))
    return ", ".join(texts)


def _failures(failures: Mapping[str, int]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in failures.items())
    return f"attempts that failed: {kinds}" if kinds else ""
