"""Verbs that make a run go on or stop: run, plan, resume, cancel."""

import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import typer

from tokenmill import recipes, storage
from tokenmill.cli.command import (
    ControllerOption,
    DetachOption,
    Output,
    RecipeArgument,
    RunArgument,
    RunOption,
    SetOption,
    command,
)
from tokenmill.cli.placement import Placement, make_executor, recalled, remember
from tokenmill.cli.rehearsing import Rehearsal, show_rehearsal
from tokenmill.cli.telling import Teller, Telling, recalled_telling, remember_telling, warn_if_nobody_stays
from tokenmill.executors import report as reports
from tokenmill.executors import secrets, worker
from tokenmill.executors.cancel import cancel as cancel_run
from tokenmill.executors.cancel import cancel_shard
from tokenmill.executors.controller import check_kind, hand_over
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.job import Recipe
from tokenmill.executors.launch import Executor
from tokenmill.executors.preview import JobPreview, preview_recipe
from tokenmill.executors.progress import Display, Silence, progress
from tokenmill.executors.site import Site
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.status import JobStatus, read_run
from tokenmill.executors.tables import print_plan, print_views
from tokenmill.executors.watch import JobView, Watcher, plain


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How far ``run`` goes."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False
    detach: DetachOption = False
    controller: ControllerOption = "process"


@command
def run(
    recipe: RecipeArgument,
    run_dir: RunOption,
    overrides: SetOption = None,
    *,
    manner: Manner,
    placement: Placement,
    telling: Telling,
    output: Output,
) -> None:
    """Run a recipe, or go on with a run; complete jobs are left as they are."""
    loaded = recipes.load_recipe(recipe, overrides or ())
    executor = make_executor(placement, only_look=manner.dry_run)
    if manner.dry_run:
        _show_plan(output, loaded, run_dir, executor)
    else:
        check_kind(manner.controller, executor)
        if manner.detach and manner.controller == "process":
            warn_if_nobody_stays(telling, executor)
        detach = manner.detach or manner.controller != "process"
        work = Work(recipe=with_secrets(loaded, executor), executor=executor, detach=detach)
        follow(work, run_dir, placement, telling, output)
        if manner.controller != "process":
            hand_over(run_dir, manner.controller, executor)


@command
def plan(
    recipe: RecipeArgument,
    run_dir: RunOption,
    overrides: SetOption = None,
    *,
    rehearsal: Rehearsal,
    placement: Placement,
    output: Output,
) -> None:
    """Show jobs, shards, scripts and core-hours; write and submit nothing."""
    if rehearsal.simulate:
        show_rehearsal(output, recipe, overrides or (), run_dir, rehearsal)
        return
    loaded = recipes.load_recipe(recipe, overrides or ())
    _show_plan(output, loaded, run_dir, make_executor(placement, only_look=True))


@command
def resume(
    run_dir: RunArgument,
    detach: DetachOption = False,
    controller: ControllerOption = "process",
    *,
    placement: Placement,
    telling: Telling,
    output: Output,
) -> None:
    """Go on with a run and try failed shards again, with the executor of the last time."""
    loaded = recipes.recipe_of_run(read_run(run_dir)["recipe"], storage.join(run_dir, "run.json"))
    placement = recalled(run_dir, placement)
    executor = make_executor(placement)
    check_kind(controller, executor)
    loaded = with_secrets(loaded, executor)
    detach = detach or controller != "process"
    work = Work(recipe=loaded, executor=executor, detach=detach, retry_failed=True)
    follow(work, run_dir, placement, recalled_telling(run_dir, telling), output)
    if controller != "process":
        hand_over(run_dir, controller, executor)


@command
def cancel(
    run_dir: RunArgument,
    job: Annotated[
        str, typer.Argument(metavar="[JOB[/SHARD]]", help="Only this job, or one of its shards.")
    ] = "",
    *,
    placement: Placement,
    output: Output,
) -> None:
    """End what runs; ``run`` and ``resume`` go on where it stopped."""
    read_run(run_dir)
    if "/" in job:
        sentence = cancel_shard(run_dir, job)
        output.show(sentence, lambda: print(sentence))
        return
    executor = make_executor(recalled(run_dir, placement))
    ended = cancel_run(run_dir, executor, job or None)
    output.show(ended, lambda: print("cancelled:", ", ".join(ended) or "nothing was left to do"))


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a driver is to do."""

    recipe: Recipe
    executor: Executor
    detach: bool
    retry_failed: bool = False
    relay: Callable[[], bool] | None = None


class _Follower:
    """Shows a run and tells about it while a driver works on it.

    Args:
        run_dir: folder of the run.
        placement: where tasks run; remembered once the run exists.
        telling: who is told what; remembered as well.
        teller: tells them.
    """

    def __init__(self, run_dir: str, placement: Placement, telling: Telling, teller: Teller) -> None:
        self._run_dir, self._placement, self._telling, self._teller = run_dir, placement, telling, teller
        self.display: Display = Silence()
        self._watcher: Watcher | None = None
        self._last: list[JobStatus] = []

    def on_change(self, statuses: Sequence[JobStatus]) -> None:
        """Show and tell how far the run is."""
        if self._watcher is None:
            remember(self._run_dir, self._placement)
            remember_telling(self._run_dir, self._telling)
            self._watcher = Watcher(self._run_dir)
        self._last[:] = statuses
        views = None
        if (self.display.wants_views or self._teller.wants_views) and self._watcher.is_due():
            views = self._watcher.look(statuses)
            self._teller.tick(views)
        self.display.tick(statuses, views)

    def views(self) -> list[JobView]:
        """What is to be seen now; empty if the run has not begun."""
        return self._watcher.look(self._last) if self._watcher is not None else []


def follow(work: Work, run_dir: str, placement: Placement, telling: Telling, output: Output) -> None:
    """Run to the end with progress on stderr; the report is written even if a job failed."""
    redactor = worker.redactor(secrets.known_values(work.recipe.secrets))
    teller = Teller(run_dir, telling, work.executor, redactor)
    follower = _Follower(run_dir, placement, telling, teller)
    error: BaseException | None = None
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `cancel` sends it
    try:
        with contextlib.redirect_stdout(sys.stderr), progress(silent=output.quiet or output.json) as display:
            follower.display = display
            run_recipe(
                work.recipe,
                run_dir,
                work.executor,
                retry_failed=work.retry_failed,
                detach=work.detach,
                relay=work.relay,
                on_change=follower.on_change,
            )
    except BaseException as raised:
        error = raised
        raise
    finally:
        signal.signal(signal.SIGTERM, old)
        if views := follower.views():
            page = reports.write_report(run_dir, redactor)
            value = {"run": run_dir, "report": page, "jobs": [plain(view) for view in views]}
            output.show(value, lambda: print_views(views, f"report: {page}"), quiet=page)
            is_over = error is not None or all(view.status.state == "complete" for view in views)
            if is_over and not isinstance(error, KeyboardInterrupt):
                teller.end(views, error)


def with_secrets(recipe: Recipe, executor: Executor) -> Recipe:
    """The recipe with the files of its secrets and the site's, checked as far as this machine has them.

    Raises:
        ConfigError: a file is missing, empty, or readable by others, or a variable of the site is a secret.
    """
    site = executor.site if isinstance(executor, SlurmExecutor) else Site(name="")
    secrets.check_variables(site.variables, f"site {site.name}")
    found = secrets.merged(recipe.secrets, site.secrets)
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
