"""Workers below a driver of tools/faults see a wrong time of day; durations stay right, as on a real host."""

import os
import time
from pathlib import Path

SHIFT = "FAULTS_CLOCK_SECONDS"
_WORKERS = ("tokenmill.executors.worker", "multiprocessing.spawn")


def shift(seconds: float) -> None:
    """Make the clock of this process fast, or slow if its number is odd."""
    own = seconds if os.getpid() % 2 == 0 else -seconds
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + own
    time.time_ns = lambda: real_ns() + int(own * 1e9)


if SHIFT in os.environ and any(
    word in Path("/proc/self/cmdline").read_text(errors="replace") for word in _WORKERS
):
    shift(float(os.environ[SHIFT]))
