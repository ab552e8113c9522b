"""What a rehearsal assumes of a cluster, its faults and the work: values of ``configs/simulation/*.yaml``."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenmill.errors import ConfigError


def at_least(name: str, value: float, least: float) -> None:
    """Refuse a value that is too small.

    Raises:
        ConfigError: it is.
    """
    if not value >= least:
        raise ConfigError(f"{name} is too small", expected=f"at least {least:g}", got=f"{value:g}")


def share(name: str, value: float) -> None:
    """Refuse a share that is not between 0 and 1.

    Raises:
        ConfigError: it is not.
    """
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is not a share", expected="0 to 1", got=f"{value:g}")


@dataclass(frozen=True, kw_only=True)
class Durations:
    """How long one attempt at a shard takes on a node that is not slow."""

    mean_seconds: float = 60.0
    """Mean over shards in seconds, of a log-normal distribution."""
    sigma: float = 0.3
    """Standard deviation of the logarithm; 0: all alike."""
    seconds_per_byte: float = 0.0
    """Further seconds per stored byte of a shard."""
    measured_seconds: tuple[float, ...] = ()
    """Seconds of shards of an earlier run; drawn from instead of the log-normal distribution."""
    measured_bytes: tuple[int, ...] = ()
    """Stored bytes of these shards, in bytes; if given, a shard takes seconds in proportion to its bytes."""

    def __post_init__(self) -> None:
        """Refuse values that no duration can have."""
        at_least("mean_seconds", self.mean_seconds, 0)
        at_least("sigma", self.sigma, 0)
        at_least("seconds_per_byte", self.seconds_per_byte, 0)
        if self.measured_bytes and len(self.measured_bytes) != len(self.measured_seconds):
            raise ConfigError(
                "measured seconds and bytes do not belong together",
                expected=f"{len(self.measured_seconds)} values",
                got=f"{len(self.measured_bytes)} values of measured_bytes",
            )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a job has to do."""

    num_shards: int = 0
    """Shards; 0: as many as the recipe's inputs make, or as the parents have."""
    tasks: int = 0
    """Tasks of a launch; 0: what the recipe asks for."""
    durations: Durations = Durations()
    """Seconds of an attempt."""
    error_share: float = 0.0
    """Share of attempts that end in an error of the job's own."""
    overhead_seconds: float = 0.05
    """Seconds of a shard beyond the entry: lease, attempt record, log, commit."""
    checkpoint_seconds: float = 0.0
    """Seconds between two checkpoints that the next attempt goes on from (gangs); 0: none."""

    def __post_init__(self) -> None:
        """Refuse values that no job can have."""
        at_least("num_shards", self.num_shards, 0)
        at_least("tasks", self.tasks, 0)
        at_least("overhead_seconds", self.overhead_seconds, 0)
        share("error_share", self.error_share)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The cluster and its scheduler."""

    slots: int = 1000
    """Tasks that can run at a time: what the site and other users leave."""
    slots_per_node: int = 16
    """Tasks on one node."""
    max_tasks: int = 20_000
    """Most array tasks that one launch of a job asks for."""
    max_array_size: int = 1000
    """Tasks in the largest array."""
    starts_per_second: float = 40.0
    """Tasks that the scheduler starts per second."""
    queue_wait_seconds: float = 0.0
    """Mean seconds from the submission of an array until its first task may start."""
    queue_wait_sigma: float = 1.0
    """Standard deviation of the logarithm of the queue wait."""
    start_seconds: float = 3.0
    """Seconds from a task's start to its first shard: interpreter, imports, plan."""
    call_seconds: float = 0.001
    """Seconds of one call on the shared file system, where a task makes many of them in a row."""
    poll_seconds: float = 10.0
    """Seconds between two looks of the controller."""
    settle_seconds: float = 3.0
    """Seconds for which a launch must be out of the queue before the controller judges it."""
    sees_processes: bool = False
    """All nodes are one machine: tasks see at once that the process of another is gone."""

    def __post_init__(self) -> None:
        """Refuse values that no cluster can have."""
        for name in ("slots", "slots_per_node", "max_tasks", "max_array_size"):
            at_least(name, getattr(self, name), 1)
        for name in (
            "queue_wait_seconds",
            "queue_wait_sigma",
            "start_seconds",
            "call_seconds",
            "settle_seconds",
        ):
            at_least(name, getattr(self, name), 0)
        for name in ("starts_per_second", "poll_seconds"):
            at_least(name, getattr(self, name), 0.001)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong."""

    kills_per_task_hour: float = 0.0
    """Tasks that die without a word, per hour of a task."""
    preemptions_per_task_hour: float = 0.0
    """Tasks that the scheduler takes back, per hour of a task."""
    node_losses_per_node_hour: float = 0.0
    """Nodes lost with all their tasks, per hour of a node."""
    repair_seconds: float = 1800.0
    """Seconds until a lost node is back."""
    slow_task_share: float = 0.0
    """Share of tasks on a slow node."""
    slow_factor: float = 20.0
    """How much longer everything takes there."""
    slow_shards: tuple[int, ...] = ()
    """Shards of which the first attempt is slow, wherever it runs."""
    kill_seconds: tuple[float, ...] = ()
    """Moments at which a running task is killed, in seconds from the start of the run: for a rehearsal of
    a test whose faults are known."""

    def __post_init__(self) -> None:
        """Refuse values that no fault can have."""
        for name in ("kills", "preemptions"):
            at_least(f"{name}_per_task_hour", getattr(self, f"{name}_per_task_hour"), 0)
        at_least("node_losses_per_node_hour", self.node_losses_per_node_hour, 0)
        at_least("repair_seconds", self.repair_seconds, 0)
        at_least("slow_factor", self.slow_factor, 1)
        share("slow_task_share", self.slow_task_share)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Which other ways of running the same work are rehearsed beside it."""

    packing: tuple[int, ...] = (1, 10, 100)
    """Shards per task."""
    tasks: tuple[int, ...] = ()
    """Numbers of tasks; a quarter, a half, and twice the wanted number if empty."""
    speculation: bool = True
    """The same without second attempts at stragglers."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """All that a rehearsal assumes."""

    name: str = "rehearsal"
    """Name, for people."""
    seed: int = 0
    """Seed of everything that is drawn: the same seed gives the same result."""
    machines: Machines = Machines()
    """The cluster and its scheduler."""
    faults: Faults = Faults()
    """What goes wrong."""
    default: Work = Work()
    """The work of jobs that ``jobs`` does not name."""
    jobs: Mapping[str, Work] = field(default_factory=dict)
    """The work of jobs of the recipe, by name."""
    only_named: bool = False
    """Rehearse only the jobs that ``jobs`` names, as if the others were complete."""
    speculation: bool = True
    """Whether stragglers get a second attempt."""
    most_seconds: float = 60 * 86400.0
    """Simulated seconds after which a run that does not end is given up."""
    compare: Compare = Compare()
    """Which other ways are rehearsed beside it."""

    def work(self, job: str) -> Work:
        """The work of a job."""
        return self.jobs.get(job, self.default)
