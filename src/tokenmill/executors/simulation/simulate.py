"""A recipe's run in simulated time: the controller of a real run drives tasks of a simulated cluster."""

import logging
import random
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tokenmill.errors import InputError
from tokenmill.executors.driver import Driver
from tokenmill.executors.graph import Node, lay_out, write_run
from tokenmill.executors.job import Job, Recipe
from tokenmill.executors.ledger import input_files
from tokenmill.executors.plan import make_plan
from tokenmill.executors.simulation.cluster import Cluster
from tokenmill.executors.simulation.events import Events
from tokenmill.executors.simulation.executor import SimulatedExecutor
from tokenmill.executors.simulation.ledger import SimulatedFolder
from tokenmill.executors.simulation.scenario import Scenario
from tokenmill.executors.simulation.tasks import Setting, SimulatedJob, draw_seconds
from tokenmill.executors.simulation.usage import USEFUL, Usage

Bytes = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the controller and the tasks ask of others."""

    ticks: int
    """Looks of the controller."""
    tick_seconds: float
    """Mean CPU seconds of a look, measured on this machine with the shards' records in memory."""
    longest_tick_seconds: float
    """Most CPU seconds of a look."""
    tick_reads: float
    """Mean files and folders that the controller reads in a look."""
    scheduler_calls: Mapping[str, int]
    """Calls of the scheduler's programs, by name."""
    operations: Mapping[str, int]
    """Calls of tasks on the file system, by kind."""
    peak_operations_per_second: float
    """Most of these per second, over ten seconds."""
    operations_over_time: Sequence[tuple[float, float]] = ()
    """Seconds since the start, and calls on the file system per second."""
    ticks_over_time: Sequence[tuple[float, float]] = ()
    """Seconds since the start, and CPU seconds of the look."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The run at one look of the controller."""

    seconds: float
    """Since the start."""
    running: int
    """Slots in use."""
    queued: int
    """Tasks that wait."""
    done: int
    """Shards done."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of one simulated run."""

    state: str
    """complete, failed, or given up."""
    makespan_seconds: float
    """From the start of the controller to its end."""
    num_shards: int
    """Shards of all jobs."""
    num_done: int
    """Shards with a commit record."""
    core_hours: Mapping[str, float]
    """Core-hours by what they went into."""
    slot_seconds: Mapping[str, float]
    """Seconds of slots by what they went into."""
    attempts: Mapping[str, int]
    """Attempts by outcome."""
    deaths: int
    """Tasks that ended badly."""
    launches: int
    """Launches of jobs."""
    tasks: int
    """Tasks of the largest launch."""
    queue_hours: float
    """Hours that tasks waited for a slot, over all tasks."""
    load: Load
    """What the controller and the tasks ask of others."""
    moments: Sequence[Moment] = field(default_factory=list)
    """The run over time."""
    failures: Sequence[str] = ()
    """Why jobs could not go on."""
    seconds: float = 0.0
    """Seconds that the simulation itself took."""

    @property
    def waste_share(self) -> float:
        """Share of the core-hours that no commit came out of."""
        total = sum(self.core_hours.values())
        return 1 - self.core_hours.get(USEFUL, 0.0) / total if total else 0.0


def simulate(recipe: Recipe, scenario: Scenario, known_bytes: Mapping[str, Bytes] | None = None) -> Outcome:
    """Run a recipe on a simulated cluster.

    Args:
        recipe: the graph of jobs.
        scenario: what is assumed of the cluster and the work.
        known_bytes: stored bytes of the shards of jobs that could be planned, as of ``plan_bytes``.

    """
    began = time.perf_counter()
    recipe = with_tasks(recipe, {job.name: scenario.work(job.name).tasks for job in recipe.jobs})
    with tempfile.TemporaryDirectory(prefix="tokenmill-simulation-") as url:
        run = _Run(recipe, scenario, known_bytes or {}, url)
        with _silence("tokenmill.driver"):
            state = run.drive()
        return replace(run.outcome(state), seconds=time.perf_counter() - began)


