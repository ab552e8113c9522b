"""Verbs that keep a run's files in order: verify, gc."""

import shlex
from dataclasses import asdict
from typing import Annotated

import typer

from tokenmill.cli.command import Output, RunArgument, command
from tokenmill.cli.placement import Placement, make_executor, recalled
from tokenmill.executors import units
from tokenmill.executors.gc import gc as collect
from tokenmill.executors.gc import totals
from tokenmill.executors.progress import reading
from tokenmill.executors.status import read_run
from tokenmill.executors.tables import print_table
from tokenmill.executors.verify import repair as withdraw
from tokenmill.executors.verify import verify as verify_run


@command
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
        withdrawn = withdraw(run_dir, damages, make_executor(recalled(run_dir, placement)))
        withdrawn.append(f"`tokenmill resume {shlex.quote(run_dir)}` makes it again")
    lines = [f"{one.job}{'' if one.shard is None else f'/{one.shard}'} {one.file}" for one in damages]
    words = [f"{line} {one.problem}" for line, one in zip(lines, damages, strict=True)] + withdrawn
    words.append(f"{found.num_files} files, {units.size(found.num_bytes)}, {len(damages)} damaged")
    value = {"run": run_dir, **asdict(found), "withdrawn": withdrawn}
    output.show(value, lambda: print(*words, sep="\n"), quiet="\n".join(lines))
    if damages and not repair:
        raise typer.Exit(1)


@command
def gc(
    run_dir: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, only say what.")] = False,
    *,
    placement: Placement,
    output: Output,
) -> None:
    """Remove what dead attempts left behind; nothing that a commit record names."""
    read_run(run_dir)
    orphans = collect(run_dir, make_executor(recalled(run_dir, placement)), dry_run=dry_run)
    num_bytes = sum(orphan.num_bytes for orphan in orphans)
    rows = [(kind, str(files), units.size(size)) for kind, (files, size) in totals(orphans).items()]
    rows.append(("would be removed" if dry_run else "removed", str(len(orphans)), units.size(num_bytes)))
    value = {"run": run_dir, "dry_run": dry_run, "files": len(orphans), "bytes": num_bytes}
    value["orphans"] = [asdict(orphan) for orphan in orphans]
    quiet = "\n".join(orphan.url for orphan in orphans)
    output.show(value, lambda: print_table(["what", "files", "bytes"], rows), quiet=quiet)
