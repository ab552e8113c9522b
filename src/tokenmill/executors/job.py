"""What a job is, and what a job's entry gets to see.

A job is a frozen value. Its *identity* (entry, config, inputs, sharding) fixes where its output lies; its
*placement* (tasks, time, memory, partition) never does. Every entry of every hall has one shape::

    def run(config: Config, task: Task) -> None

where ``Config`` is a frozen dataclass. The worker calls it once per shard attempt. Outputs go through
``task.output``; nothing is visible to other jobs until the worker has committed the attempt.
"""

import difflib
import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenmill import storage
from tokenmill.errors import ConfigError
from tokenmill.executors.world import World
from tokenmill.telemetry import Counters, Report

Layout = Literal["array", "gang"]


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How inputs become shards. Part of the identity: it fixes the files of the output."""

    mode: Literal["pieces", "whole", "count"] = "pieces"
    """pieces: cut one input by bytes; whole: one shard with everything; count: N shards with everything."""
    over: str = ""
    """Name of the input that is cut (mode pieces); the first input if empty. Other inputs come whole."""
    target_bytes: int = 64_000_000
    """Wanted stored bytes of a shard (mode pieces)."""
    count: int = 1
    """Number of shards (mode count)."""
    split_files: bool = True
    """Cut files larger than target_bytes on record borders (mode pieces)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Ranks of a gang that ask for something else than the others; a component of a heterogeneous job."""

    ranks: int
    """Number of ranks."""
    cpus: int = 1
    """CPU cores per rank."""
    gpus: int = 0
    """GPUs per rank."""
    memory_bytes: int = 2_000_000_000
    """Memory per rank in bytes."""
    constraint: str = ""
    """Node features that these ranks need; the site's if empty."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a task asks of a site. Part of the placement."""

    tasks: int = 0
    """Number of tasks (array) or ranks (gang); 0: as many as there are shards, at most the site's limit."""
    cpus: int = 1
    """CPU cores per task."""
    memory_bytes: int = 2_000_000_000
    """Memory per task in bytes."""
    gpus: int = 0
    """GPUs per task."""
    time_seconds: int = 3600
    """Time limit of a submission in seconds."""
    max_shards: int = 0
    """Shards that a task takes before it ends, so that what leaks ends with it; 0: until none is left."""
    max_attempts: int = 2
    """Attempts at a shard that may end in an error before it is quarantined."""
    max_lost: int = 8
    """Attempts at a shard that may end with their task (preempted, killed, lost) before it is quarantined."""
    max_memory_bytes: int = 0
    """Most memory per task that a shard may get after running out of it; 0: four times ``memory_bytes``."""
    max_time_seconds: int = 0
    """Longest time limit that a shard may get after exceeding it; 0: four times ``time_seconds``."""
    lease_seconds: float = 60.0
    """A task that showed no life for so long loses its shards to others."""
    segments: int = 1
    """Submissions of a gang that queue one behind the other: the next waits in line while one runs."""
    parts: tuple[Part, ...] = ()
    """Groups of a gang's ranks that ask for different things, numbered through; empty: all are alike."""
    hang_seconds: float = 0.0
    """End an attempt of a gang that shows no progress (``Task.tell``, an output) for so long; 0: never."""

    def __post_init__(self) -> None:
        """Refuse parts that do not add up.

        Raises:
            ConfigError: their ranks are not the gang's, or a number is too small.
        """
        # records hold plain values
        parts = tuple(Part(**part) if isinstance(part, Mapping) else part for part in self.parts)
        object.__setattr__(self, "parts", parts)
        ranks = [part.ranks for part in parts]
        if parts and (sum(ranks) != self.tasks or min(ranks) < 1):
            raise ConfigError(
                "the parts of a gang do not add up",
                where="resources.parts",
                expected=f"ranks that are positive and add up to tasks, {self.tasks}",
                got=" + ".join(map(str, ranks)),
                fix=f"set tasks to {sum(ranks)}: it is part of what the job is; how ranks are placed is not",
            )
        if self.segments < 1:
            raise ConfigError("a gang needs a segment", where="resources.segments", got=str(self.segments))

    @property
    def mean_cpus(self) -> float:
        """CPU cores per task, on average over the parts."""
        return sum(part.ranks * part.cpus for part in self.parts) / self.tasks if self.parts else self.cpus

    @property
    def mean_gpus(self) -> float:
        """GPUs per task, on average over the parts."""
        return sum(part.ranks * part.gpus for part in self.parts) / self.tasks if self.parts else self.gpus

    def tasks_for(self, num_shards: int) -> int:
        """Tasks of an array that so many shards give work to.

        >>> Resources(tasks=8).tasks_for(100), Resources(max_shards=30).tasks_for(100)
        (8, 4)
        """
        wanted = -(-num_shards // self.max_shards) if self.max_shards else num_shards
        return min(wanted, self.tasks) if self.tasks else wanted


@dataclass(frozen=True, kw_only=True)
class Job:
    """One node of a recipe."""

    name: str
    """Unique in the recipe: letters, digits, ``_`` and ``-``."""
    entry: str
    """Dotted name of a function ``run(config, task)``."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Values of the entry's config dataclass."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Input name -> ``job``, ``job.port`` or the name of a recipe input."""
    after: tuple[str, ...] = ()
    """Jobs that must be complete first though none of their output is read."""
    layout: Layout = "array"
    """array: independent tasks; gang: ranks that start together and share one shard."""
    sharding: Sharding = Sharding()
    """How inputs become shards."""
    resources: Resources = Resources()
    """What a task asks of a site."""

    def __post_init__(self) -> None:
        """Refuse what only a gang can have.

        Raises:
            ConfigError: an array has parts or segments.
        """
        for name, given in (("parts", self.resources.parts), ("segments", self.resources.segments > 1)):
            if given and self.layout != "gang":
                raise ConfigError(
                    f"only a gang has {name}", where=f"job {self.name}, resources", fix="set layout: gang"
                )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A graph of jobs and the names of its inputs."""

    name: str
    """Name of the recipe."""
    inputs: Mapping[str, tuple[str, ...]]
    """Recipe input -> paths, globs or URLs."""
    jobs: tuple[Job, ...]
    """Jobs in any order."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Variable of the workers -> file of mode 0600 that holds its value; no part of any identity."""

    def __post_init__(self) -> None:
        """Refuse a graph that cannot run.

        Raises:
            ConfigError: duplicate job, bad name, unknown reference or dependency cycle.
        """
        names = [job.name for job in self.jobs]
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                raise ConfigError(
                    "bad job name",
                    where=f"recipe {self.name}",
                    expected="1 to 64 letters, digits, _ and -",
                    got=repr(name),
                )
            if names.count(name) > 1 or name in self.inputs:
                raise ConfigError(
                    "a name is used twice",
                    where=f"recipe {self.name}, job {name}",
                    fix="give every job and every recipe input a name of its own",
                )
        self.in_order()

    def parents(self, job: Job) -> tuple[str, ...]:
        """Names of the jobs that a job waits for, in order of first mention.

        Raises:
            ConfigError: an input or ``after`` names neither a job nor a recipe input.
        """
        names = [other.name for other in self.jobs]
        found: dict[str, None] = {}
        for key, reference in job.inputs.items():
            source = reference.partition(".")[0]
            if source in names:
                found[source] = None
            elif reference not in self.inputs:
                raise _unknown(f"job {job.name}, input {key}", reference, [*names, *self.inputs])
        for name in job.after:
            if name not in names:
                raise _unknown(f"job {job.name}, after", name, names)
            found[name] = None
        return tuple(found)

    def in_order(self) -> tuple[Job, ...]:
        """Jobs with parents before children; otherwise in the order of the recipe.

        Raises:
            ConfigError: jobs wait for each other in a cycle.
        """
        waiting = {job.name: set(self.parents(job)) for job in self.jobs}
        ordered: list[Job] = []
        while waiting:
            ready = [job for job in self.jobs if job.name in waiting and not waiting[job.name]]
            if not ready:
                raise ConfigError(
                    "jobs wait for each other",
                    where=f"recipe {self.name}",
                    got="a cycle among " + ", ".join(sorted(waiting)),
                    fix="remove one of these inputs or after entries",
                )
            for job in ready:
                ordered.append(job)
                del waiting[job.name]
            for parents in waiting.values():
                parents.difference_update(job.name for job in ready)
        return tuple(ordered)


def _unknown(where: str, name: str, known: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(name.partition(".")[0], known, n=1)
    hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(known)
    return ConfigError("unknown name", where=where, got=repr(name), fix=hint)


def identity_of(job: Job, input_identities: Mapping[str, str]) -> str:
    """Hexadecimal digest of what fixes a job's output.

    Args:
        job: the job.
        input_identities: for every input name the identity of the producing job and port, or the
            absolute URL of a recipe input.
    """
    ranks = job.resources.tasks if job.layout == "gang" else 0  # a gang's size changes rounding
    sharding = dict(vars(job.sharding).items())
    value = {
        "entry": job.entry,
        "config": job.config,
        "inputs": dict(input_identities),
        "layout": job.layout,
        "ranks": ranks,
        "sharding": sharding,
    }
    return hashlib.sha256(storage.dump_json(value)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file, or the records of it that begin in a byte range."""

    url: str
    """Where the file lies."""
    name: str
    """Logical name: stable over attempts, executors and machines; unique within the input."""
    file_index: int
    """Place of the file in its input, in order of logical names."""
    start: int
    """First byte."""
    end: int
    """One past the last byte: the piece holds the records that begin in [start, end)."""
    num_bytes: int
    """Size of the whole file in bytes."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Unit of input that a commit record marks done."""

    index: int
    """Number of the shard in its job, from 0."""
    inputs: Mapping[str, tuple[Piece, ...]]
    """Pieces for every input name."""


@dataclass(kw_only=True)
class Task:
    """One attempt at one shard, as the entry sees it."""

    job: Job
    """The job."""
    shard: Shard
    """The shard to work on."""
    num_shards: int
    """Number of shards of the job."""
    attempt: str
    """Unique name of this attempt; ranks of a gang share it."""
    job_url: str
    """The job's folder."""
    rank: int = 0
    """Rank in the gang; 0 in an array."""
    world_size: int = 1
    """Ranks in the gang; 1 in an array."""
    local_rank: int = 0
    """Rank within the node."""
    counters: Counters = field(default_factory=Counters)
    """Merged over shards into the job's report."""
    report: Report = field(default_factory=Report)
    """Figures for the job's report."""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("tokenmill.task"))
    """Writes into the attempt's log file."""
    stop_requested: Callable[[], bool] = lambda: False
    """True once the scheduler has announced the end: save progress and raise ``TaskStopped``."""
    redact: Callable[[str], str] = str
    """Hides the secrets of the run in a text."""
    cpu_start: float = field(default_factory=time.process_time)
    """CPU time that the process had used when the attempt began, in seconds."""
    world: World = field(default_factory=lambda: World(rank=0, world_size=1))
    """The ranks of the gang, for collectives; a world of one in an array."""
    outputs: list[dict[str, Any]] = field(default_factory=list)
    """Finished outputs; filled by ``output`` and ``adopt``."""
    findings: dict[str, Any] = field(default_factory=dict)
    """What was measured at the start; goes into the attempt's record."""
    signs: int = 0
    """Signs of progress so far, for ``Resources.hang_seconds``."""

    @property
    def shard_name(self) -> str:
        """The shard's index with five digits, for file names."""
        return f"{self.shard.index:05d}"

    @property
    def progress_url(self) -> str:
        """Folder that outlives attempts, for a gang's intermediate checkpoints."""
        return storage.join(self.job_url, "progress")

    def inputs(self, name: str) -> tuple[Piece, ...]:
        """Pieces of an input, in order of file and offset."""
        return self.shard.inputs.get(name, ())

    def output(self, name: str) -> "TaskOutput":
        """Open an output for writing; use as a context manager.

        Args:
            name: logical name ``port/rest``, for example ``documents/00003.jsonl.zst``. Two shards must not
                write the same name.
        """
        folder, _, base = name.rpartition("/")
        stem, dot, extension = base.partition(".")
        path = f"data/{folder}/{stem}.{self.attempt}{dot}{extension}"
        return TaskOutput(self, name, path)

    def adopt(self, url: str, name: str) -> None:
        """Make a finished file below the job's folder an output under a logical name."""
        info = storage.list_files(url)[0]
        self.outputs.append(
            {
                "name": name,
                "path": url.removeprefix(self.job_url).lstrip("/"),
                "bytes": info.num_bytes,
                "sha256": storage.sha256_of(url),
            }
        )

    def tell(self, text: str) -> None:
        """Show people, in one line, how far this attempt is; of a gang rank 0 speaks."""
        self.signs += 1
        if self.rank == 0:
            value = {"shard": self.shard.index, "text": self.redact(text)}
            storage.write_atomic(storage.join(self.job_url, "now.json"), storage.dump_json(value))

    @property
    def exchange_url(self) -> str:
        """Folder of what the ranks of this attempt tell each other."""
        return storage.join(self.job_url, "exchange", self.attempt)

    def publish(self, key: str, value: Mapping[str, Any]) -> bool:
        """Tell the other ranks of this attempt a small value; False if the key was published before."""
        return storage.publish_once(self._exchange_url(key), storage.dump_json(dict(value)))

    def published(self, key: str) -> dict[str, Any] | None:
        """What a rank of this attempt has published under a key; None if nothing yet."""
        url = self._exchange_url(key)
        return dict(storage.read_json(url)) if storage.exists(url) else None

    def _exchange_url(self, key: str) -> str:
        return storage.join(self.exchange_url, f"{key}.json")


class TaskStopped(Exception):  # noqa: N818 - not an error: progress is saved and the shard goes on later
    """Raised by an entry that has saved its progress because ``stop_requested`` was true."""


class TaskOutput(storage.OutputFile):
    """An output of an attempt; enters the task's list of outputs when it is closed."""

    def __init__(self, task: Task, name: str, path: str) -> None:
        super().__init__(storage.join(task.job_url, path))
        self._task, self._name, self._path = task, name, path

    def close(self) -> None:
        """Make the bytes durable and list the file as an output."""
        if self.closed:
            return
        super().close()
        self._task.signs += 1
        self._task.outputs.append(
            {"name": self._name, "path": self._path, "bytes": self.num_bytes, "sha256": self.sha256}
        )
