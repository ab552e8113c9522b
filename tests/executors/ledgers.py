"""Runs made by hand: records and files without any task that made them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenmill import storage
from tokenmill.executors.graph import lay_out, write_run
from tokenmill.executors.job import Job, Recipe, Resources, Sharding
from tokenmill.executors.launch import Launch, record_intent
from tokenmill.executors.ledger import JobFolder


def make_run(
    run: Path, shards: Mapping[str, int], after: Mapping[str, tuple[str, ...]]
) -> dict[str, JobFolder]:
    """Folders of jobs that have so many shards; nothing is planned yet."""
    jobs = tuple(
        Job(
            name=name,
            entry=f"entries.{name}",
            sharding=Sharding(mode="count", count=count),
            resources=Resources(max_attempts=2),
            after=after.get(name, ()),
        )
        for name, count in shards.items()
    )
    recipe = Recipe(name="by hand", inputs={}, jobs=jobs)
    nodes = lay_out(recipe, str(run))
    write_run(recipe, str(run), nodes)
    return {name: node.folder for name, node in nodes.items()}


def launch(folder: JobFolder, token: str, executor: str = "local", tasks: int = 1) -> Launch:
    """A recorded launch."""
    made = Launch(token=token, folder=folder, num_tasks=tasks)
    record_intent(made, executor)
    return made


def attempt(folder: JobFolder, shard: int, name: str, outcome: str, **values: Any) -> dict[str, Any]:
    """A recorded attempt; ``name`` begins with its launch."""
    record = {
        "shard": shard,
        "attempt": name,
        "rank": 0,
        "launch": name.partition("-")[0],
        "host": "n7",
        "pid": 4,
        "started": 1_700_000_000.0,
        "outcome": outcome,
    }
    if outcome != "running":
        record |= {"error": "", "ended": 1_700_000_010.0, "seconds": 10.0, "max_rss_bytes": 1}
    record |= values
    folder.write_attempt(record)
    return record


def write(folder: JobFolder, path: str, data: bytes = b"data") -> str:
    """A file of the job; returns its path below the folder."""
    with storage.create(folder.at(path)) as file:
        file.write(data)
    return path


def commit(
    folder: JobFolder, shard: int, name: str, paths: tuple[str, ...] = (), seconds: float = 10.0
) -> None:
    """A commit record that names files that are there."""
    outputs = [
        {
            "name": f"port/{path}",
            "path": path,
            "bytes": Path(folder.at(path)).stat().st_size,
            "sha256": hashlib.sha256(Path(folder.at(path)).read_bytes()).hexdigest(),
        }
        for path in paths
    ]
    record = {
        "shard": shard,
        "attempt": name,
        "identity": folder.record["identity"],
        "inputs": folder.plan_inputs,
        "host": "n7",
        "started": 1_700_000_000.0,
        "ended": 1_700_000_000.0 + seconds,
        "seconds": seconds,
        "cpu_seconds": seconds,
        "outputs": outputs,
        "counters": {},
        "figures": [],
    }
    assert folder.commit(record)
