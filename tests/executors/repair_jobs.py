"""Entries for tests of repair: what they write may depend on more than it should."""

from dataclasses import dataclass
from pathlib import Path

from entries import lines_of

from tokenmill import storage
from tokenmill.executors.job import Job, Recipe, Sharding, Task


@dataclass(frozen=True, kw_only=True)
class MarkConfig:
    """Values of ``mark``."""

    secret: str
    """Path of a file whose text enters the output, against the rule; empty: none."""


def mark(config: MarkConfig, task: Task) -> None:
    """Write every line, and in shard 0 the secret."""
    secret = Path(config.secret) if config.secret else None
    with task.output(f"lines/{task.shard_name}.jsonl") as file:
        if task.shard.index == 0 and secret and secret.exists():
            file.write(secret.read_bytes() + b"\n")
        for line in lines_of(task, "lines"):
            file.write(line.encode() + b"\n")
    task.counters.add("lines")


@dataclass(frozen=True, kw_only=True)
class GrowConfig:
    """Values of ``grow``."""


def grow(config: GrowConfig, task: Task) -> None:
    """A gang of one that trains: a checkpoint on the way, from which it goes on."""
    old = storage.join(task.progress_url, "step-000001", "weights.bin")
    if not storage.exists(old):
        with storage.create(old) as file:
            file.write("\n".join(lines_of(task, "lines")).encode())
    new = storage.join(task.progress_url, "step-000002", "weights.bin")
    if not storage.exists(new):
        with storage.create(new) as file:
            file.write(storage.read_bytes(old)[::-1])
    task.adopt(new, "checkpoint/weights.bin")
    with task.output("metrics/metrics.jsonl") as file:
        file.write(b"{}\n")


def make_chain(folder: Path, secret: Path) -> Recipe:
    """mark (6 shards) -> again (6 shards) -> count, and again -> grow, a gang of one."""
    total = sum(path.stat().st_size for path in folder.iterdir())
    cut = Sharding(target_bytes=-(-total // 6))
    return Recipe(
        name="chain",
        inputs={"text": (str(folder),)},
        jobs=(
            Job(
                name="mark",
                entry="repair_jobs.mark",
                config={"secret": str(secret)},
                inputs={"lines": "text"},
                sharding=cut,
            ),
            Job(
                name="again",
                entry="repair_jobs.mark",
                config={"secret": ""},
                inputs={"lines": "mark.lines"},
                sharding=cut,
            ),
            Job(
                name="count",
                entry="entries.count",
                inputs={"lines": "again.lines"},
                sharding=Sharding(mode="whole"),
            ),
            Job(name="grow", entry="repair_jobs.grow", inputs={"lines": "again.lines"}, layout="gang"),
        ),
    )
