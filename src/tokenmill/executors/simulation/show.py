"""What a rehearsal found, for people: tables on the terminal."""

from collections.abc import Mapping, Sequence

from tokenmill.executors import units
from tokenmill.executors.simulation.compare import Variant
from tokenmill.executors.simulation.scenario import Scenario
from tokenmill.executors.simulation.simulate import Outcome
from tokenmill.executors.simulation.usage import USEFUL
from tokenmill.executors.tables import print_table

GROUPS: Mapping[str, tuple[str, ...]] = {
    "useful": (USEFUL,),
    "start and overhead": ("start", "overhead"),
    "idle": ("idle",),
    "errors": ("error",),
    "lost with tasks": ("killed", "preempted", "node lost", "timeout", "cancelled"),
    "done twice": ("late",),
}
"""What core-hours go into, for people, and the causes of ``usage`` behind it."""


def grouped(outcome: Outcome) -> dict[str, float]:
    """Core-hours by group."""
    return {
        group: sum(outcome.core_hours.get(cause, 0.0) for cause in causes) for group, causes in GROUPS.items()
    }


def print_rehearsal(scenario: Scenario, variants: Sequence[Variant], page: str = "") -> None:
    """Print what was found, and where the page lies."""
    first = variants[0].outcome
    print_table(["run", scenario.name], summary(first))
    print()
    print_table(["core-hours", "", "share"], hours(first))
    print()
    print_table(["controller and file system", ""], load(first))
    if len(variants) > 1:
        print()
        print_table(COMPARED, [compared(variant) for variant in variants])
    for line in first.failures:
        print(f"failed: {line}")
    seconds = sum(variant.outcome.seconds for variant in variants)
    print(f"\n{len(variants)} runs simulated in {units.duration(seconds)}, seed {scenario.seed}")
    if page:
        print(f"page: {page}")


def summary(outcome: Outcome) -> list[tuple[str, str]]:
    """What came out, in a few rows."""
    attempts = ", ".join(f"{count:,} {word}" for word, count in outcome.attempts.items())
    return [
        ("state", outcome.state),
        ("shards done", f"{outcome.num_done:,} of {outcome.num_shards:,}"),
        ("makespan", units.duration(outcome.makespan_seconds)),
        ("tasks, launches", f"{outcome.tasks:,}, {outcome.launches:,}"),
        ("attempts", attempts),
        ("tasks that died", f"{outcome.deaths:,}"),
        ("waited in the queue", f"{outcome.queue_hours:,.1f} task-hours"),
    ]


def hours(outcome: Outcome) -> list[tuple[str, str, str]]:
    """Core-hours by what they went into."""
    total = sum(outcome.core_hours.values())
    rows = [
        (group, f"{value:,.2f}", f"{100 * value / total:.1f} %" if total else "-")
        for group, value in grouped(outcome).items()
    ]
    return [*rows, ("all", f"{total:,.2f}", "100 %")]


def load(outcome: Outcome) -> list[tuple[str, str]]:
    """What the controller and the tasks ask of others."""
    found = outcome.load
    per_hour = 3600 / max(1.0, outcome.makespan_seconds)
    calls = ", ".join(
        f"{count:,} {name} ({count * per_hour:,.0f} an hour)" for name, count in found.scheduler_calls.items()
    )
    operations = ", ".join(f"{units.si(count)} {kind}" for kind, count in found.operations.items())
    mean = sum(found.operations.values()) / max(1.0, outcome.makespan_seconds)
    longest = 1000 * found.longest_tick_seconds
    return [
        ("looks of the controller", f"{found.ticks:,}"),
        ("CPU of a look", f"{1000 * found.tick_seconds:.1f} ms, at most {longest:.0f} ms"),
        ("files read in a look", f"{found.tick_reads:,.0f}"),
        ("calls of the scheduler", calls),
        ("calls of tasks on files", operations),
        ("of these a second", f"{units.si(mean)}, at most {units.si(found.peak_operations_per_second)}"),
    ]


COMPARED = (
    "variant",
    "state",
    "tasks",
    "makespan",
    "core-hours",
    "useful",
    "launches",
    "sbatch",
    "file calls/s",
)


def compared(variant: Variant) -> tuple[str, ...]:
    """A row of the comparison."""
    outcome = variant.outcome
    return (
        variant.name,
        outcome.state,
        f"{outcome.tasks:,}",
        units.duration(outcome.makespan_seconds),
        f"{sum(outcome.core_hours.values()):,.1f}",
        f"{100 * (1 - outcome.waste_share):.1f} %",
        str(outcome.launches),
        str(outcome.load.scheduler_calls.get("sbatch", 0)),
        units.si(outcome.load.peak_operations_per_second),
    )
