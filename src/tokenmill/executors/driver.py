"""The driver: one rule, applied to every job at every tick until nothing is left to do.

    a job with a manifest          is complete
    a job with a live launch       is left alone
    a job with shards set aside    has failed, and its children wait
    any other job                  is launched, if its parents are complete or can be waited for

Resuming is nothing else: the same rule on what the folder holds. With an executor that queues, children are
submitted at once and wait at the scheduler for all arrays of their parents; if the driver dies, the queue
goes on without it, since workers make plans and manifests themselves.
"""

import logging
import random
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tokenmill import storage
from tokenmill.errors import ConfigError, JobError
from tokenmill.executors.graph import Node, lay_out, refuse_foreign, write_run
from tokenmill.executors.job import Recipe
from tokenmill.executors.launch import Executor, Launch, launches_of, new_token
from tokenmill.executors.leases import Vital
from tokenmill.executors.plan import remaining
from tokenmill.executors.postmortem import hosts_to_avoid, is_judged, judge, losses, next_resources
from tokenmill.executors.reign import Reign, reign_over
from tokenmill.executors.status import JobStatus, job_status

_log = logging.getLogger("tokenmill.driver")
_MOST_IDLE_LAUNCHES = 3
"""Launches in a row of a job in which no task began an attempt."""
_LONGEST_BACKOFF_SECONDS = 300.0
_FOLD_SECONDS = 30.0
_LEFTOVER_SECONDS = 5.0
_LONGEST_REST_SECONDS = 30.0
_REST = 3.0
"""A look is followed by a rest that is so much longer: on object stores a look is a hundred requests."""


@dataclass(kw_only=True)
class _Progress:
    """What the driver remembers of a job between ticks; all of it could be read again from its folder."""

    launches: list[Launch]
    judged: set[str] = field(default_factory=set)
    """Launches whose attempts all have an outcome."""
    gone_since: dict[str, float] = field(default_factory=dict)
    """When a launch was first missed, by this driver's monotonic clock."""
    presumed_dead: set[str] = field(default_factory=set)
    """Launches that the scheduler still knows but whose tasks show no life."""
    complete_since: float = 0.0
    not_before: float = 0.0
    """No launch before this moment, by this driver's monotonic clock."""
    lost: bool = False
    """Too many launches came to nothing."""


