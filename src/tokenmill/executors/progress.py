"""How far a run is, while it runs: bars on a terminal, a line per change elsewhere; always on stderr."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tokenmill.executors.status import JobStatus
from tokenmill.executors.units import size
from tokenmill.executors.verify import Verification

_WORDS_SECONDS = 30.0
"""Seconds between two lines with a job's own words."""
_READ_SECONDS = 10.0
"""Seconds between two lines about what was read."""
Show = Callable[[Sequence[JobStatus]], None]


@contextlib.contextmanager
def progress(*, silent: bool = False) -> Iterator[Show]:
    """A function that shows the state of jobs whenever it is called."""
    if silent:
        yield lambda statuses: None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
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


class _Lines:
    """Prints a line when a job changes its state or has got on by a tenth."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[str, int]] = {}
        self._heard: dict[str, float] = {}

    def __call__(self, statuses: Sequence[JobStatus]) -> None:
        for status in statuses:
            tenth = 10 * status.done // status.num_shards if status.num_shards else 0
            news = (_state(status), tenth)
            if self._shown.get(status.name, ("waiting", 0)) != news:
                self._shown[status.name] = news
                failed = f", {status.failed} failed" if status.failed else ""
                _print(f"{status.name}: {news[0]} {shards_done(status)}{failed}")
            elif status.state != "failed" and status.message and self._may_speak(status.name):
                _print(f"{status.name}: {status.message}")

    def _may_speak(self, name: str) -> bool:
        """True once in a while, so that a job's own words do not flood the log."""
        now = time.monotonic()
        if now - self._heard.setdefault(name, now) < _WORDS_SECONDS:
            return False
        self._heard[name] = now
        return True


def _print(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bars() -> Iterator[Show]:
    bars = Progress(
        TextColumn("{task.description:<14}"),
        TextColumn("{task.fields[state]:<9}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    rows: dict[str, TaskID] = {}

    def show(statuses: Sequence[JobStatus]) -> None:
        for status in statuses:
            if status.name not in rows:
                rows[status.name] = bars.add_task(status.name, start=False, total=None, state="", note="")
            row, state = rows[status.name], _state(status)
            if state == "running":
                bars.start_task(row)
            note = status.message if state == "running" else ""
            bars.update(row, total=status.num_shards, completed=status.done, state=state, note=note)
            if state in ("complete", "failed", "cancelled"):
                bars.stop_task(row)

    with Live(bars, console=Console(stderr=True), refresh_per_second=5):
        yield show
