"""Requests of a job whose folder lies on an object store, per shard: for ``tools/bench/ledger --s3``."""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from s3_servers import environment, serve

from tokenmill import storage
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.job import Job, Recipe, Resources, Sharding, Task
from tokenmill.executors.local import LocalExecutor

SIZES = (100, 300, 1000)
KINDS = ("put", "list", "head", "get", "delete")
MOST_GROWTH = 1.1
"""Most requests of a shard at the largest size over those at the smallest."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """There is nothing to choose."""


def copy(config: Config, task: Task) -> None:
    """The least that a shard does: one output."""
    with task.output(f"lines/{task.shard_name}.txt") as file:
        file.write(b"done")


def requests_of(num_shards: int, base: Path, bucket: str) -> dict[str, float]:
    """Requests per shard by kind, of a whole run: driver, plan, tasks and manifest."""
    folder = base / str(num_shards)
    folder.mkdir()
    (folder / "lines.jsonl").write_bytes((b"x" * 9 + b"\n") * num_shards)
    sharding = Sharding(target_bytes=10)
    # heartbeats come by the clock and not by the shard: they are kept out of the way
    resources = Resources(lease_seconds=36_000.0)
    inputs = {"lines": "lines"}
    job = Job(name="job", entry="ledger_s3.copy", inputs=inputs, sharding=sharding, resources=resources)
    recipe = Recipe(name="bench", inputs={"lines": (str(folder),)}, jobs=(job,))
    before = storage.requests()
    [status] = run_recipe(recipe, f"s3://{bucket}/run-{num_shards}", LocalExecutor())
    assert status.done == num_shards, status
    after = storage.requests()
    return {kind: (after.get(kind, 0) - before.get(kind, 0)) / num_shards for kind in KINDS}


def measure() -> dict[int, dict[str, float]]:
    """Requests per shard of every size, on SeaweedFS."""
    with tempfile.TemporaryDirectory(prefix="tokenmill-bench-") as name:
        base = Path(name)
        with serve("seaweed", base / "seaweed") as server:
            os.environ.update(environment(server.endpoint))
            fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bench")
            return {size: requests_of(size, base, "bench") for size in SIZES}


def judge(found: dict[int, dict[str, float]]) -> list[dict[str, Any]]:
    """Rows: requests of a shard at the largest size beside the smallest."""
    small, large = min(found), max(found)
    rows = []
    for kind in ("put", "list", "all"):
        value, peer = (
            sum(found[size].values()) if kind == "all" else found[size][kind] for size in (large, small)
        )
        row = {"work": f"{kind} requests of a shard on S3, {large} shards beside {small}", "value": value}
        ratio = value / peer if peer else 1.0
        row |= {"unit": "requests", "peer": peer, "ratio": round(ratio, 3), "at_most": MOST_GROWTH}
        rows.append(row | {"ok": ratio <= MOST_GROWTH})
    return rows


def tell(found: dict[int, dict[str, float]]) -> None:
    """A table for people."""
    print(f"{'shards':>8} " + " ".join(f"{kind:>7}" for kind in KINDS) + "   requests per shard on S3")
    for size, counts in found.items():
        print(f"{size:8} " + " ".join(f"{counts[kind]:7.2f}" for kind in KINDS))
