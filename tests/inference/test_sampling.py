import numpy as np
import pytest

from tokenmill.errors import ConfigError
from tokenmill.inference.sampling import SamplingConfig, choose, distribution, uniform

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2]))


def test_temperature_zero_takes_the_first_of_the_most_probable() -> None:
    logits = np.array([1.0, 3.0, 3.0])
    for number in (0.0, 0.5, 0.999):
        assert choose(logits, SamplingConfig(temperature=0), number) == 1


def test_temperature_is_the_softmax_of_divided_logits() -> None:
    got = distribution(LOGITS, SamplingConfig(temperature=2.0))
    expected = np.sqrt(np.exp(LOGITS))
    np.testing.assert_allclose(got, expected / expected.sum(), atol=1e-15)


@pytest.mark.parametrize(("top_k", "kept"), [(1, [1]), (2, [1, 3]), (4, [0, 1, 3, 4]), (9, [0, 1, 2, 3, 4])])
def test_top_k_keeps_exactly_k(top_k: int, kept: list[int]) -> None:
    got = distribution(LOGITS, SamplingConfig(temperature=1.0, top_k=top_k))
    assert np.flatnonzero(got).tolist() == kept
    assert got.sum() == pytest.approx(1)


def test_top_k_of_equal_logits_keeps_the_lower_ids() -> None:
    got = distribution(np.zeros(6), SamplingConfig(temperature=1.0, top_k=2))
    assert got.tolist() == [0.5, 0.5, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, [1]), (0.41, [1, 3]), (0.66, [1, 3, 4]), (0.9999, [0, 1, 2, 3, 4])]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, kept: list[int]) -> None:
    got = distribution(LOGITS, SamplingConfig(temperature=1.0, top_p=top_p))
    assert np.flatnonzero(got).tolist() == kept
    assert got.sum() == pytest.approx(1)


def test_top_p_counts_what_top_k_left() -> None:
    # After top-k the two kept tokens have 0.615 and 0.385, so 0.6 is reached by the first alone.
    got = distribution(LOGITS, SamplingConfig(temperature=1.0, top_k=2, top_p=0.6))
    assert np.flatnonzero(got).tolist() == [1]


def test_draws_follow_the_distribution() -> None:
    config = SamplingConfig(temperature=1.0)
    numbers = (np.arange(20_000) + 0.5) / 20_000
    counts = np.bincount([choose(LOGITS, config, number) for number in numbers], minlength=5)
    np.testing.assert_allclose(counts / 20_000, np.exp(LOGITS), atol=1e-4)


def test_the_last_uniform_number_is_in_range() -> None:
    assert choose(LOGITS, SamplingConfig(temperature=1.0), np.nextafter(1.0, 0)) == 4


def test_uniform_numbers_are_even_and_independent_of_each_other() -> None:
    numbers = np.array([uniform(3, str(name), step) for name in range(50) for step in range(50)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.03
    assert len(set(numbers)) == 2500
    assert uniform(1, "0", 0) != uniform(2, "0", 0)
    assert uniform(0, "1", 23) != uniform(0, "12", 3)


def test_uniform_is_pinned() -> None:
    assert uniform(0, "prompt/0", 5) == 0.15707099443009265


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("temperature", SamplingConfig(temperature=-1)),
        ("top_k", SamplingConfig(top_k=-2)),
        ("top_p", SamplingConfig(top_p=0)),
        ("top_p", SamplingConfig(top_p=1.5)),
        ("temperature", SamplingConfig(temperature=float("nan"))),
    ],
)
def test_values_without_meaning_are_refused(name: str, config: SamplingConfig) -> None:
    with pytest.raises(ConfigError, match=f"where: {name}"):
        config.check()
