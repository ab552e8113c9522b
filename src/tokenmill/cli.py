"""The command ``tokenmill``: few verbs over runs; values come from recipes, sites and ``--set``.

    tokenmill plan RECIPE --run-dir D      what would be done; nothing is written or submitted
    tokenmill run RECIPE --run-dir D       do it, or go on with it
    tokenmill status D                     how far it is
    tokenmill logs D JOB/SHARD             what the attempts wrote
    tokenmill resume D                     go on, failed shards included
    tokenmill cancel D                     end what runs
    tokenmill report D                     write report.json and report.html
    tokenmill explain D JOB/SHARD          why it is where it is
    tokenmill verify D                     whether every committed file is whole; --repair
    tokenmill gc D                         remove what no record names

Every command speaks table, ``--json`` and ``--quiet``. Errors are one block on stderr: exit code 1, or 2 for
wrong usage.
"""

import contextlib
import functools
import inspect
import json
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Annotated, Any

import typer

import tokenmill
from tokenmill import config, recipes, storage
from tokenmill.errors import ConfigError, TokenmillError
from tokenmill.executors import report as reports
from tokenmill.executors import units
from tokenmill.executors.cancel import cancel as cancel_run
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.explain import explain as explain_target
from tokenmill.executors.gc import gc as collect
from tokenmill.executors.gc import totals
from tokenmill.executors.job import Recipe
from tokenmill.executors.launch import Executor, launches_of
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.mpi import MpiExecutor
from tokenmill.executors.preview import JobPreview, preview_recipe
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.progress import progress, reading
from tokenmill.executors.site import Site
from tokenmill.executors.slurm import SlurmExecutor, check_programs
from tokenmill.executors.status import (
    JobStatus,
    driver_of,
    find_shard,
    folders_of,
    read_run,
    recipe_status,
)
from tokenmill.executors.tables import print_plan, print_statuses, print_table
from tokenmill.executors.verify import repair as withdraw
from tokenmill.executors.verify import verify as verify_run

_EXECUTORS = ("local", "processes", "mpi", "slurm")
_WATCH_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a command speaks."""

    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Print as little as possible.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

    def show(self, value: Any, table: Callable[[], object], quiet: str = "") -> None:
        """Print plain values as JSON, or quiet lines, or a table."""
        if self.json:
            print(json.dumps(value, indent=1, ensure_ascii=False))
        elif self.quiet:
            print(quiet, end="\n" if quiet else "")
        else:
            table()


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where tasks run."""

    executor: Annotated[
        str, typer.Option("--executor", metavar="NAME", help=f"Where tasks run: {', '.join(_EXECUTORS)}.")
    ] = ""
    site: Annotated[
        str, typer.Option("--site", help="Site of the slurm executor: a file, or a name in slurm/.")
    ] = ""
    workers: Annotated[
        int,
        typer.Option("--workers", min=0, help="Most processes or MPI ranks at a time; 0: one per core."),
    ] = 0


app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command: its groups of options become options, its errors one block on stderr."""
    parameters = inspect.signature(function).parameters
    groups: dict[str, Any] = {
        key: item.annotation for key, item in parameters.items() if is_dataclass(item.annotation)
    }
    flat = [item for key, item in parameters.items() if key not in groups]
    for cls in groups.values():
        flat += [
            inspect.Parameter(
                item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type
            )
            for item in fields(cls)
        ]

    def command(**values: Any) -> None:
        for key, cls in groups.items():
            values[key] = cls(**{item.name: values.pop(item.name) for item in fields(cls)})
        with _errors(values["output"].debug):
            function(**values)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {item.name: item.annotation for item in flat}
    command.__dict__["__signature__"] = inspect.Signature(flat)  # typer reads options from it
    app.command()(command)
    return function


@contextlib.contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Print an error as one block and exit; no traceback unless it is asked for."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        print(
            "interrupted; `tokenmill resume` goes on. Tasks in SLURM's queue go on by themselves; "
            "`tokenmill cancel` ends them",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, TokenmillError):
            message = str(error)
        else:
            message = (
                f"{type(error).__name__}: {error}\n  fix: this is not foreseen; --debug shows where it is"
            )
        print(f"error: {message}", file=sys.stderr)
        raise typer.Exit(1) from None


RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of one in configs/recipes.")]
RunArgument = Annotated[str, typer.Argument(help="Folder of the run.")]
RunOption = Annotated[str, typer.Option("--run-dir", help="Folder of the run; new, or to go on with.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Submit to SLURM and return.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value by dotted path; may come often."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tokenmill {tokenmill.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Turn web crawl into an evaluated language model, on one machine or a SLURM cluster."""


