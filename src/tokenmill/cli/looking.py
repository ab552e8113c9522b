"""Verbs that look at a run and change nothing in it: status, logs, attach, explain, report."""

import contextlib
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from tokenmill import storage
from tokenmill.cli.command import Output, RunArgument, command
from tokenmill.cli.placement import Placement, make_executor, recalled, redactor_of
from tokenmill.cli.queue import Queue
from tokenmill.cli.telling import PrometheusOption, write_metrics
from tokenmill.executors import report as reports
from tokenmill.executors.attach import follow, outcome_of, own_id, running_attempt, shell_command, slurm_task
from tokenmill.executors.cost import total
from tokenmill.executors.explain import explain as explain_target
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.progress import progress
from tokenmill.executors.slurm_client import run_client
from tokenmill.executors.status import driver_of, find_shard, folders_of, read_run
from tokenmill.executors.tables import print_table, print_views
from tokenmill.executors.watch import JobView, Watcher, plain

_WATCH_SECONDS = 2.0


@command
def status(
    run_dir: RunArgument,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Show it live until nothing runs any more; Ctrl-C only looks away."),
    ] = False,
    prometheus: PrometheusOption = "",
    *,
    output: Output,
) -> None:
    """Show how far each job is and what it took; ``--quiet`` prints one word for the whole run."""
    watcher = Watcher(run_dir)
    views = watcher.look()
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            views = _watch(run_dir, watcher, prometheus)
    if prometheus:
        write_metrics(prometheus, run_dir, views)
    driven = driver_of(run_dir) is not None
    state = reports.overall_state([view.status.state for view in views], driven=driven)
    usage = asdict(total([view.usage for view in views]))
    value = {"run": run_dir, "state": state, "usage": usage, "jobs": [plain(view) for view in views]}
    output.show(value, lambda: print_views(views), quiet=state)


def _watch(run_dir: str, watcher: Watcher, prometheus: str) -> list[JobView]:
    """Show a run until nothing runs any more; returns what was seen last."""
    queue = Queue(run_dir)
    with progress() as display:
        while True:
            goes_on = queue.goes_on()  # asked first: what ends meanwhile is still seen
            views = watcher.look()
            display.show(views, queue.words())
            if prometheus:
                write_metrics(prometheus, run_dir, views)
            if not goes_on:
                return views
            time.sleep(_WATCH_SECONDS)


@command
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
    attempts = _attempts(run_dir, target, failed=failed)

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
            columns = ["job", "shard", "attempt", "rank", "host", "outcome", "class", "seconds"]
            print_table(columns, [[_cell(attempt.get(column)) for column in columns] for attempt in attempts])

    output.show(attempts, text, quiet="\n".join(attempt["log"] for attempt in attempts))


def _cell(value: Any) -> str:
    return "-" if value in (None, "") else f"{value:.2f}" if isinstance(value, float) else str(value)


def _attempts(run_dir: str, target: str, *, failed: bool) -> list[dict[str, Any]]:
    """Attempts of a run, of ``JOB``, or of ``JOB/SHARD``, each with its job and the URL of its log.

    Args:
        run_dir: folder of the run.
        target: what to look at; everything if empty.
        failed: only attempts that failed or died.

    Raises:
        ConfigError: no such job or shard.
    """
    job, shard = find_shard(run_dir, target) if target else ("", None)
    driven = driver_of(run_dir) is not None

    def records(folder: JobFolder) -> list[dict[str, Any]]:
        every = reports.with_losses(folder, folder.attempts(), driven=driven)
        return [attempt for attempt in every if not failed or attempt["outcome"] in reports.ENDED_BADLY]

    return [
        {"job": name, **attempt, "log": folder.log_url(attempt["shard"], attempt["attempt"], attempt["rank"])}
        for name, folder in folders_of(run_dir, job).items()
        for attempt in records(folder)
        if shard in (None, attempt["shard"])
    ]


@command
def attach(
    run_dir: RunArgument,
    target: Annotated[str, typer.Argument(metavar="JOB[/SHARD]", help="A job or a shard of it.")],
    shell: Annotated[
        bool,
        typer.Option("--shell", help="Open a shell in its SLURM allocation; without a terminal print how."),
    ] = False,
    *,
    output: Output,
) -> None:
    """Follow the log of an attempt that runs until it ends; Ctrl-C only looks away."""
    job, shard = find_shard(run_dir, target)
    folder = folders_of(run_dir, job)[job]
    attempt = running_attempt(folder, shard)
    if shell:
        _open_shell(folder, attempt, output)
        return
    print(f"{job}/{attempt['shard']} attempt {attempt['attempt']} on {attempt['host']}", file=sys.stderr)
    queue = Queue(run_dir)
    with contextlib.suppress(KeyboardInterrupt):
        for text in follow(folder, attempt, goes_on=queue.goes_on):
            print(text, end="", flush=True)
    ended = {"job": job, **attempt, "outcome": outcome_of(folder, attempt)}
    output.show(ended, lambda: print(f"outcome: {ended['outcome']}", file=sys.stderr))


def _open_shell(folder: JobFolder, attempt: Mapping[str, Any], output: Output) -> None:
    """Open a shell beside an attempt, or say how."""
    scheduler_id = slurm_task(folder, attempt)
    answer = run_client(["squeue", "--noheader", f"--jobs={scheduler_id}", "--format=%A"])
    words = shell_command(own_id(scheduler_id, answer), attempt)
    line = shlex.join(words)
    output.show({"command": words}, lambda: print(line, flush=True), quiet=line)
    if sys.stdin.isatty() and not (output.json or output.quiet):
        raise typer.Exit(subprocess.run(words, check=False).returncode)


@command
def explain(
    run_dir: RunArgument,
    target: Annotated[str, typer.Argument(metavar="JOB[/SHARD]", help="A job or a shard of it.")],
    *,
    placement: Placement,
    output: Output,
) -> None:
    """Say why a job or a shard is where it is; ``--quiet`` prints one word."""
    read_run(run_dir)
    executor = make_executor(recalled(run_dir, placement), only_look=True)
    found = explain_target(run_dir, target, executor)
    output.show(asdict(found), lambda: print(*found.sentences, sep="\n"), quiet=found.state)


@command
def report(run_dir: RunArgument, *, output: Output) -> None:
    """Write report.json and report.html into the run folder."""
    page = reports.write_report(run_dir, redactor_of(run_dir))
    value = storage.read_json(storage.join(run_dir, "report.json")) if output.json else None
    output.show(value, lambda: print(page), quiet=page)
