"""How the tests of this folder start the trainer's entry and look at what it leaves."""

import json
from pathlib import Path
from typing import Any

from ranks import pool, succeeded
from training_programs import CONFIG, Outcome, train

from tokenmill import checkpoint
from tokenmill.training.trainer import TrainerConfig

Inputs = dict[str, list[str]]


def one(folder: Path, inputs: Inputs, config: TrainerConfig = CONFIG, *, stop_after: int = 0) -> Outcome:
    """Run as a gang of one, in this process."""
    stops = {0: stop_after} if stop_after else {}
    return train(0, str(folder), inputs, config, "a0", stops, 1)


def two(
    folder: Path, inputs: Inputs, config: TrainerConfig = CONFIG, *, attempt: str = "a0", **stops: int
) -> list[Outcome]:
    """Run as a gang of two processes; ``rank1=3`` tells rank 1 to stop after step 3."""
    stop_after = {int(name.removeprefix("rank")): step for name, step in stops.items()}
    results: list[Outcome] = succeeded(
        pool(2).each(train, str(folder), inputs, config, attempt, stop_after, 2)
    )
    return results


def files(folder: Path, step: int) -> dict[str, bytes]:
    found = (folder / "progress" / f"step-{step:06d}").iterdir()
    return {path.name: path.read_bytes() for path in found}


def metrics(outcome: Outcome, folder: Path) -> list[dict[str, Any]]:
    path = next(item["path"] for item in outcome.outputs if item["name"] == "metrics/metrics.jsonl")
    return [json.loads(line) for line in (folder / path).read_text().splitlines()]


def steps(folder: Path) -> list[int]:
    return checkpoint.list_steps(str(folder / "progress"))