# Executors


def make_executor(placement: Placement, *, only_look: bool = False) -> Executor:
    """The executor that the options name.

    Args:
        placement: the options.
        only_look: nothing will be submitted, so SLURM's programs may be missing.

    Raises:
        ConfigError: unknown executor or site, or an option that the executor does not have.
        SubmissionError: the slurm executor without SLURM's programs, or mpi without an MPI library.
        MissingExtraError: the mpi executor without mpi4py.
    """
    name = placement.executor or "processes"
    if name not in _EXECUTORS:
        raise config.unknown("executor", name, _EXECUTORS, "--executor")
    if placement.site and name != "slurm":
        raise ConfigError("only the slurm executor has a site", where="--site", got=f"--executor {name}")
    if placement.workers and name not in ("processes", "mpi"):
        raise ConfigError(
            "only the processes and mpi executors have workers", where="--workers", got=f"--executor {name}"
        )
    if name == "local":
        return LocalExecutor()
    if name == "processes":
        return ProcessesExecutor(placement.workers or len(os.sched_getaffinity(0)))
    if name == "mpi":
        mpi = MpiExecutor(placement.workers)
        mpi.check()
        return mpi
    if not placement.site:
        raise ConfigError("the slurm executor needs a site", where="--site", fix="--site SITE; see slurm/")
    site = recipes.load_site(placement.site)
    if not only_look:
        check_programs()
    return SlurmExecutor(site)


def _placement_url(run_dir: str) -> str:
    return storage.join(run_dir, "placement.json")


def _remember(run_dir: str, placement: Placement) -> None:
    """Let ``resume`` and ``cancel`` find the executor again."""
    site = storage.absolute(recipes.find("site", placement.site, "slurm")) if placement.site else ""
    value = asdict(replace(placement, executor=placement.executor or "processes", site=site))
    storage.write_atomic(_placement_url(run_dir), storage.dump_json(value))


def _recalled(run_dir: str, placement: Placement) -> Placement:
    """The options of the last time, unless an executor is given."""
    if placement.executor or not storage.exists(_placement_url(run_dir)):
        return placement
    old = config.build(Placement, storage.read_json(_placement_url(run_dir)), _placement_url(run_dir))
    return replace(old, site=placement.site or old.site, workers=placement.workers or old.workers)


# run, plan, resume, cancel


@_command
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
        drive = functools.partial(run_recipe, loaded, run_dir, executor, detach=detach)
        _drive(drive, run_dir, placement, output)


@_command
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


@_command
def resume(
    run_dir: RunArgument, detach: DetachOption = False, *, placement: Placement, output: Output
) -> None:
    """Go on with a run and try failed shards again, with the executor of the last time."""
    loaded = recipes.recipe_of_run(read_run(run_dir)["recipe"], storage.join(run_dir, "run.json"))
    placement = _recalled(run_dir, placement)
    executor = make_executor(placement)
    drive = functools.partial(run_recipe, loaded, run_dir, executor, retry_failed=True, detach=detach)
    _drive(drive, run_dir, placement, output)


