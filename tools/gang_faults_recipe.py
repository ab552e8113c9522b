"""The quickstart's whole recipe with its training disturbed: on SLURM, and over MPI with four ranks."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from faults_cluster import Cluster
from gang_faults_run import Fault, GangRun, Starts, kill_rank, preempt, row, site, write_yaml
from quickstart_input import load_sources, prepare

ROOT = Path(__file__).resolve().parent.parent
STEPS, SAVE_STEPS, RANKS = 60, 10, 4
EVERY_FILE, MOST_ITEMS = 4, 40
"""Of the input one file in so many is read, and so many benchmark items."""


def small_input(work: Path, cache: Path, given: Path | None) -> dict[str, Any]:
    """Inputs of the recipe: part of the quickstart's, or all of what is given."""
    prepared = prepare(load_sources(ROOT / "configs/data/quickstart_sources.yaml"), cache, given)
    crawl = list(prepared.crawl)
    if given is None:
        folder = work / "crawl"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in sorted(Path(crawl[0]).rglob("*.warc.gz"))[::EVERY_FILE]:
            shutil.copy(path, folder)
        crawl = [str(folder)]
    items = work / "items.jsonl"
    lines = prepared.items.read_text().splitlines(keepends=True)
    items.write_text("".join(lines[:: max(1, len(lines) // MOST_ITEMS)]))
    return {"crawl": crawl, "items": str(items), "language_model": str(prepared.language_model)}


def make_recipe(path: Path, inputs: dict[str, Any], holds: Sequence[tuple[int, str]]) -> Path:
    """The quickstart's recipe with training that waits to be disturbed."""
    value = yaml.safe_load((ROOT / "configs/recipes/quickstart.yaml").read_text())
    train = value["jobs"]["train"]
    trainer = train["config"] | {"preset": "test", "num_steps": STEPS, "checkpoint_every_steps": SAVE_STEPS}
    trainer |= {
        "seq_len": 64,
        "microbatch_size": 2,
        "log_every_steps": 1,
        "device": "cpu",
        "heldout_every_steps": 20,
    }
    trainer["schedule"] = trainer["schedule"] | {"warmup_steps": 5}
    train["entry"] = "gang_faults_entry.run"
    train["config"] = {"trainer": trainer, "holds": [{"step": step, "where": where} for step, where in holds]}
    value["jobs"]["generate"]["config"]["max_new_tokens"] = 20  # as the short sequences allow
    train["resources"] = {"tasks": RANKS, "memory_bytes": 800_000_000}
    return write_yaml(path, value | {"inputs": inputs})


def rows_of(run: GangRun, quiet: GangRun, *, redone: int) -> list[dict[str, Any]]:
    """How equal a disturbed run is to the quiet one."""
    wanted, found = quiet.outputs(), run.outputs()
    weights = [name for name in wanted if name.startswith("train/checkpoint/")]
    same = [name for name, digest in wanted.items() if found.get(name) == digest]
    print(f"{run.name}: attempts of rank 0: {', '.join(run.attempts())}", flush=True)
    if run.code:
        print(run.said, flush=True)
    good = sum(name in same for name in weights)
    return [
        row(f"{run.name}: weights", good, f"of {len(weights)} files identical", exactly=max(1, len(weights))),
        row(f"{run.name}: all jobs", len(same), f"of {len(wanted)} files identical", exactly=len(wanted)),
        row(f"{run.name}: files too many", len(found) - len(wanted), "files", exactly=0),
        row(f"{run.name}: steps redone", run.steps_redone(STEPS), "steps", at_most=redone),
    ]


def quickstart(cluster: Cluster, work: Path, *, cache: Path, given: Path | None) -> list[dict[str, Any]]:
    """Rows of the recipe over MPI, killed once, and on SLURM, preempted twice and killed once."""
    inputs = small_input(work, cache, given)
    processes = ["--executor", "processes", "--workers", "2"]
    quiet = GangRun(name="recipe_quiet", folder=work / "recipe_quiet", executor=processes)
    quiet.go(make_recipe(work / "recipe_quiet.yaml", inputs, []))
    assert quiet.code == 0, quiet.said
    words = ["--executor", "mpi", "--workers", str(RANKS)]
    over_mpi = GangRun(name="recipe_over_mpi", folder=work / "recipe_over_mpi", executor=words)
    over_mpi.go(
        make_recipe(work / "recipe_over_mpi.yaml", inputs, [(30, "save")]), [Fault(step=30, act=kill_rank(2))]
    )
    rows = rows_of(over_mpi, quiet, redone=SAVE_STEPS)
    rows.append(row("recipe_over_mpi: launches of training", over_mpi.num_launches(), "launches", exactly=2))
    words = ["--executor", "slurm", "--site", str(site(work / "recipe.site.yaml"))]
    on_slurm = GangRun(
        name="recipe_on_slurm", folder=work / "recipe_on_slurm", executor=words, cluster=cluster
    )
    holds = [(15, "step"), (30, "save"), (50, "save")]
    faults = [Fault(step=15, act=preempt), Fault(step=30, act=preempt), Fault(step=50, act=kill_rank(2))]
    on_slurm.go(make_recipe(work / "recipe_on_slurm.yaml", inputs, holds), faults)
    rows += rows_of(on_slurm, quiet, redone=2 * SAVE_STEPS)
    return [*rows, *Starts(launches=2, requeues=1, either=1).rows(on_slurm)]
