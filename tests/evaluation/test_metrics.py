import math

import numpy as np
import pytest

from tokenmill.errors import InputError
from tokenmill.evaluation import metrics
from tokenmill.evaluation.metrics import ChoiceScores, Estimate


def scores(gold: int, logprobs: tuple[float, ...], lengths: tuple[int, ...]) -> ChoiceScores:
    return ChoiceScores(
        gold=gold,
        logprobs=logprobs,
        num_characters=lengths,
        num_bytes=tuple(2 * length for length in lengths),
        num_tokens=tuple(length // 2 for length in lengths),
    )


def test_normalisations_divide_by_lengths() -> None:
    item = scores(0, (-6.0, -4.0), (6, 2))
    assert item.normalised("raw") == (-6.0, -4.0)
    assert item.normalised("per_character") == (-1.0, -2.0)
    assert item.normalised("per_byte") == (-0.5, -1.0)
    assert item.normalised("per_token") == (-2.0, -4.0)
    assert [metrics.correct(item, norm) for norm in metrics.NORMALISATIONS] == [0, 1, 1, 1]


def test_per_token_lengths_differ_between_choices() -> None:
    # A peer pads continuations before it counts, so its per-token score is its raw score.
    item = ChoiceScores(
        gold=2,
        logprobs=(-16.46, -18.64, -20.89, -26.07),
        num_characters=(1,) * 4,
        num_bytes=(1,) * 4,
        num_tokens=(3, 3, 4, 4),
    )
    assert metrics.correct(item, "raw") == 0
    assert metrics.correct(item, "per_token") == 1


def test_of_equal_scores_the_first_wins() -> None:
    assert metrics.correct(scores(0, (-1.0, -1.0), (2, 2)), "raw") == 1
    assert metrics.correct(scores(1, (-1.0, -1.0), (2, 2)), "raw") == 0


def test_an_empty_choice_divides_by_one() -> None:
    assert scores(0, (-1.0, -2.0), (0, 2)).normalised("per_character") == (-1.0, -1.0)


def test_soft_score_is_a_softmax() -> None:
    item = scores(1, (-800.0, -801.0, -802.0), (2, 2, 2))
    values = np.exp([0, -1, -2])
    assert metrics.soft_score(item, "raw") == pytest.approx(values[1] / values.sum(), abs=1e-15)


def test_mean_has_the_published_standard_error() -> None:
    estimate = metrics.mean([1.0] * 102 + [0.0] * 98)
    assert estimate.value == 0.51
    assert estimate.stderr == pytest.approx(0.035436970729343674, abs=1e-15)
    assert metrics.mean([0.25]) == Estimate(value=0.25, stderr=None)


def test_ratio_with_equal_denominators_is_a_mean() -> None:
    values = [0.5, 2.0, 1.25, 7.0]
    ratio, mean = metrics.ratio([3 * value for value in values], [3] * 4), metrics.mean(values)
    assert ratio.value == pytest.approx(mean.value)
    assert ratio.stderr == pytest.approx(mean.stderr)
    assert metrics.ratio([1.0], [4]) == Estimate(value=0.25, stderr=None)


def test_the_error_of_a_ratio_is_the_spread_of_repeated_samples() -> None:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        sizes = draw.integers(5, 50, size=200)
        found.append(metrics.ratio(list(sizes * 1.5 + draw.normal(0, 4, size=200)), list(sizes)))
    spread = np.std([estimate.value for estimate in found])
    assert np.mean([estimate.stderr for estimate in found]) == pytest.approx(spread, rel=0.05)


def test_random_baseline_of_items_with_different_numbers_of_choices() -> None:
    items = [scores(0, (0.0,) * 2, (1,) * 2), scores(0, (0.0,) * 4, (1,) * 4)]
    chance, spread = metrics.random_baseline(items)
    assert chance == 0.375
    assert spread == pytest.approx(math.sqrt(0.25 + 0.1875) / 2)
    assert Estimate(value=0.5, stderr=None).sigma_above(chance, spread) == pytest.approx(0.125 / spread)


def test_bits_per_byte_and_perplexity_of_an_even_guess() -> None:
    # Every one of 256 bytes is equally likely: 8 bits per byte; a token of 2 bytes has perplexity 65536.
    logprobs = [-math.log(256) * num for num in (4, 10)]
    assert metrics.bits_per_byte(logprobs, [4, 10]).value == pytest.approx(8)
    assert metrics.bits_per_byte(logprobs, [4, 10]).stderr == pytest.approx(0, abs=1e-12)
    assert metrics.perplexity(logprobs, [2, 5]).value == pytest.approx(65536)


def test_perplexity_error_by_propagation() -> None:
    logprobs, tokens = [-2.0, -9.0, -4.0], [2, 4, 3]
    nats = metrics.ratio([2.0, 9.0, 4.0], tokens)
    assert nats.stderr is not None
    assert metrics.perplexity(logprobs, tokens).stderr == pytest.approx(math.exp(nats.value) * nats.stderr)


def test_a_perplexity_beyond_numbers_is_told() -> None:
    with pytest.raises(InputError, match="perplexity is too large"):
        metrics.perplexity([-1e6], [2])


def test_mean_of_estimates() -> None:
    found = metrics.mean_of([Estimate(value=1.0, stderr=0.3), Estimate(value=2.0, stderr=0.4)])
    assert found == Estimate(value=1.5, stderr=0.25)
    assert metrics.mean_of([Estimate(value=1.0, stderr=0.3), Estimate(value=2.0, stderr=None)]).stderr is None