@contextmanager
def _silence(name: str) -> Iterator[None]:
    """Keep warnings of a simulated run from being taken for those of a real one."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Run:
    """One simulated run."""

    def __init__(
        self, recipe: Recipe, scenario: Scenario, known_bytes: Mapping[str, Bytes], url: str
    ) -> None:
        self.scenario = scenario
        self.events, self.usage = Events(), Usage()
        rng = random.Random(scenario.seed)
        cluster = Cluster(scenario.machines, scenario.faults, self.events, rng)
        setting = Setting(
            events=self.events,
            cluster=cluster,
            usage=self.usage,
            rng=rng,
            speculation=scenario.speculation,
        )
        sizes = count_shards(recipe, scenario, known_bytes)
        self.folders: dict[str, SimulatedFolder] = {}
        jobs: dict[str, SimulatedJob] = {}
        nodes: dict[str, Node] = {}
        for number, (name, node) in enumerate(lay_out(recipe, url).items()):
            folder = self.folders[name] = SimulatedFolder(node.folder.url, sizes[name], self.events)
            work = scenario.work(name)
            seconds = draw_seconds(
                work.durations, sizes[name], known_bytes.get(name), scenario.seed * 1000 + number
            )
            jobs[name] = SimulatedJob(node.job, folder, work, seconds, setting)
            nodes[name] = replace(node, folder=folder)
        write_run(recipe, url, nodes)
        self.executor = SimulatedExecutor(cluster, jobs)
        self.driver = Driver(nodes, self.executor, clock=lambda: self.events.now)
        self.makespan = 0.0
        self.ticks: list[float] = []
        self.moments: list[Moment] = []

    def drive(self) -> str:
        """Let the controller look until nothing is left to do; how it ended."""
        busy = True
        while busy and self.events.now < self.scenario.most_seconds:
            began = time.process_time()
            busy = self.driver.tick()
            self.driver.statuses()
            self.ticks.append(time.process_time() - began)
            self._note()
            if busy:
                self.events.run_until(self.events.now + self.executor.poll_seconds)
        self.makespan = self.events.now
        patience = max(folder.job.resources.lease_seconds for folder in self.folders.values())
        self.events.run_until(self.makespan + patience)  # attempts that others overtook end a little later
        if busy:
            return "given up"
        return "complete" if all(folder.publish_manifest() for folder in self.folders.values()) else "failed"

    def _note(self) -> None:
        cluster = self.executor.cluster
        done = sum(len(folder.finished) for folder in self.folders.values())
        self.moments.append(
            Moment(seconds=self.events.now, running=cluster.num_running, queued=cluster.num_queued, done=done)
        )

    def outcome(self, state: str) -> Outcome:
        """What came out of it."""
        crews = list(self.executor.cluster.crews.values())
        return Outcome(
            state=state,
            makespan_seconds=self.makespan,
            num_shards=sum(folder.size for folder in self.folders.values()),
            num_done=sum(len(folder.finished) for folder in self.folders.values()),
            core_hours={cause: seconds / 3600 for cause, seconds in self.usage.core_seconds.items()},
            slot_seconds=dict(self.usage.seconds),
            attempts=dict(self.usage.outcomes),
            deaths=self.executor.cluster.num_deaths,
            launches=len(crews),
            tasks=max((crew.num_tasks * crew.width for crew in crews), default=0),
            queue_hours=self.executor.cluster.wait_seconds / 3600,
            load=Load(
                ticks=len(self.ticks),
                tick_seconds=sum(self.ticks) / len(self.ticks),
                longest_tick_seconds=max(self.ticks),
                tick_reads=sum(folder.reads for folder in self.folders.values()) / len(self.ticks),
                scheduler_calls=dict(self.executor.calls),
                operations=dict(self.usage.operations),
                peak_operations_per_second=self.usage.peak_per_second,
                operations_over_time=self.usage.over_time(),
                ticks_over_time=[
                    (moment.seconds, spent) for moment, spent in zip(self.moments, self.ticks, strict=True)
                ],
            ),
            moments=self.moments,
            failures=self.driver.failures(),
        )


def with_tasks(recipe: Recipe, tasks: Mapping[str, int]) -> Recipe:
    """The recipe with another number of tasks for the arrays that are named with one."""

    def placed(job: Job) -> Job:
        wanted = tasks.get(job.name, 0) if job.layout == "array" else 0
        return replace(job, resources=replace(job.resources, tasks=wanted)) if wanted else job

    return replace(recipe, jobs=tuple(placed(job) for job in recipe.jobs))


def narrowed(recipe: Recipe, names: Collection[str]) -> Recipe:
    """The recipe with only these jobs; what they read of others comes from inputs of the recipe."""

    def alone(job: Job) -> Job:
        inputs = {key: value if value in recipe.inputs else "parents" for key, value in job.inputs.items()}
        kept = {key: value for key, value in job.inputs.items() if value.partition(".")[0] in names}
        after = tuple(name for name in job.after if name in names)
        return replace(job, inputs=inputs | kept, after=after)

    jobs = tuple(alone(job) for job in recipe.jobs if job.name in names)
    return replace(recipe, inputs={**recipe.inputs, "parents": ("not-given",)}, jobs=jobs)


def plan_bytes(recipe: Recipe, run_url: str) -> dict[str, Bytes]:
    """Stored bytes of every shard of the jobs that read recipe inputs which are there.

    Args:
        recipe: the graph of jobs.
        run_url: folder of the run; need not exist.
    """
    found: dict[str, Bytes] = {}
    for name, node in lay_out(recipe, run_url).items():
        if not node.sources or any(source.folder for source in node.sources.values()):
            continue
        try:
            files = {key: input_files(source, key) for key, source in node.sources.items()}
        except InputError:  # a rehearsal needs no input
            continue
        shards = make_plan(node.job, files)
        found[name] = np.array(
            [
                sum(piece.end - piece.start for pieces in shard.inputs.values() for piece in pieces)
                for shard in shards
            ],
            dtype=np.float64,
        )
    return found


def count_shards(recipe: Recipe, scenario: Scenario, known_bytes: Mapping[str, Bytes]) -> dict[str, int]:
    """Shards of every job: given, planned, or as many as the parent has that has most."""
    sizes: dict[str, int] = {}
    for job in recipe.in_order():
        given = scenario.work(job.name).num_shards
        if job.layout == "gang" or job.sharding.mode == "whole":
            sizes[job.name] = 1
        elif job.sharding.mode == "count":
            sizes[job.name] = job.sharding.count
        elif given or job.name in known_bytes:
            sizes[job.name] = given or len(known_bytes[job.name])
        else:
            parents = [sizes[parent] for parent in recipe.parents(job)]
            sizes[job.name] = max(parents, default=1)
    return sizes
