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
NUMBERS = ("documents", "tokens", "items", "random", "perplexity", "bits", "accuracy")
"""Words that begin the columns worth a line on a terminal."""


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
        report = storage.join(options.run_dir, "report.json")
        if done.returncode == 0:
            show(storage.read_json(report), Console(highlight=False))
    except TokenmillError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run tools/quickstart again to go on", file=sys.stderr)
        return 130
    if storage.exists(report):
        page = storage.join(options.run_dir, "report.html")
        print(f"\nreport  {page}  ({time.time() - started:.0f} s in all)")
    return done.returncode


def recipe_command(options: argparse.Namespace, root: Path, prepared: Prepared) -> list[str]:
    """The command line of ``tokenmill run``."""
    inside = Path(sys.executable).parent / "tokenmill"
    values = [f"inputs.crawl={json.dumps(prepared.crawl, ensure_ascii=False)}"]
    values += [f"inputs.items={prepared.items}", f"inputs.language_model={prepared.language_model}"]
    if prepared.is_text:
        values.append(f"jobs.extract.config.blocks={LANGUAGE_ALONE}")
    if options.steps is not None:
        values.append(f"jobs.train.config.num_steps={options.steps}")
    command = [os.path.relpath(inside), "run", str(root / RECIPE), "--run-dir", options.run_dir]
    command += ["--executor", options.executor, "--quiet"]
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
    _show_documents(report["funnel"], console)
    figures = [figure for job in report["jobs"] for figure in job["figures"]]
    for title in ("Held-out text", "Multiple choice"):
        for figure in _titled(figures, title):
            _show_table(figure, console)
    for figure in _titled(figures, "Loss"):
        ends = [
            f"{name} {line[0][1]:.2f} -> {line[-1][1]:.2f}" for name, line in figure["lines"].items() if line
        ]
        console.print(f"\nLoss in nats per token: {', '.join(ends)}")
    for figure in _titled(figures, "Generated text"):
        for item in figure["items"][:NUM_SAMPLES]:
            text = textwrap.fill(
                f"{item['title']}[{item['text']}]", 100, initial_indent="  ", subsequent_indent="  "
            )
            console.print(f"\nGenerated text\n{text}", markup=False)


def _titled(figures: Iterable[Mapping[str, Any]], title: str) -> list[Mapping[str, Any]]:
    return [figure for figure in figures if figure["title"] == title]


def _show_documents(funnel: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(
        "job", "documents in", "out", "kept", "most losses", title="Documents", title_justify="left"
    )
    for row in funnel:
        before, after = row["documents_in"], row["documents"]
        kept = f"{after / before:.0%}" if before and after is not None else ""
        reasons = ", ".join(f"{reason} {count}" for reason, count in row["dropped"][:FEW_REASONS])
        table.add_row(row["name"], *("" if n is None else str(n) for n in (before, after)), kept, reasons)
    console.print(table)


def _show_table(figure: Mapping[str, Any], console: Console) -> None:
    wanted = [
        index for index, column in enumerate(figure["columns"]) if index == 0 or column.startswith(NUMBERS)
    ]
    table = Table(
        *(figure["columns"][index] for index in wanted), title=figure["title"], title_justify="left"
    )
    for row in figure["rows"]:
        table.add_row(*(str(row[index]) for index in wanted))
    console.print(table)
