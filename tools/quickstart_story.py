"""The quickstart inside its environment: make the input, run the recipe, tell what came out."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quickstart_input import Prepared, load_sources, prepare
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from tokenmill import storage
from tokenmill.errors import TokenmillError

RECIPE = "configs/recipes/quickstart.yaml"
SOURCES = "configs/data/quickstart_sources.yaml"
LANGUAGE_ALONE = '[{kind: language, model_path: "${inputs.language_model}"}]'
"""Blocks of the first job where there is nothing to extract."""
FEW_REASONS = 4
"""Reasons of losses shown per job; the report shows all."""
NUM_SAMPLES = 2
"""Generated texts shown."""
COLUMNS = {
    "Held-out text": ("text", "documents", "tokens", "perplexity", "bits per byte"),
    "Multiple choice": ("task", "items", "random", "accuracy", "accuracy per character"),
}
"""Tables of the report and their columns that are shown."""


def tell(options: argparse.Namespace, root: Path, started: float) -> int:
    """Run everything; returns the exit code.

    Args:
        options: the command line.
        root: folder of the checkout.
        started: time of the start, in seconds since 1970.
    """
    try:
        prepared = prepare(load_sources(root / SOURCES), options.cache, options.input)
        print(f"input  {' '.join(prepared.crawl)}  ({time.time() - started:.0f} s)", flush=True)
        command = recipe_command(options, root, prepared)
        print(f"$ {shlex.join(command)}", flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(done.stdout, end="")
            return done.returncode
        show(storage.read_json(storage.join(options.run_dir, "report.json")), Console(highlight=False))
    except TokenmillError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run tools/quickstart again to go on", file=sys.stderr)
        return 130
    page = storage.join(options.run_dir, "report.html")
    print(f"\nreport  {page}  ({time.time() - started:.0f} s in all)")
    return 0


def recipe_command(options: argparse.Namespace, root: Path, prepared: Prepared) -> list[str]:
    """The command line of ``tokenmill run``."""
    inside = Path(sys.executable).parent / "tokenmill"
    values = [f"inputs.crawl={json.dumps(prepared.crawl, ensure_ascii=False)}"]
    values += [f"inputs.items={prepared.items}", f"inputs.language_model={prepared.language_model}"]
    if prepared.is_text:
        values.append(f"jobs.extract.config.blocks={LANGUAGE_ALONE}")
    if options.steps is not None:
        values.append(f"jobs.train.config.num_steps={options.steps}")
        values.append(f"jobs.train.config.schedule.warmup_steps={options.steps // 20}")  # as in the recipe
    command = [os.path.relpath(inside), "run", str(root / RECIPE), "--run-dir", options.run_dir]
    command += ["--executor", options.executor]
    if options.site:
        command += ["--site", options.site]
    for value in (*values, *options.set):
        command += ["--set", value]
    return command


# Summary


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print what came out of a run.

    Args:
        report: content of ``report.json``.
        console: where to print.
    """
    figures = [figure for job in report["jobs"] for figure in job["figures"]]
    _show_documents(report["funnel"], console)
    for figure in _titled(figures, "Loss"):
        ends = [
            f"{name} {line[0][1]:.2f} -> {line[-1][1]:.2f}" for name, line in figure["lines"].items() if line
        ]
        console.print(f"\nLoss in nats per token, first -> last: {', '.join(ends)}", soft_wrap=True)
    for title, columns in COLUMNS.items():
        for figure in _titled(figures, title):
            _show_table(figure, columns, console)
    for figure in _titled(figures, "Generated text"):
        _heading("Generated text, the prompt in brackets", console)
        for item in figure["items"][:NUM_SAMPLES]:
            text = " ".join(f"[{item['title']}]{item['text']}".split())
            console.print(textwrap.indent(textwrap.fill(text, 90), "  "), markup=False, soft_wrap=True)


def _titled(figures: Iterable[Mapping[str, Any]], title: str) -> list[Mapping[str, Any]]:
    return [figure for figure in figures if figure["title"] == title]


def _heading(text: str, console: Console) -> None:
    console.print(f"\n{text}", style="bold")


def _show_documents(funnel: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Documents into and out of each job, with what it lost most to below it."""
    _heading("Documents", console)
    for row in funnel:
        before, after = row["documents_in"], row["documents"]
        if before is None or after is None:
            continue
        share = f"{after / before:.0%}" if before else "none"
        console.print(f"  {row['name']:<10} {before:>7,} -> {after:>7,}  {share:>4} kept")
        for reason, count in row["dropped"][:FEW_REASONS]:
            console.print(f"  {'':<10} {-count:>7,}  {reason}", markup=False, soft_wrap=True)
        others = before - after - sum(count for _, count in row["dropped"][:FEW_REASONS])
        if others > 0:
            console.print(f"  {'':<10} {-others:>7,}  for other reasons; the report names them")


def _show_table(figure: Mapping[str, Any], columns: Sequence[str], console: Console) -> None:
    _heading(figure["title"], console)
    wanted = [figure["columns"].index(column) for column in columns if column in figure["columns"]]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index in wanted:
        table.add_column(figure["columns"][index], justify="left" if index == 0 else "right", no_wrap=True)
    for row in figure["rows"]:
        table.add_row(*(str(row[index]) for index in wanted))
    console.print(Padding.indent(table, 2))
