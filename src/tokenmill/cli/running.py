"""Verbs that make a run go on or stop: run, plan, resume, cancel."""

import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Annotated

import typer

from tokenmill import recipes, storage
from tokenmill.cli.command import (
    DetachOption,
    Output,
    RecipeArgument,
    RunArgument,
    RunOption,
    SetOption,
    command,
)
from tokenmill.cli.placement import Placement, make_executor, recalled, redactor_of, remember
from tokenmill.executors import report as reports
from tokenmill.executors import secrets
from tokenmill.executors.cancel import cancel as cancel_run
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.job import Recipe
from tokenmill.executors.launch import Executor
from tokenmill.executors.preview import JobPreview, preview_recipe
from tokenmill.executors.progress import progress
from tokenmill.executors.site import Site
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.status import JobStatus, read_run
from tokenmill.executors.tables import print_plan, print_statuses


@command
def run(
    recipe: RecipeArgument,
    run_dir: RunOption,
    overrides: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    detach: DetachOption = False,
    *,
    placement: Placement,
    output: Output,
) -> None:
    """Run a recipe, or go on with a run; complete jobs are left as they are."""
    loaded = recipes.load_recipe(recipe, overrides or ())
    executor = make_executor(placement, only_look=dry_run)
    if dry_run:
        _show_plan(output, loaded, run_dir, executor)
    else:
        loaded = _with_secrets(loaded, executor)
        drive = functools.partial(run_recipe, loaded, run_dir, executor, detach=detach)
        _drive(drive, run_dir, placement, output)


@command
def plan(
    recipe: RecipeArgument,
    run_dir: RunOption,
    overrides: SetOption = None,
    *,
    placement: Placement,
    output: Output,
) -> None:
    """Show jobs, shards, scripts and core-hours; write and submit nothing."""
    loaded = recipes.load_recipe(recipe, overrides or ())
    _show_plan(output, loaded, run_dir, make_executor(placement, only_look=True))


@command
def resume(
    run_dir: RunArgument, detach: DetachOption = False, *, placement: Placement, output: Output
) -> None:
    """Go on with a run and try failed shards again, with the executor of the last time."""
    loaded = recipes.recipe_of_run(read_run(run_dir)["recipe"], storage.join(run_dir, "run.json"))
    placement = recalled(run_dir, placement)
    executor = make_executor(placement)
    loaded = _with_secrets(loaded, executor)
    drive = functools.partial(run_recipe, loaded, run_dir, executor, retry_failed=True, detach=detach)
    _drive(drive, run_dir, placement, output)


@command
def cancel(
    run_dir: RunArgument,
    job: Annotated[str, typer.Argument(metavar="[JOB]", help="Only this job.")] = "",
    *,
    placement: Placement,
    output: Output,
) -> None:
    """End what runs; ``run`` and ``resume`` go on where it stopped."""
    read_run(run_dir)
    executor = make_executor(recalled(run_dir, placement))
    ended = cancel_run(run_dir, executor, job or None)
    output.show(ended, lambda: print("cancelled:", ", ".join(ended) or "nothing was left to do"))


def _drive(drive: Callable[..., list[JobStatus]], run_dir: str, placement: Placement, output: Output) -> None:
    """Run to the end with progress on stderr; the report is written even if a job failed."""
    last: list[JobStatus] = []

    def on_change(statuses: Sequence[JobStatus]) -> None:
        if not last:
            remember(run_dir, placement)
        last[:] = statuses
        show(statuses)

    old = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `cancel` sends it
    try:
        with contextlib.redirect_stdout(sys.stderr), progress(silent=output.quiet or output.json) as show:
            drive(on_change=on_change)
    finally:
        signal.signal(signal.SIGTERM, old)
        if last:
            page = reports.write_report(run_dir, redactor_of(run_dir))
            value = {"run": run_dir, "report": page, "jobs": [asdict(status) for status in last]}
            output.show(value, lambda: print_statuses(last, f"report: {page}"), quiet=page)


def _with_secrets(recipe: Recipe, executor: Executor) -> Recipe:
    """The recipe with the files of its secrets and the site's, checked as far as this machine has them.

    Raises:
        ConfigError: a file is missing, empty, or readable by others.
    """
    site = executor.site.secrets if isinstance(executor, SlurmExecutor) else {}
    found = secrets.merged(recipe.secrets, site)
    secrets.check(found, must_exist=not isinstance(executor, SlurmExecutor))
    return replace(recipe, secrets=found)


def _show_plan(output: Output, recipe: Recipe, run_dir: str, executor: Executor) -> None:
    previews = preview_recipe(recipe, run_dir, executor)
    hours = sum(preview.core_hours for preview in previews)
    site = executor.site if isinstance(executor, SlurmExecutor) else Site(name="")
    cost = hours * site.core_hour_cost + _gpu_hours(recipe, previews) * site.gpu_hour_cost
    value = {"core_hours": hours, "cost": cost, "jobs": [asdict(preview) for preview in previews]}
    priced = f", {cost:.2f} in cost" if cost else ""
    last = f"at most {hours:.2f} core-hours{priced}, if every task took its time limit"
    quiet = "\n".join(f"{preview.name} {preview.state}" for preview in previews)
    output.show(value, lambda: print_plan(previews, f"{last}; nothing was written or submitted"), quiet)


def _gpu_hours(recipe: Recipe, previews: Sequence[JobPreview]) -> float:
    resources = {job.name: job.resources for job in recipe.jobs}
    return sum(
        preview.tasks * resources[preview.name].gpus * resources[preview.name].time_seconds / 3600
        for preview in previews
        if preview.state != "complete"
    )
