"""Tables for people: coloured on a terminal, aligned words elsewhere."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenmill.executors.preview import JobPreview
from tokenmill.executors.progress import COLOURS, shards_done
from tokenmill.executors.units import duration, hours, price
from tokenmill.executors.watch import JobView


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: coloured on a terminal, aligned words elsewhere."""
    if sys.stdout.isatty():
        table = Table(*columns, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
        Console().print(table)
        return
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_views(views: Sequence[JobView], last: str = "") -> None:
    """Print the state of jobs, what they took and say, and a last line."""
    has_cost = any(view.usage.cost for view in views)
    rows = []
    for view in views:
        status, usage = view.status, view.usage
        row = [status.name, status.state, shards_done(status), str(status.failed)]
        row += [duration(usage.task_seconds), hours(usage.core_hours)]
        rows.append(row + [price(usage.cost)] * has_cost)
    columns = ["job", "state", "shards", "failed", "task time", "core-hours", *["cost"] * has_cost]
    print_table(columns, rows)
    for view in views:
        if view.status.message:
            print(f"{view.status.name}: {view.status.message}")
    if last:
        print(last)


def print_plan(previews: Sequence[JobPreview], last: str) -> None:
    """Print what would be done, with its scripts, and a last line."""
    rows = [
        (
            preview.name,
            preview.state,
            ", ".join(preview.parents) or "-",
            "later" if preview.shards is None else str(preview.shards),
            str(preview.tasks),
            f"{preview.core_hours:.2f}",
            preview.identity[:10],
        )
        for preview in previews
    ]
    for preview in previews:
        for script in preview.scripts:
            print(f"--- {preview.name}\n{script.rstrip()}\n")
    print_table(["job", "state", "after", "shards", "tasks", "core-hours", "identity"], rows)
    print(f"\n{last}")
