"""``plan --simulate``: a rehearsal on a simulated cluster."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from tokenmill import config, recipes, storage
from tokenmill.cli.command import Output
from tokenmill.executors.simulation.compare import rehearse
from tokenmill.executors.simulation.measured import with_measured
from tokenmill.executors.simulation.picture import rehearsal_page
from tokenmill.executors.simulation.scenario import Scenario
from tokenmill.executors.simulation.show import print_rehearsal
from tokenmill.executors.simulation.simulate import narrowed, plan_bytes


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What is rehearsed, and on what."""

    simulate: Annotated[
        str,
        typer.Option(
            "--simulate",
            metavar="SCENARIO",
            help="Rehearse on a simulated cluster: a file, or a name in configs/simulation.",
        ),
    ] = ""
    assume: Annotated[
        list[str] | None,
        typer.Option("--sim-set", metavar="KEY=VALUE", help="Override a value of the scenario."),
    ] = None
    from_run: Annotated[
        str, typer.Option("--from-run", metavar="RUN", help="Take the durations of shards from this run.")
    ] = ""
    page: Annotated[
        str, typer.Option("--page", metavar="FILE", help="Write the rehearsal as an HTML page with plots.")
    ] = ""


def load_scenario(name: str, overrides: Sequence[str]) -> Scenario:
    """Scenario of a YAML file.

    Raises:
        ConfigError: no such scenario, or a wrong key or value.
    """
    values = config.load_yaml(recipes.find("scenario", name, "configs/simulation"))
    values = config.override(values, overrides)
    return config.build(Scenario, values.mapping, values.place)


def show_rehearsal(
    output: Output, recipe: str, overrides: Sequence[str], run_dir: str, rehearsal: Rehearsal
) -> None:
    """Simulate the run and its variants, and show what came out."""
    loaded = recipes.load_recipe(recipe, overrides, need_inputs=False)
    scenario = load_scenario(rehearsal.simulate, rehearsal.assume or ())
    for name in scenario.jobs:
        if name not in (known := [job.name for job in loaded.jobs]):
            raise config.unknown("job", name, known, f"scenario {rehearsal.simulate}: jobs")
    if scenario.only_named:
        loaded = narrowed(loaded, scenario.jobs)
    if rehearsal.from_run:
        scenario = with_measured(scenario, rehearsal.from_run)

    def tell(line: str) -> None:
        if not (output.quiet or output.json):
            print(f"simulating: {line}", file=sys.stderr, flush=True)

    variants = rehearse(loaded, scenario, plan_bytes(loaded, storage.absolute(run_dir)), tell)
    if rehearsal.page:
        page = rehearsal_page(loaded.name, scenario, variants)
        storage.write_atomic(storage.absolute(rehearsal.page), page.encode())
    value = {
        "recipe": loaded.name,
        "scenario": config.plain(scenario),
        "variants": [asdict(one) for one in variants],
        "page": rehearsal.page,
    }
    seconds = variants[0].outcome.makespan_seconds
    output.show(value, lambda: print_rehearsal(scenario, variants, rehearsal.page), quiet=f"{seconds:.0f}")