class Driver:
    """Applies the rule to a run until nothing is left to do.

    Args:
        nodes: jobs in order of the graph.
        executor: starts tasks.
        reign: this driver's claim to decide.
        clock: seconds that never go back; a rehearsal has a clock of its own.

    Attributes:
        launch_seconds: spent in launches since the last rest; all the work, if it runs in this process.
        is_queued: after a tick: all that can be decided now is decided, and something runs or is queued.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        executor: Executor,
        reign: Reign | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nodes = nodes
        self.executor = executor
        self._reign = reign or Reign()
        self._progress = {name: _Progress(launches=launches_of(node.folder)) for name, node in nodes.items()}
        self._complete: dict[str, JobStatus] = {}
        self._deaf = False
        self.is_queued = False
        self.launch_seconds = 0.0
        self._clock = clock
        self._vital = Vital(clock)
        self._folded = self._clock()

    def statuses(self) -> list[JobStatus]:
        """State of every job."""
        found: list[JobStatus] = []
        for name, node in self.nodes.items():
            status = self._complete.get(name) or job_status(node.folder)
            if status.state == "complete":
                self._complete[name] = status
            found.append(status)
        return found

    def tick(self) -> bool:
        """Apply the rule once to every job; False when nothing is left to do.

        Raises:
            IdentityError: another driver has taken over.
        """
        launches = [launch for progress in self._progress.values() for launch in progress.launches]
        live = self.executor.live(launches)
        if live is None:  # nothing is known, so nothing is decided
            if not self._deaf:
                _log.warning(
                    "the scheduler does not answer; waiting until it does. If it will not come back, end "
                    "this driver and resume with --executor processes"
                )
            self._deaf = True
            return True
        self._deaf = False
        busy = [name for name in self.nodes if self._tend(name, live)]
        launched = [any(launch.token in live for launch in self._progress[name].launches) for name in busy]
        self.is_queued = bool(busy) and all(launched)
        return bool(busy)

    def _tend(self, name: str, live: set[str]) -> bool:
        """Apply the rule to one job; True if there is more to do for it."""
        node, progress = self.nodes[name], self._progress[name]
        running = [launch for launch in progress.launches if launch.token in live]
        if self._is_complete(name):
            self._dismiss(progress, running)
            return False
        if _is_cancelled(node) or any(self._has_failed(parent) for parent in node.parents):
            self.executor.cancel(running)  # as asked; or it waits for a parent that will not come
            return False
        running = [launch for launch in running if self._shows_life(progress, launch)]
        if running or not self._are_settled(progress, live):
            return True
        self._judge(node, progress, live)
        if not self._may_go_on(node, progress) or not self._parents_allow(node, live):
            return False
        # without a free slot, or during a pause, there is more to do
        is_pause = self.executor.free_slots() <= 0 or self._clock() < progress.not_before
        return is_pause or self._launch(node, live)

    def _dismiss(self, progress: _Progress, running: Sequence[Launch]) -> None:
        """End tasks of a complete job: what they still work on is done by others."""
        if not running:
            return
        progress.complete_since = progress.complete_since or self._clock()
        self.executor.nudge(running)
        lease_seconds = running[0].asked.lease_seconds
        if self._clock() > progress.complete_since + lease_seconds:  # they do not even hear
            self.executor.cancel(running)

    def _shows_life(self, progress: _Progress, launch: Launch) -> bool:
        """False if all tasks of a launch have begun and have been silent for too long."""
        if launch.token in progress.presumed_dead:
            return False
        folder, lease_seconds = launch.folder, launch.asked.lease_seconds
        if self._vital.shows_life(folder, launch.token, launch.num_tasks, lease_seconds):
            return True
        _log.warning("no task of launch %s shows life: its shards are given to another", launch.token)
        progress.presumed_dead.add(launch.token)
        self.executor.cancel([launch])
        return False

    def _are_settled(self, progress: _Progress, live: set[str]) -> bool:
        """True if the launches that ended have been out of sight for long enough to believe it."""
        now = self._clock()
        known = live - progress.presumed_dead
        for launch in progress.launches:
            if launch.token in known or launch.token in progress.judged:
                progress.gone_since.pop(launch.token, None)
            else:
                progress.gone_since.setdefault(launch.token, now)
        settle = self.executor.settle_seconds
        return all(now - since >= settle for since in progress.gone_since.values())

    def _judge(self, node: Node, progress: _Progress, live: set[str]) -> None:
        """Find out why attempts of launches that ended said nothing."""
        for launch in progress.launches:
            if launch.token in progress.judged or launch.token in live - progress.presumed_dead:
                continue
            if not is_judged(node.folder, launch.token):
                lost = judge(node.folder, launch.token, self.executor.ends(launch))
                if lost:
                    words = ", ".join(f"{count} {kind}" for kind, count in sorted(lost.items()))
                    _log.warning("job %s, launch %s: attempts lost: %s", node.job.name, launch.token, words)
            progress.judged.add(launch.token)

    def _is_complete(self, name: str) -> bool:
        if name not in self._complete:
            folder = self.nodes[name].folder
            if self._clock() > self._folded + _FOLD_SECONDS:
                self._folded = self._clock()
                folder.fold_commits()
            if folder.publish_manifest():  # removing thousands of files may take long: gc folds the rest
                self._complete[name] = job_status(folder)
        return name in self._complete

    def _has_failed(self, name: str) -> bool:
        """True if the job or one of its ancestors cannot go on."""
        node = self.nodes[name]
        if self._progress[name].lost or _is_cancelled(node) or node.folder.quarantined():
            return True
        return any(self._has_failed(parent) for parent in node.parents if parent not in self._complete)

    def _may_go_on(self, node: Node, progress: _Progress) -> bool:
        """True if a launch makes sense: with shards set aside, as long as launches bring others forward.

        A launch that did nothing but set shards aside says that the next would do the same.
        """
        if progress.lost or not node.folder.quarantined():
            return not progress.lost
        if not progress.launches or not self._left(node):
            return False
        newest = progress.launches[-1].token
        return losses(node.folder, newest) > 0 or len(node.folder.done()) > node.folder.intent(newest)["done"]

    def _parents_allow(self, node: Node, live: set[str]) -> bool:
        for parent in node.parents:
            if parent in self._complete:
                continue
            launched = any(launch.token in live for launch in self._progress[parent].launches)
            if not (self.executor.queues and launched):
                return False
        return True

    def _launch(self, node: Node, live: set[str]) -> bool:
        """Launch a job, unless its shards turn out to be done; False if that came to nothing too often."""
        progress = self._progress[node.job.name]
        if self._has_inputs(node):
            node.folder.ensure_plan()
            if self._is_complete(node.job.name):
                return True
        idle = node.folder.num_idle_launches()
        if idle >= _MOST_IDLE_LAUNCHES:
            progress.lost = True
            return False
        self._reign.check()
        # a complete parent may yet have tasks or segments in the queue that nobody needs
        awaited = [name for name in node.parents if name not in self._complete]
        parents = [launch for name in awaited for launch in self._progress[name].launches]
        again = bool(progress.launches)
        launch = Launch(
            token=new_token(),
            folder=node.folder,
            num_tasks=self._num_tasks(node),
            after=tuple(parent for parent in parents if parent.token in live),
            resources=next_resources(node.folder, self._left(node)) if again else None,
            exclude=hosts_to_avoid(node.folder) if again else (),
            epoch=self._reign.epoch,
        )
        began = time.monotonic()
        self.executor.launch(launch)
        self.launch_seconds += time.monotonic() - began
        live.add(launch.token)
        progress.launches.append(launch)
        progress.not_before = self._clock() + _backoff(idle, self.executor.poll_seconds)
        return True

    def _has_inputs(self, node: Node) -> bool:
        return all(parent in self._complete for parent in node.parents)

    def _left(self, node: Node) -> list[int]:
        """Shards that are to be done; none before there is a plan."""
        folder = node.folder
        if folder.num_shards() is None:
            return []
        left = remaining(folder.plan(), done=folder.done(), quarantined=set(folder.quarantined()))
        return [shard.index for shard in left]

    def _num_tasks(self, node: Node) -> int:
        if node.job.layout == "gang":
            return max(1, node.job.resources.tasks)
        if self._has_inputs(node):
            left = len(self._left(node))
        else:  # the plan is made when the parents are complete; tasks without a shard end at once
            left = node.folder.num_shards() or node.job.resources.tasks or 1
        return max(1, self.executor.num_tasks(node.job.resources.tasks_for(left)))

    def end_leftovers(self) -> None:
        """End tasks of jobs that need them no more: overtaken ones, and processes that do not even hear."""
        launches = [launch for progress in self._progress.values() for launch in progress.launches]
        deadline = self._clock() + _LEFTOVER_SECONDS
        while (live := self.executor.live(launches)) and self._clock() < deadline:
            self.executor.nudge([launch for launch in launches if launch.token in live])
            time.sleep(self.executor.poll_seconds)
        self.executor.cancel([launch for launch in launches if launch.token in (live or set())])

    def cancel(self) -> None:
        """End everything that runs for this run."""
        self.executor.cancel([launch for progress in self._progress.values() for launch in progress.launches])

    def failures(self) -> list[str]:
        """One line per job that cannot go on by itself."""
        lines = []
        for name, progress in self._progress.items():
            status = job_status(self.nodes[name].folder)
            if status.failed:
                lines.append(
                    f"{name}: {status.failed} of {status.num_shards} shards failed: {status.message}"
                )
            elif progress.lost:
                last = progress.launches[-1]
                words = last.folder.last_words(last.token) or "nothing was printed"
                lines.append(
                    f"{name}: {_MOST_IDLE_LAUNCHES} launches in a row ended before a task began to work; "
                    f"see {last.url}: {words}"
                )
            elif _is_cancelled(self.nodes[name]) and status.state != "complete":
                lines.append(f"{name}: cancelled")
        return lines


def _backoff(idle: int, poll_seconds: float) -> float:
    """Pause before the launch after this one, should it come to nothing: longer each time, never the same."""
    if not idle:
        return 0.0
    return float(min(_LONGEST_BACKOFF_SECONDS, poll_seconds * 2.0**idle) * random.uniform(0.5, 1.5))


def _is_cancelled(node: Node) -> bool:
    return storage.exists(node.folder.at("cancelled.json"))


def run_recipe(
    recipe: Recipe,
    run_url: str,
    executor: Executor,
    *,
    retry_failed: bool = False,
    on_change: Callable[[Sequence[JobStatus]], None] = lambda statuses: None,
    detach: bool = False,
    relay: Callable[[], bool] | None = None,
) -> list[JobStatus]:
    """Run a recipe to its end, or go on with it.

    Args:
        recipe: the graph of jobs.
        run_url: folder of the run.
        executor: starts tasks.
        retry_failed: release shards from quarantine first.
        on_change: called with the state of all jobs after every tick.
        detach: submit what can be queued and return; only for executors that queue.
        relay: this driver goes on for another one, so earlier launches count; it returns, and leaves what is
            queued, once this is true.

    Raises:
        JobError: a job failed.
        IdentityError: the folder holds something else.
    """
    run_url = storage.absolute(run_url)
    if detach and not executor.queues:
        raise ConfigError("only the slurm executor can be left alone", got=f"--detach with {executor.name}")
    nodes = lay_out(recipe, run_url)
    refuse_foreign(recipe, run_url)
    with reign_over(run_url) as reign:
        write_run(recipe, run_url, nodes)
        for node in nodes.values():
            if relay is None:
                storage.remove(node.folder.at("cancelled.json"))
                node.folder.forgive_launches()
            if retry_failed:
                node.folder.release()
        driver = Driver(nodes, executor, reign)
        _drive(driver, on_change, (lambda: driver.is_queued) if detach else relay)
    folder = shlex.quote(run_url)
    if not (detach and driver.is_queued) and (failures := driver.failures()):
        raise JobError(
            "the run is not complete",
            where=run_url,
            got="\n".join(failures).replace("\n", "\n       "),
            fix=f"tokenmill logs {folder} --failed; then tokenmill resume {folder}",
        )
    return driver.statuses()


def _drive(
    driver: Driver, on_change: Callable[[Sequence[JobStatus]], None], may_leave: Callable[[], bool] | None
) -> None:
    try:
        began = time.monotonic()
        while driver.tick():
            on_change(driver.statuses())
            if may_leave is not None and may_leave():
                return
            looked = time.monotonic() - began - driver.launch_seconds
            time.sleep(max(driver.executor.poll_seconds, min(_LONGEST_REST_SECONDS, _REST * looked)))
            began, driver.launch_seconds = time.monotonic(), 0.0
        if not driver.executor.queues:
            driver.end_leftovers()
    except BaseException:
        if not driver.executor.queues:  # a queue goes on without its driver; processes do not
            driver.cancel()
        raise
    finally:
        on_change(driver.statuses())
