"""What slots were used for, and what tasks did to the file system, in simulated time."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

USEFUL = "useful"
CAUSES = (
    USEFUL,
    "overhead",
    "start",
    "idle",
    "error",
    "killed",
    "preempted",
    "node lost",
    "timeout",
    "late",
    "cancelled",
)
"""What the seconds of a slot can have gone into: work that was committed, and the rest by cause."""
BIN_SECONDS = 10.0


@dataclass(kw_only=True)
class Usage:
    """Sums over all tasks."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Slot-seconds by cause."""
    core_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Core-seconds by cause."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Attempts by outcome."""
    operations: Counter[str] = field(default_factory=Counter)
    """Calls on the file system by kind."""
    bins: Counter[int] = field(default_factory=Counter)
    """Calls on the file system by time, in bins."""

    def spend(self, cause: str, seconds: float, width: int, cpus: int) -> None:
        """Note what a task's time went into."""
        self.seconds[cause] += seconds * width
        self.core_seconds[cause] += seconds * width * cpus

    def touch(self, now: float, kind: str, count: int = 1) -> None:
        """Note calls on the file system."""
        self.operations[kind] += count
        self.bins[int(now // BIN_SECONDS)] += count

    @property
    def peak_per_second(self) -> float:
        """Most calls per second over a bin."""
        return max(self.bins.values(), default=0) / BIN_SECONDS

    def over_time(self) -> list[tuple[float, float]]:
        """Seconds since the start, and calls on the file system per second."""
        last = max(self.bins, default=-1)
        return [(number * BIN_SECONDS, self.bins[number] / BIN_SECONDS) for number in range(last + 1)]
