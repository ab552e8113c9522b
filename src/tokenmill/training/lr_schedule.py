"""Learning rates: pure functions of consumed tokens.

    warm-up: 0 → peak  │  cosine or linear: peak → floor                         (one piece)
                       │  wsd: peak … peak, then linear or 1-√ decay → floor     (two pieces)

A function of tokens, not steps: another batch size or another number of ranks does not move it.
"""

import math
from dataclasses import dataclass
from typing import Literal

from tokenmill.errors import ConfigError

Shape = Literal["cosine", "linear", "wsd", "constant"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning rate over a run.

    Raises:
        ConfigError: the parts do not fit into the run.
    """

    shape: Shape
    """cosine (arXiv:1608.03983), linear, wsd: warm-up, stable, decay (arXiv:2404.06395), or constant."""
    peak: float
    """Rate after the warm-up."""
    warmup_tokens: int
    """Tokens of linear warm-up."""
    total_tokens: int
    """Tokens of the whole run."""
    min_ratio: float = 0.1
    """Rate at the end, as a share of the peak; a constant schedule has no end."""
    decay_fraction: float = 0.2
    """Last part of the run in which wsd decays."""
    decay_shape: Literal["linear", "sqrt"] = "sqrt"
    """How wsd decays: linear, or 1-√ (arXiv:2405.18392, section 3)."""

    def __post_init__(self) -> None:
        checks = {
            "peak": self.peak > 0,
            "warmup_tokens": 0 <= self.warmup_tokens <= self.total_tokens,
            "min_ratio": 0 <= self.min_ratio <= 1,
            "decay_fraction": 0 < self.decay_fraction <= 1,
        }
        for name, holds in checks.items():
            if not holds:
                raise ConfigError(
                    "a learning rate schedule does not fit its run",
                    where=name,
                    expected=f"a value that fits total_tokens={self.total_tokens}",
                    got=str(getattr(self, name)),
                )


def learning_rate(schedule: Schedule, consumed_tokens: int) -> float:
    """Learning rate of the step that ends when so many tokens are consumed.

    Args:
        schedule: the schedule.
        consumed_tokens: tokens read so far, those of this step included.
    """
    if consumed_tokens < schedule.warmup_tokens:
        return schedule.peak * consumed_tokens / schedule.warmup_tokens
    return schedule.peak * _ratio(schedule, min(consumed_tokens, schedule.total_tokens))


def _ratio(schedule: Schedule, tokens: int) -> float:
    if schedule.shape == "constant":
        return 1.0
    start = schedule.warmup_tokens
    if schedule.shape == "wsd":
        start = max(start, schedule.total_tokens - round(schedule.decay_fraction * schedule.total_tokens))
    length = schedule.total_tokens - start
    done = 1.0 if length == 0 else max(0.0, (tokens - start) / length)
    if schedule.shape == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * done))
    elif schedule.shape == "wsd" and schedule.decay_shape == "sqrt":
        left = 1 - math.sqrt(done)
    else:
        left = 1 - done
    return schedule.min_ratio + (1 - schedule.min_ratio) * left