@_command
def cancel(
    run_dir: RunArgument,
    job: Annotated[str, typer.Argument(metavar="[JOB]", help="Only this job.")] = "",
    *,
    placement: Placement,
    output: Output,
) -> None:
    """End what runs; ``run`` and ``resume`` go on where it stopped."""
    read_run(run_dir)
    executor = make_executor(_recalled(run_dir, placement))
    ended = cancel_run(run_dir, executor, job or None)
    output.show(ended, lambda: print("cancelled:", ", ".join(ended) or "nothing was left to do"))


def _drive(drive: Callable[..., list[JobStatus]], run_dir: str, placement: Placement, output: Output) -> None:
    """Run to the end with progress on stderr; the report is written even if a job failed."""
    last: list[JobStatus] = []

    def on_change(statuses: Sequence[JobStatus]) -> None:
        if not last:
            _remember(run_dir, placement)
        last[:] = statuses
        show(statuses)

    old = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `cancel` sends it
    try:
        with contextlib.redirect_stdout(sys.stderr), progress(silent=output.quiet or output.json) as show:
            drive(on_change=on_change)
    finally:
        signal.signal(signal.SIGTERM, old)
        if last:
            page = reports.write_report(run_dir)
            value = {"run": run_dir, "report": page, "jobs": [asdict(status) for status in last]}
            output.show(value, lambda: print_statuses(last, f"report: {page}"), quiet=page)


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


# Looking


@_command
def status(
    run_dir: RunArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until nothing runs any more.")] = False,
    *,
    output: Output,
) -> None:
    """Show how far each job is; ``--quiet`` prints one word for the whole run."""
    statuses = recipe_status(run_dir)
    if watch:
        with progress() as show:
            show(statuses)
            while _goes_on(run_dir):
                time.sleep(_WATCH_SECONDS)
                statuses = recipe_status(run_dir)
                show(statuses)
    driven = driver_of(run_dir) is not None
    state = reports.overall_state([status.state for status in statuses], driven=driven)
    value = {"run": run_dir, "state": state, "jobs": [asdict(status) for status in statuses]}
    output.show(value, lambda: print_statuses(statuses), quiet=state)


def _goes_on(run_dir: str) -> bool:
    """True if a driver works on the run, or the queue holds tasks of it."""
    if driver_of(run_dir):
        return True
    placement = _recalled(run_dir, Placement())
    if placement.executor != "slurm":
        return False
    launches = [
        launch for status in recipe_status(run_dir) for launch in launches_of(JobFolder(status.folder))
    ]
    live = make_executor(placement).live(launches)
    return live is None or bool(live)


@_command
def logs(
    run_dir: RunArgument,
    target: Annotated[str, typer.Argument(metavar="[JOB[/SHARD]]", help="Only this job or shard.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only attempts that failed.")] = False,
    tail: Annotated[
        int, typer.Option("--tail", min=0, help="Only so many last lines of each log; 0: all.")
    ] = 0,
    *,
    output: Output,
) -> None:
    """Print the logs of attempts; without JOB and ``--failed`` list the attempts."""
    attempts = _attempts(run_dir, target)
    if failed:
        attempts = [attempt for attempt in attempts if attempt["outcome"] in ("error", "forgiven")]

    def text() -> None:
        if not attempts:
            print("no attempt failed" if failed else "no attempt has begun")
            for name, folder in folders_of(run_dir, target.partition("/")[0]).items():
                words = "" if folder.attempts() else folder.last_words(*folder.launch_order()[-1:])
                if words:
                    print(f"{name}: its tasks ended before an attempt; their last words: {words}")
        elif target or failed:
            for attempt in attempts:
                shard = f"{attempt['job']}/{attempt['shard']}"
                print(f"=== {shard} attempt {attempt['attempt']} {attempt['outcome']}")
                print(reports.log_tail(attempt["log"], tail or sys.maxsize).rstrip())
        else:
            columns = ["job", "shard", "attempt", "rank", "host", "outcome", "seconds"]
            print_table(columns, [[_cell(attempt.get(column)) for column in columns] for attempt in attempts])

    output.show(attempts, text, quiet="\n".join(attempt["log"] for attempt in attempts))


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _attempts(run_dir: str, target: str) -> list[dict[str, Any]]:
    """Attempts of a run, of ``JOB``, or of ``JOB/SHARD``, each with its job and the URL of its log.

    Raises:
        ConfigError: no such job or shard.
    """
    job, shard = find_shard(run_dir, target) if target else ("", None)
    return [
        {"job": name, **attempt, "log": folder.log_url(attempt["shard"], attempt["attempt"], attempt["rank"])}
        for name, folder in folders_of(run_dir, job).items()
        for attempt in folder.attempts()
        if shard in (None, attempt["shard"])
    ]


