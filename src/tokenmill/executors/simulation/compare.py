"""The same work in other ways: with other numbers of tasks, packed otherwise, without speculation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tokenmill.executors.job import Job, Recipe
from tokenmill.executors.simulation.scenario import Scenario
from tokenmill.executors.simulation.simulate import Bytes, Outcome, count_shards, simulate


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of doing the work, and what came out of it."""

    kind: str
    """as planned, tasks, packing, or speculation."""
    name: str
    """For people."""
    value: float
    """Number of tasks, shards per task, or 0 and 1 for without and with."""
    outcome: Outcome
    """What came out."""


def rehearse(
    recipe: Recipe,
    scenario: Scenario,
    known_bytes: Mapping[str, Bytes],
    tell: Callable[[str], None] = lambda line: None,
) -> list[Variant]:
    """The run as planned, and the variants that the scenario asks for.

    Args:
        recipe: the graph of jobs.
        scenario: what is assumed.
        known_bytes: stored bytes of the shards of jobs that could be planned.
        tell: hears what is simulated next.
    """
    variants: list[Variant] = []
    for kind, name, value, other, changed in _plans(recipe, scenario, known_bytes):
        tell(name)
        outcome = simulate(other, changed, known_bytes)
        variants.append(Variant(kind=kind, name=name, value=value, outcome=outcome))
    return variants


def _plans(
    recipe: Recipe, scenario: Scenario, known_bytes: Mapping[str, Bytes]
) -> list[tuple[str, str, float, Recipe, Scenario]]:
    compare = scenario.compare
    sizes = count_shards(recipe, scenario, known_bytes)
    wanted = wanted_tasks(recipe, scenario, sizes)
    plans: list[tuple[str, str, float, Recipe, Scenario]] = [
        ("as planned", "as planned", float(wanted), recipe, scenario)
    ]
    if compare.speculation:
        other = replace(scenario, speculation=not scenario.speculation)
        word = "with" if other.speculation else "without"
        plans.append(("speculation", f"{word} speculation", float(other.speculation), recipe, other))
    for num_tasks in compare.tasks or _tasks_around(wanted, max(sizes.values()), scenario):
        share = num_tasks / wanted
        others = {job.name: max(1, round(share * _tasks(job, scenario, sizes))) for job in recipe.jobs}
        changed = _with_work(scenario, recipe, others)
        plans.append(("tasks", f"{num_tasks:,} tasks", float(num_tasks), recipe, changed))
    for per_task in compare.packing:
        changed = _with_work(scenario, recipe, dict.fromkeys(sizes, 0))
        packed = replace(recipe, jobs=tuple(_packed(job, per_task) for job in recipe.jobs))
        plural = "s" if per_task > 1 else ""
        plans.append(("packing", f"{per_task} shard{plural} per task", float(per_task), packed, changed))
    return plans


def wanted_tasks(recipe: Recipe, scenario: Scenario, sizes: Mapping[str, int]) -> int:
    """Tasks of the widest array."""
    arrays = [job for job in recipe.jobs if job.layout == "array"]
    return max((_tasks(job, scenario, sizes) for job in arrays), default=1)


def _tasks(job: Job, scenario: Scenario, sizes: Mapping[str, int]) -> int:
    wanted = scenario.work(job.name).tasks or job.resources.tasks_for(sizes[job.name])
    return max(1, min(wanted, scenario.machines.max_tasks))


def _tasks_around(wanted: int, num_shards: int, scenario: Scenario) -> Sequence[int]:
    most = min(scenario.machines.max_tasks, num_shards)
    counts = {max(1, wanted // 4), max(1, wanted // 2), min(most, wanted * 2)}
    return sorted(counts - {wanted})


def _with_work(scenario: Scenario, recipe: Recipe, tasks: Mapping[str, int]) -> Scenario:
    works = {job.name: replace(scenario.work(job.name), tasks=tasks.get(job.name, 0)) for job in recipe.jobs}
    return replace(scenario, jobs=works)


def _packed(job: Job, per_task: int) -> Job:
    if job.layout == "gang":
        return job
    return replace(job, resources=replace(job.resources, tasks=0, max_shards=per_task))
