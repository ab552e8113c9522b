"""Simulated time, and what will happen in it."""

import heapq
import itertools
import math
from collections.abc import Callable


class Events:
    """A clock that jumps from event to event.

    >>> events, seen = Events(), []
    >>> events.at(2.0, lambda: seen.append(events.now))
    >>> events.at(1.0, lambda: events.after(0.5, lambda: seen.append(events.now)))
    >>> events.run_until(3.0)
    >>> seen, events.now
    ([1.5, 2.0], 3.0)
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Let something happen at a moment; at the same moment, first said is first done."""
        if seconds < math.inf:
            heapq.heappush(self._heap, (max(seconds, self.now), next(self._order), action))

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Let something happen after so many seconds."""
        self.at(self.now + seconds, action)

    def run_until(self, seconds: float) -> None:
        """Let everything happen up to a moment, which is then now."""
        while self._heap and self._heap[0][0] <= seconds:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = seconds


class Unclaimed:
    """Numbers below a limit of which the next free one at or after a place is wanted, in cyclic order.

    A forest of jumps with path halving: claiming all of them costs time nearly linear in their number.

    >>> free = Unclaimed([True, False, True])
    >>> free.claim(1), free.claim(1), free.claim(1)
    (2, 0, None)
    """

    def __init__(self, free: list[bool]) -> None:
        self._size = len(free)
        self._jump = list(range(self._size + 1))
        self.left = self._size
        for number, is_free in enumerate(free):
            if not is_free:
                self.take(number)

    def take(self, number: int) -> bool:
        """Claim one number; False if it is no longer free."""
        if self._jump[number] != number:
            return False
        self._jump[number] = number + 1
        self.left -= 1
        return True

    def claim(self, start: int) -> int | None:
        """Claim the next free number from a place on, and say which; None if there is none."""
        if not self.left:
            return None
        found = self._next(start)
        found = self._next(0) if found == self._size else found
        self.take(found)
        return found

    def _next(self, number: int) -> int:
        jump = self._jump
        while jump[number] != number:
            jump[number] = number = jump[jump[number]]
        return number