@_command
def explain(
    run_dir: RunArgument,
    target: Annotated[str, typer.Argument(metavar="JOB[/SHARD]", help="A job or a shard of it.")],
    *,
    placement: Placement,
    output: Output,
) -> None:
    """Say why a job or a shard is where it is; ``--quiet`` prints one word."""
    read_run(run_dir)
    executor = make_executor(_recalled(run_dir, placement), only_look=True)
    found = explain_target(run_dir, target, executor)
    output.show(asdict(found), lambda: print(*found.sentences, sep="\n"), quiet=found.state)


@_command
def verify(
    run_dir: RunArgument,
    job: Annotated[str, typer.Argument(metavar="[JOB]", help="Only this job.")] = "",
    repair: Annotated[
        bool, typer.Option("--repair", help="Withdraw what is damaged, so that `resume` makes it again.")
    ] = False,
    *,
    placement: Placement,
    output: Output,
) -> None:
    """Read every committed file and compare it with its record; exit code 1 if one is damaged."""
    found = verify_run(run_dir, job, reading(silent=output.quiet or output.json))
    damages = found.damages
    withdrawn: list[str] = []
    if repair and damages:
        withdrawn = withdraw(run_dir, damages, make_executor(_recalled(run_dir, placement)))
        withdrawn.append(f"`tokenmill resume {shlex.quote(run_dir)}` makes it again")
    lines = [f"{one.job}{'' if one.shard is None else f'/{one.shard}'} {one.file}" for one in damages]
    words = [f"{line} {one.problem}" for line, one in zip(lines, damages, strict=True)] + withdrawn
    words.append(f"{found.num_files} files, {units.size(found.num_bytes)}, {len(damages)} damaged")
    value = {"run": run_dir, **asdict(found), "withdrawn": withdrawn}
    output.show(value, lambda: print(*words, sep="\n"), quiet="\n".join(lines))
    if damages and not repair:
        raise typer.Exit(1)


@_command
def gc(
    run_dir: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, only say what.")] = False,
    *,
    placement: Placement,
    output: Output,
) -> None:
    """Remove what dead attempts left behind; nothing that a commit record names."""
    read_run(run_dir)
    orphans = collect(run_dir, make_executor(_recalled(run_dir, placement)), dry_run=dry_run)
    num_bytes = sum(orphan.num_bytes for orphan in orphans)
    rows = [(kind, str(files), units.size(size)) for kind, (files, size) in totals(orphans).items()]
    rows.append(("would be removed" if dry_run else "removed", str(len(orphans)), units.size(num_bytes)))
    value = {"run": run_dir, "dry_run": dry_run, "files": len(orphans), "bytes": num_bytes}
    value["orphans"] = [asdict(orphan) for orphan in orphans]
    quiet = "\n".join(orphan.url for orphan in orphans)
    output.show(value, lambda: print_table(["what", "files", "bytes"], rows), quiet=quiet)


@_command
def report(run_dir: RunArgument, *, output: Output) -> None:
    """Write report.json and report.html into the run folder."""
    page = reports.write_report(run_dir)
    value = storage.read_json(storage.join(run_dir, "report.json")) if output.json else None
    output.show(value, lambda: print(page), quiet=page)


def main() -> None:
    """Entry of the command."""
    app(prog_name="tokenmill")


if __name__ == "__main__":
    main()
