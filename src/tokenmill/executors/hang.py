"""The watch over a gang that may hang: it shows where every rank stands, and ends the attempt.

    rank 0   counts its own signs of progress (Task.tell, outputs), and writes the count when it has grown
    rank r   looks at that count

A count that has begun and stands still for too long means that the gang hangs, whichever rank is the cause:
the others wait for it sooner or later. A thread does this, since the rank itself may be stuck where no Python
runs.
"""

import contextlib
import faulthandler
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from tokenmill import storage
from tokenmill.errors import HangError
from tokenmill.executors.job import Task

_MOST_POLL_SECONDS = 5.0


@contextlib.contextmanager
def watched(task: Task, end: Callable[[HangError], None]) -> Iterator[None]:
    """Watch a rank of a gang while the block runs.

    Args:
        task: the rank; ``Resources.hang_seconds`` says how long it may show nothing.
        end: records the error and ends this process.

    """
    seconds = task.job.resources.hang_seconds
    if not seconds:
        yield
        return
    over = threading.Event()
    watch = _Watch(task, seconds, end, over)
    thread = threading.Thread(target=watch.run, name="hang-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Watch:
    def __init__(
        self, task: Task, seconds: float, end: Callable[[HangError], None], over: threading.Event
    ) -> None:
        self.task, self.seconds, self.end, self.over = task, seconds, end, over
        self.poll_seconds = min(_MOST_POLL_SECONDS, seconds / 5)
        self.url = storage.join(task.exchange_url, "signs.json")

    def run(self) -> None:
        last, since = -1, time.monotonic()
        while not self.over.wait(self.poll_seconds):
            signs = self.signs(last)
            if signs != last or not signs:  # a start has deadlines of its own
                last, since = signs, time.monotonic()
            elif time.monotonic() - since > self.seconds:
                self.give_up()
                return

    def signs(self, last: int) -> int:
        """Signs of rank 0 so far."""
        if self.task.rank:
            return int(storage.read_json(self.url)["signs"]) if storage.exists(self.url) else 0
        if self.task.signs != last:
            storage.write_atomic(self.url, storage.dump_json({"signs": self.task.signs}))
        return self.task.signs

    def give_up(self) -> None:
        """Show where this rank stands, give the others time to do the same, and end."""
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            self.task.log.error(
                "no progress for %g s; where the threads stand:\n%s", self.seconds, file.read()
            )
        time.sleep(3 * self.poll_seconds)  # the first rank that ends takes the others with it
        if self.over.is_set():
            return
        task = self.task
        self.end(
            HangError(
                "the gang hangs",
                where=f"job {task.job.name}, rank {task.rank} of {task.world_size}, attempt {task.attempt}",
                expected=f"progress within {self.seconds:g} s",
                got=f"{task.signs} signs of progress" if not task.rank else "none from rank 0",
                fix="read where each rank stands in the logs of this attempt; raise resources.hang_seconds "
                "if a step may take that long",
            )
        )
