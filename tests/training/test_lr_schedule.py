"""Learning rates at their joints, and that they depend on tokens alone."""

import itertools
import math

import pytest
from training_programs import schedule

from tokenmill.errors import ConfigError
from tokenmill.training.lr_schedule import Schedule, learning_rate

SHAPES = ("cosine", "linear", "wsd", "constant")


@pytest.mark.parametrize("shape", SHAPES)
def test_warm_up_is_linear_and_joins_the_peak(shape: str) -> None:
    subject = schedule(shape=shape)
    assert [learning_rate(subject, tokens) for tokens in (1, 50, 100)] == [0.01, 0.5, 1.0]


@pytest.mark.parametrize(
    ("shape", "last"), [("cosine", 0.1), ("linear", 0.1), ("wsd", 0.1), ("constant", 1.0)]
)
def test_the_end(shape: str, last: float) -> None:
    subject = schedule(shape=shape)
    assert learning_rate(subject, 1000) == pytest.approx(last, rel=1e-12)
    assert learning_rate(subject, 5000) == pytest.approx(last, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_never_rises_after_the_warm_up_and_never_jumps(shape: str) -> None:
    subject = schedule(shape=shape, decay_shape="linear")
    rates = [learning_rate(subject, tokens) for tokens in range(100, 1001)]
    drops = [before - after for before, after in itertools.pairwise(rates)]
    assert min(drops) >= 0
    assert max(drops) < 0.01


def test_shapes_in_the_middle() -> None:
    assert learning_rate(schedule(shape="cosine"), 550) == pytest.approx(0.55)
    assert learning_rate(schedule(shape="cosine"), 325) == pytest.approx(
        0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    )
    assert learning_rate(schedule(shape="linear"), 325) == pytest.approx(0.1 + 0.9 * 0.75)
    assert learning_rate(schedule(shape="wsd"), 800) == 1.0
    assert learning_rate(schedule(shape="wsd"), 850) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(schedule(shape="wsd", decay_shape="linear"), 850) == pytest.approx(0.1 + 0.9 * 0.75)
    assert learning_rate(schedule(shape="wsd", decay_fraction=0.5), 625) == pytest.approx(0.1 + 0.9 * 0.5)


def test_no_warm_up_and_nothing_but_warm_up() -> None:
    assert learning_rate(schedule(warmup_tokens=0), 0) == 1.0
    assert learning_rate(schedule(warmup_tokens=1000), 999) == pytest.approx(0.999)
    assert learning_rate(schedule(warmup_tokens=1000), 1000) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peak", 0.0),
        ("peak", float("nan")),
        ("warmup_tokens", 1001),
        ("warmup_tokens", -1),
        ("min_ratio", 1.5),
        ("decay_fraction", 0.0),
    ],
)
def test_parts_that_do_not_fit(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"where: {name}\n(.|\n)*got: {value}"):
        schedule(**{name: value})


def test_is_a_value() -> None:
    assert schedule() == Schedule(shape="cosine", peak=1.0, warmup_tokens=100, total_tokens=1000)
