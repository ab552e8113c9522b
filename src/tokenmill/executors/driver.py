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
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tokenmill import storage
from tokenmill.errors import ConfigError, IdentityError, JobError
from tokenmill.executors.graph import Node, lay_out, write_run
from tokenmill.executors.job import Recipe
from tokenmill.executors.launch import Executor, Launch, launches_of, new_token
from tokenmill.executors.plan import remaining
from tokenmill.executors.status import JobStatus, driver_of, job_status, start_time

_log = logging.getLogger("tokenmill.driver")
_MOST_IDLE_LAUNCHES = 3
"""Launches in a row of a job that may end without a new commit."""


@dataclass(kw_only=True)
class _Progress:
    """What the driver remembers of a job between ticks."""

    launches: list[Launch] = field(default_factory=list)
    idle: int = 0
    done_before: int = -1
    lost: bool = False


class Driver:
    """Applies the rule to a run until nothing is left to do.

    Args:
        nodes: jobs in order of the graph.
        executor: starts tasks.

    """

    def __init__(self, nodes: Mapping[str, Node], executor: Executor) -> None:
        self.nodes = nodes
        self.executor = executor
        self._progress = {name: _Progress(launches=launches_of(node.folder)) for name, node in nodes.items()}
        self._complete: dict[str, JobStatus] = {}
        self._deaf = False

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
        """Apply the rule once to every job; False when nothing is left to do."""
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
        busy = False
        for name, node in self.nodes.items():
            if self._is_complete(name):
                continue
            running = [launch for launch in self._progress[name].launches if launch.token in live]
            if _is_cancelled(node) or any(self._has_failed(parent) for parent in node.parents):
                self.executor.cancel(running)  # as asked; or it waits for a parent that will not come
            elif running:
                busy = True
            elif self._has_failed(name):
                continue
            elif self._parents_allow(node, live):
                # without a free slot something else still runs, so there is more to do
                busy = self.executor.free_slots() <= 0 or self._launch(node, live) or busy
        return busy

    def _is_complete(self, name: str) -> bool:
        if name not in self._complete and self.nodes[name].folder.publish_manifest():
            self._complete[name] = job_status(self.nodes[name].folder)
        return name in self._complete

    def _has_failed(self, name: str) -> bool:
        """True if the job or one of its ancestors cannot go on."""
        node = self.nodes[name]
        if self._progress[name].lost or _is_cancelled(node) or node.folder.quarantined():
            return True
        return any(self._has_failed(parent) for parent in node.parents if parent not in self._complete)

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
        done = len(node.folder.done()) + node.folder.num_stopped()
        progress.idle = 0 if done > progress.done_before else progress.idle + 1
        progress.done_before = done
        if progress.idle >= _MOST_IDLE_LAUNCHES:
            progress.lost = True
            return False
        parents = [launch for name in node.parents for launch in self._progress[name].launches]
        launch = Launch(
            token=new_token(),
            folder=node.folder,
            num_tasks=self._num_tasks(node),
            after=tuple(parent for parent in parents if parent.token in live),
        )
        self.executor.launch(launch)
        live.add(launch.token)
        progress.launches.append(launch)
        return True

    def _has_inputs(self, node: Node) -> bool:
        return all(parent in self._complete for parent in node.parents)

    def _num_tasks(self, node: Node) -> int:
        if node.job.layout == "gang":
            return max(1, node.job.resources.tasks)
        if self._has_inputs(node):
            folder = node.folder
            done, quarantined = folder.done(), set(folder.quarantined())
            left = len(remaining(folder.ensure_plan(), done=done, quarantined=quarantined))
        else:  # the plan is made when the parents are complete; tasks without a shard end at once
            left = node.folder.num_shards() or node.job.resources.tasks or 1
        wanted = min(left, node.job.resources.tasks) if node.job.resources.tasks else left
        return max(1, self.executor.num_tasks(wanted))

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
                    f"{name}: {_MOST_IDLE_LAUNCHES} launches in a row ended without a finished shard; "
                    f"see {last.url}: {words}"
                )
            elif _is_cancelled(self.nodes[name]) and status.state != "complete":
                lines.append(f"{name}: cancelled")
        return lines


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
) -> list[JobStatus]:
    """Run a recipe to its end, or go on with it.

    Args:
        recipe: the graph of jobs.
        run_url: folder of the run.
        executor: starts tasks.
        retry_failed: release shards from quarantine first.
        on_change: called with the state of all jobs after every tick.
        detach: submit what can be queued and return; only for executors that queue.

    Raises:
        JobError: a job failed.
        IdentityError: the folder holds something else.
    """
    run_url = storage.absolute(run_url)
    if detach and not executor.queues:
        raise ConfigError("only the slurm executor can be left alone", got=f"--detach with {executor.name}")
    nodes = lay_out(recipe, run_url)
    with _only_driver(run_url):
        write_run(recipe, run_url, nodes)
        for node in nodes.values():
            storage.remove(node.folder.at("cancelled.json"))
            if retry_failed:
                node.folder.release()
        driver = Driver(nodes, executor)
        _drive(driver, on_change, detach)
    folder = shlex.quote(run_url)
    if not detach and (failures := driver.failures()):
        raise JobError(
            "the run is not complete",
            where=run_url,
            got="\n".join(failures).replace("\n", "\n       "),
            fix=f"tokenmill logs {folder} --failed; then tokenmill resume {folder}",
        )
    return driver.statuses()


def _drive(driver: Driver, on_change: Callable[[Sequence[JobStatus]], None], detach: bool) -> None:
    try:
        while driver.tick():
            on_change(driver.statuses())
            if detach:
                return
            time.sleep(driver.executor.poll_seconds)
    except KeyboardInterrupt:
        if not driver.executor.queues:  # a queue goes on without its driver; processes do not
            driver.cancel()
        raise
    finally:
        on_change(driver.statuses())


@contextmanager
def _only_driver(run_url: str) -> Iterator[None]:
    """Hold driver.json; refuse if a living driver of this machine holds it."""
    url = storage.join(run_url, "driver.json")
    pid = os.getpid()
    if (other := driver_of(run_url)) and other["pid"] != pid:
        raise IdentityError(
            "another driver works on this run",
            where=run_url,
            got=f"process {other['pid']} on {other['host']}",
            fix=f"wait for it or end that process; if it is gone, remove {url}",
        )
    mine = {"host": socket.gethostname(), "pid": pid, "started": start_time(pid)}
    storage.write_atomic(url, storage.dump_json(mine))
    try:
        yield
    finally:
        storage.remove(url)
