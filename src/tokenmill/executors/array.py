"""How the tasks of an array share its shards: lease, try, try again, then help others out.

1. lease shards nobody has, one at a time, and try them
2. try again what failed here, as far as there is hope
3. wait for what others hold: take over the shards of tasks that fell silent, and of stragglers
"""

import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence

from tokenmill.executors.attempt import Place, run_attempt
from tokenmill.executors.job import Shard
from tokenmill.executors.leases import Heart, Held, Observer, choose, is_suspect, straggler_seconds
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.stop import Stop

_MOST_FAILURES = 5
"""Failures, and nothing done, after which a task doubts its node and leaves the rest to others."""
_BY_THE_NODE = ("error", "disk")
"""Classes of failures that another node might not see."""
_NOT_HERE = ("oom", "disk")
"""Classes of failures that this task would only repeat."""
MOST_REFUSALS = 8
"""Leases in a row that others had, after which a task lists them again."""
MOST_HANDS = 16
"""Idle tasks that wait to take over what others lose."""
MANY_TASKS = 64
"""Tasks of a launch from which on those that wait take numbered places instead of counting each other."""
SAMPLE = 64
"""Commit records from which the usual time of a shard is taken."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
_log = logging.getLogger("tokenmill.worker")


def work_array(folder: JobFolder, place: Place, stop: Stop, take: Callable[[], Shard | None] | None) -> None:
    """Work on shards until none is left for this task.

    Args:
        folder: the job's folder.
        place: where this task stands.
        stop: whether the end was announced.
        take: gives the next shard, or None; by default tasks agree by leases in files.
    """
    with Heart(folder, place.launch, place.index, place.host) as heart:
        _Sharer(folder, place, stop, heart).run(take)


class _Sharer:
    """One task among those of its launch.

    Args:
        folder: the job's folder.
        place: where this task stands.
        stop: whether the end was announced.
        heart: shows that this task lives.
    """

    def __init__(self, folder: JobFolder, place: Place, stop: Stop, heart: Heart) -> None:
        self._folder, self._place, self._stop, self._heart = folder, place, stop, heart
        self._straggler_seconds = float("inf")
        self._seconds: list[float] = []
        self._num_done = self._num_failures = 0

    def run(self, take: Callable[[], Shard | None] | None) -> None:
        """Take, try again, take over."""
        failed = self._take(take or functools.partial(next, self._leases(), None))
        while failed and not self._stop.requested() and not self._doubts():
            failed = self._hopeful([shard for shard in failed if self._try(shard) == "error"])
        if self._doubts():
            _log.warning("%d attempts failed, none succeeded: the rest is for others", self._num_failures)
        elif self._place.num_tasks > 1 and self._has_room():
            self._help()

    def _doubts(self) -> bool:
        return self._num_failures >= _MOST_FAILURES and not self._num_done and self._place.num_tasks > 1

    def _leases(self) -> Iterator[Shard]:
        """Shards that this task could lease; the next one is leased when it is asked for."""
        folder, place = self._folder, self._place
        plan = folder.ensure_plan()
        mine = plan[_first(len(plan), place)]  # nobody else begins here, so nothing need be listed for it
        if not folder.is_settled(mine.index) and folder.lease(place.launch, mine.index, self._holder()):
            yield mine
        taken, refused = self._taken(), 0
        for offset in range(1, len(plan)):
            index = (mine.index + offset) % len(plan)
            if index in taken:
                continue
            if folder.lease(place.launch, index, self._holder()):
                refused = 0
                yield plan[index]
            elif (refused := refused + 1) >= MOST_REFUSALS:  # the listing is old
                taken, refused = self._taken(), 0

    def _taken(self) -> set[int]:
        """Shards that need nobody, or are held in this launch."""
        folder = self._folder
        return folder.done() | set(folder.quarantined()) | set(folder.leased(self._place.launch))

    def _holder(self) -> dict[str, int]:
        return {"task": self._place.index, "pid": os.getpid()}

    def _take(self, take: Callable[[], Shard | None]) -> list[Shard]:
        """Take and try shards one after the other; returns those that failed and may yet be done."""
        failed: list[Shard] = []
        while self._may_begin() and (shard := take()) is not None:
            if self._try(shard) == "error":
                failed.append(shard)
                if self._doubts():
                    break
        return self._hopeful(failed)

    def _has_room(self) -> bool:
        """True while the task may take another shard."""
        most = self._folder.job.resources.max_shards
        return not most or len(self._seconds) < most

    def _may_begin(self) -> bool:
        return self._has_room() and self._stop.leaves(self._usual_seconds())

    def _usual_seconds(self) -> float:
        return sum(self._seconds) / len(self._seconds) if self._seconds else 0.0

    def _try(self, shard: Shard) -> str:
        started = time.monotonic()
        with self._heart.working_on(shard.index):
            outcome = run_attempt(self._folder, shard, self._place, self._stop.requested, self._heart)
        self._seconds.append(time.monotonic() - started)
        _log.info("shard %d: %s in %.2f s", shard.index, outcome, self._seconds[-1])
        self._num_done += outcome == "done"
        if outcome == "error":
            self._num_failures += self._folder.last_class(shard.index) in _BY_THE_NODE
        return outcome

    def _hopeful(self, failed: Sequence[Shard]) -> list[Shard]:
        """Those that may yet be done; the others are set aside."""
        left: list[Shard] = []
        for shard in failed:
            if reason := self._folder.hopeless(shard.index):
                self._folder.quarantine(shard.index, reason)
            elif self._folder.last_class(shard.index) not in _NOT_HERE:
                left.append(shard)
        return left

    def _help(self) -> None:
        """Wait for what others hold, and take over what they lose."""
        observer = Observer(self._folder, self._place.launch, self._folder.job.resources.lease_seconds)
        plan = self._folder.ensure_plan()
        self._heart.idle()
        observer.set_clock(self._place.index)
        pause = SHORTEST_PAUSE
        is_first = True
        while self._may_begin():
            unfinished = self._unfinished(len(plan))
            if not unfinished or (is_first and self._are_enough(len(unfinished))):
                return
            is_first = False
            held = observer.held(unfinished)
            if all(is_suspect(one) for one in held):
                return
            choice = choose(held, self._late_after())
            if choice is not None:
                self._take_over(plan[choice.shard], choice)
                pause = SHORTEST_PAUSE
            else:
                time.sleep(pause)
                pause = min(1.5 * pause, LONGEST_PAUSE, max(SHORTEST_PAUSE, self._usual_seconds() / 2))

    def _unfinished(self, num_shards: int) -> set[int]:
        return set(range(num_shards)) - self._folder.done() - set(self._folder.quarantined())

    def _are_enough(self, num_held: int) -> bool:
        """True if so many tasks wait already that one more would only hold its allocation."""
        folder, launch, wanted = self._folder, self._place.launch, min(num_held, MOST_HANDS)
        if self._place.num_tasks > MANY_TASKS:  # too many to look at each: there are numbered places
            places = f"{launch}.hands"
            taken = folder.leased(places)
            free = (place for place in range(wanted) if place not in taken)
            return not any(folder.lease(places, place, self._holder()) for place in free)
        beats = folder.beats(launch)
        idle = sum(beat["state"] == "idle" for task, beat in beats.items() if task != self._place.index)
        return bool(idle >= wanted)

    def _late_after(self) -> float:
        if self._straggler_seconds == float("inf"):
            done = sorted(self._folder.done())
            sample = done[:: max(1, len(done) // SAMPLE)]
            times = [float(self._folder.committed(shard)["seconds"]) for shard in sample]
            self._straggler_seconds = straggler_seconds(times)
        return self._straggler_seconds

    def _take_over(self, shard: Shard, held: Held) -> None:
        self._heart.busy()
        holder = self._holder()
        if self._folder.lease(self._place.launch, shard.index, holder, held.generation + 1):
            why = "its task fell silent" if held.is_silent else f"a straggler, {held.seconds:.1f} s"
            _log.info("shard %d is taken over: %s", shard.index, why)
            if self._try(shard) == "error":
                self._hopeful([shard])
        self._heart.idle()


def _first(num_shards: int, place: Place) -> int:
    """Where in the plan a task begins: each at another place, so that leases seldom collide."""
    return place.index * num_shards // max(1, place.num_tasks) % num_shards
