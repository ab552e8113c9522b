"""Numbers of an evaluation: accuracies, soft scores, bits per byte, and how sure they are.

A choice's log-probability is compared raw or divided by its characters, UTF-8 bytes or tokens; a leading
space counts neither as character nor as byte. Of equal scores the first choice wins. Sums are exactly
rounded (``math.fsum``), so that no number depends on the order of items or on sharding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tokenmill.errors import InputError

NORMALISATIONS = ("raw", "per_character", "per_byte", "per_token")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and how sure it is."""

    value: float
    """The estimate."""
    stderr: float | None
    """Standard error; None where one observation says nothing about spread."""

    def sigma_above(self, baseline: float, spread: float) -> float:
        """Distance to a baseline in units of the baseline's own spread."""
        return (self.value - baseline) / spread


@dataclass(frozen=True, kw_only=True)
class ChoiceScores:
    """Log-probabilities of the choices of one item."""

    gold: int
    """Index of the right choice."""
    logprobs: tuple[float, ...]
    """Log-probability of each choice given the query, in nats."""
    num_characters: tuple[int, ...]
    """Characters of each choice, a leading space not counted."""
    num_bytes: tuple[int, ...]
    """UTF-8 bytes of each choice, a leading space not counted."""
    num_tokens: tuple[int, ...]
    """Scored tokens of each choice."""

    def normalised(self, normalisation: str) -> tuple[float, ...]:
        """Scores of the choices under one of ``NORMALISATIONS``."""
        lengths = {
            "raw": (1,) * len(self.logprobs),
            "per_character": self.num_characters,
            "per_byte": self.num_bytes,
            "per_token": self.num_tokens,
        }[normalisation]
        return tuple(logprob / max(length, 1) for logprob, length in zip(self.logprobs, lengths, strict=True))


def correct(scores: ChoiceScores, normalisation: str) -> float:
    """1 if the best choice is the right one, else 0.

    >>> scores = ChoiceScores(
    ...     gold=1, logprobs=(-4.0, -6.0), num_characters=(4, 12), num_bytes=(4, 12), num_tokens=(1, 3)
    ... )
    >>> correct(scores, "raw"), correct(scores, "per_character")
    (0.0, 1.0)
    """
    values = scores.normalised(normalisation)
    return float(values.index(max(values)) == scores.gold)


def soft_score(scores: ChoiceScores, normalisation: str) -> float:
    """Probability of the right choice when one of the choices must be taken.

    >>> scores = ChoiceScores(
    ...     gold=0, logprobs=(0.0, 0.0), num_characters=(1, 1), num_bytes=(1, 1), num_tokens=(1, 1)
    ... )
    >>> soft_score(scores, "raw")
    0.5
    """
    values = scores.normalised(normalisation)
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return weights[scores.gold] / math.fsum(weights)


def mean(values: Sequence[float]) -> Estimate:
    """Mean with the standard error of the sample mean.

    >>> mean([0.0, 4.0])
    Estimate(value=2.0, stderr=2.0)
    """
    num = len(values)
    average = math.fsum(values) / num
    if num < 2:
        return Estimate(value=average, stderr=None)
    squares = math.fsum((value - average) ** 2 for value in values)
    return Estimate(value=average, stderr=math.sqrt(squares / (num - 1) / num))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates, each with the same weight."""
    num = len(estimates)
    errors = [estimate.stderr for estimate in estimates if estimate.stderr is not None]
    stderr = math.hypot(*errors) / num if len(errors) == num else None
    return Estimate(value=math.fsum(estimate.value for estimate in estimates) / num, stderr=stderr)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Ratio of two sums over the same units, with the standard error of the ratio estimator.

    The error is linearised (delta method): sqrt(n / (n - 1) * sum (x - r y)^2) / sum y, after
    Cochran, "Sampling Techniques", 3rd edition, section 6.4.
    """
    num, total = len(numerators), math.fsum(denominators)
    value = math.fsum(numerators) / total
    if num < 2:
        return Estimate(value=value, stderr=None)
    residuals = math.fsum((x - value * y) ** 2 for x, y in zip(numerators, denominators, strict=True))
    return Estimate(value=value, stderr=math.sqrt(num / (num - 1) * residuals) / total)


def random_baseline(scores: Sequence[ChoiceScores]) -> tuple[float, float]:
    """Expected accuracy of guessing, and the standard deviation of a guesser's accuracy."""
    chances = [1 / len(item.logprobs) for item in scores]
    variance = math.fsum(chance * (1 - chance) for chance in chances)
    return math.fsum(chances) / len(chances), math.sqrt(variance) / len(chances)


def bits_per_byte(logprobs: Sequence[float], num_bytes: Sequence[int]) -> Estimate:
    """Cost of coding texts with the model, in bits per UTF-8 byte.

    Args:
        logprobs: log-probability of each text in nats.
        num_bytes: UTF-8 bytes of each text.
    """
    return ratio([-logprob / math.log(2) for logprob in logprobs], list(num_bytes))


def perplexity(logprobs: Sequence[float], num_tokens: Sequence[int]) -> Estimate:
    """Exponential of the mean cost of a token in nats; depends on the tokenizer, bits per byte do not.

    Raises:
        InputError: it is too large for a number.
    """
    nats = ratio([-logprob for logprob in logprobs], list(num_tokens))
    try:
        value = math.exp(nats.value)
    except OverflowError as error:
        raise InputError(
            "the perplexity is too large for a number",
            got=f"exp({nats.value:.0f})",
            fix="use an earlier checkpoint: training has diverged",
        ) from error
    return Estimate(value=value, stderr=None if nats.stderr is None else value * nats.stderr)
