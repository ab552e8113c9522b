"""Whether a task may still begin something."""

import threading
import time
from types import FrameType


class Stop:
    """Whether the scheduler has announced the end, or the time limit is near.

    Args:
        seconds: time limit of the submission in seconds; 0 for none.
        margin: notice that the scheduler gives, in seconds.
    """

    def __init__(self, seconds: float = 0.0, margin: float = 0.0) -> None:
        self._requested = threading.Event()
        self._deadline = time.monotonic() + seconds - margin if seconds else float("inf")

    def request(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Ask for an end; usable as a signal handler."""
        self._requested.set()

    def requested(self) -> bool:
        """True once the end was announced."""
        return self._requested.is_set()

    def leaves(self, seconds: float) -> bool:
        """True if there is time for something that takes so many seconds."""
        return not self.requested() and time.monotonic() + seconds < self._deadline
