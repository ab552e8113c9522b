"""The dry run: what would be done, down to the scripts; nothing is written or submitted."""

from dataclasses import dataclass

from tokenmill import storage
from tokenmill.executors.graph import Node, lay_out
from tokenmill.executors.job import Job, Recipe, Resources
from tokenmill.executors.launch import Executor, Launch
from tokenmill.executors.ledger import JobFolder, input_files
from tokenmill.executors.plan import make_plan

PREVIEW_TOKEN = "0" * 8
"""Stands in scripts for the token that a launch would get."""


@dataclass(frozen=True, kw_only=True)
class JobPreview:
    """What would be done for a job."""

    name: str
    """Name of the job."""
    identity: str
    """Digest of what fixes its output."""
    folder: str
    """Where its output would lie."""
    state: str
    """complete, or to do."""
    parents: tuple[str, ...]
    """Jobs it waits for."""
    shards: int | None
    """Number of shards; None if that depends on jobs still to run."""
    tasks: int
    """Number of tasks, or ranks of a gang."""
    core_hours: float
    """Most core-hours that the launch can take: tasks x cores x time limit, over all segments."""
    scripts: tuple[str, ...]
    """What would be submitted."""


def preview_recipe(recipe: Recipe, run_url: str, executor: Executor) -> list[JobPreview]:
    """Dry run: what ``run_recipe`` would do; nothing is written or submitted."""
    nodes = lay_out(recipe, storage.absolute(run_url))
    return [_preview(node, executor) for node in nodes.values()]


def _preview(node: Node, executor: Executor) -> JobPreview:
    job = node.job
    complete = node.folder.manifest() is not None
    shards: int | None = None
    known = all(
        not source.folder or JobFolder(source.folder).manifest() is not None
        for source in node.sources.values()
    )
    if complete or storage.exists(node.folder.at("plan.jsonl")):
        shards = node.folder.num_shards()
    elif known:
        files = {name: input_files(source, name) for name, source in node.sources.items()}
        shards = len(make_plan(job, files))
    wanted = job.resources.tasks_for(shards) if shards else job.resources.tasks or 1
    tasks = max(1, job.resources.tasks) if job.layout == "gang" else max(1, executor.num_tasks(wanted))
    folder = _PreviewFolder(node.folder.url, job)
    launch = Launch(token=PREVIEW_TOKEN, folder=folder, num_tasks=tasks)
    return JobPreview(
        name=job.name,
        identity=node.identity,
        folder=node.folder.url,
        state="complete" if complete else "to do",
        parents=node.parents,
        shards=shards,
        tasks=tasks,
        core_hours=0.0 if complete else _core_hours(job.resources, tasks),
        scripts=() if complete else tuple(executor.preview(launch)),
    )


def _core_hours(resources: Resources, tasks: int) -> float:
    return tasks * resources.mean_cpus * resources.segments * resources.time_seconds / 3600


class _PreviewFolder(JobFolder):
    """A job's folder that need not exist."""

    def __init__(self, url: str, job: Job) -> None:
        super().__init__(url)
        self._job = job

    @property
    def job(self) -> Job:
        """The job."""
        return self._job
