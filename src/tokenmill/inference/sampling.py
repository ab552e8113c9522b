"""Choosing the next token: greedy, temperature, top-k and top-p.

The draw is the inverse of the cumulative distribution at a uniform number that depends on the seed, the
request and the step alone, computed in float64 on the CPU. So a text does not change with the device's
generator, with the batch it was generated in, or with the number of workers.

Top-p keeps the smallest set of most probable tokens whose probability reaches p (Holtzman et al. 2020,
"The Curious Case of Neural Text Degeneration", arXiv 1904.09751, section 3.1). Order of the steps:
temperature, then top-k, then top-p, as in transformers.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenmill.errors import ConfigError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the most probable token."""
    top_k: int = 0
    """Number of most probable tokens kept; 0 keeps all."""
    top_p: float = 1.0
    """Probability that the kept tokens must reach, in (0, 1]."""
    seed: int = 0
    """Seed of the draws."""

    def check(self) -> None:
        """Refuse values that have no meaning.

        Raises:
            ConfigError: a value is out of its range.
        """
        ranges = [
            ("temperature", "0 or more", self.temperature, self.temperature >= 0),
            ("top_k", "0 or more", self.top_k, self.top_k >= 0),
            ("top_p", "more than 0, at most 1", self.top_p, 0 < self.top_p <= 1),
        ]
        for name, expected, got, good in ranges:
            if not good:
                raise ConfigError(
                    "a sampling value is out of range", where=name, expected=expected, got=str(got)
                )


def uniform(seed: int, request: str, step: int) -> float:
    """Uniform number in [0, 1), a pure function of its arguments.

    Args:
        seed: seed of the run.
        request: name of the text being generated.
        step: number of tokens generated before.

    >>> uniform(0, "a", 0) == uniform(0, "a", 0) != uniform(0, "a", 1)
    True
    """
    digest = hashlib.sha256(f"{seed}\0{request}\0{step}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def distribution(logits: Array, config: SamplingConfig) -> Array:
    """Probabilities of the next token under temperature, top-k and top-p.

    Args:
        logits: unnormalised log-probabilities [V].
        config: how to choose.

    Returns:
        probabilities [V], float64; of tokens with equal logits the lower id comes first.

    >>> config = SamplingConfig(temperature=1.0, top_k=2)
    >>> distribution(np.log([0.1, 0.3, 0.6]), config).round(3).tolist()
    [0.0, 0.333, 0.667]
    """
    logits = logits.astype(np.float64)
    probabilities = np.zeros_like(logits)
    order = np.argsort(-logits, kind="stable")
    if config.temperature == 0:
        probabilities[order[0]] = 1.0
        return probabilities
    if config.top_k:
        order = order[: config.top_k]
    kept = np.exp((logits[order] - logits[order[0]]) / config.temperature)
    kept /= kept.sum()
    if config.top_p < 1:
        # A token stays while the ones before it have not reached p; so the first always stays.
        stays = np.cumsum(kept) - kept < config.top_p
        order, kept = order[stays], kept[stays] / kept[stays].sum()
    probabilities[order] = kept
    return probabilities


def choose(logits: Array, config: SamplingConfig, uniform_number: float) -> int:
    """Id of the next token.

    Args:
        logits: unnormalised log-probabilities [V].
        config: how to choose.
        uniform_number: in [0, 1); see ``uniform``.
    """
    probabilities = distribution(logits, config)
    possible = np.flatnonzero(probabilities)
    reached = np.cumsum(probabilities[possible])
    place = int(np.searchsorted(reached, uniform_number * reached[-1], side="right"))
    return int(possible[min(place, len(possible) - 1)])
