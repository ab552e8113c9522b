"""Entry for tools/bench/simulation: shards that sleep. Workers import this file by name."""

import math
import random
import time
from dataclasses import dataclass

from tokenmill import storage
from tokenmill.executors.job import Task


@dataclass(frozen=True, kw_only=True)
class SleepConfig:
    """Values of ``sleep``."""

    mean_seconds: float
    """Mean over shards, of a log-normal distribution."""
    sigma: float
    """Standard deviation of the logarithm."""
    seed: int
    """Fixes how long each shard takes."""
    slow_shard: int = -1
    """Shard of which the first attempt is slow; none if negative."""
    slow_factor: float = 1.0
    """How much longer that one takes."""


def sleep(config: SleepConfig, task: Task) -> None:
    """Sleep as long as the shard takes."""
    draw = random.Random(f"{config.seed}/{task.shard.index}").gauss(0.0, 1.0)
    seconds = config.mean_seconds * math.exp(config.sigma * draw - config.sigma**2 / 2)
    if task.shard.index == config.slow_shard:
        mark = storage.join(task.job_url, "slow.json")
        seconds *= config.slow_factor if storage.publish_once(mark, b"{}") else 1.0
    time.sleep(seconds)
