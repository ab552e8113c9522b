"""The order of samples: exact shares, exact permutations, and nothing but the index decides."""

import itertools
import random
from fractions import Fraction

import pytest

from tokenmill.errors import ConfigError, InputError
from tokenmill.tokens.mixture import NUM_SLOTS, Mixture, permute, quotas, slot_table


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 100, 1023, 1024, 1025])
@pytest.mark.parametrize("key", [0, 77, (1 << 64) - 1])
def test_permutation_is_exact(size: int, key: int) -> None:
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


def test_permutation_depends_on_the_key_and_moves_things() -> None:
    orders = [[permute(index, 1000, key) for index in range(1000)] for key in range(3)]
    assert orders[0] != orders[1] != orders[2]
    for order in orders:
        assert sum(index == place for index, place in enumerate(order)) < 20
        # neighbours do not stay neighbours: mean distance of a random order is a third of the size
        distances = [abs(a - b) for a, b in itertools.pairwise(order)]
        assert 250 < sum(distances) / len(distances) < 420


@pytest.mark.parametrize("seed", range(8))
def test_every_prefix_is_within_one_sample_of_its_share(seed: int) -> None:
    draw = random.Random(seed)
    weights = {f"source{index}": draw.random() ** 3 + 1e-2 for index in range(draw.randint(2, 7))}
    quota = quotas(weights, 512)
    taken = dict.fromkeys(quota, 0)
    for slot, name in enumerate(slot_table(quota)):
        taken[name] += 1
        for other, count in taken.items():
            assert abs(count - Fraction(quota[other] * (slot + 1), 512)) < 1
    assert taken == quota


def test_quotas_round_to_the_nearest_slots() -> None:
    quota = quotas({"a": 0.7, "b": 0.2, "c": 0.1})
    assert sum(quota.values()) == NUM_SLOTS
    assert all(
        abs(quota[name] - NUM_SLOTS * weight) < 1 for name, weight in zip("abc", (0.7, 0.2, 0.1), strict=True)
    )


def test_each_epoch_holds_each_sample_once_in_a_new_order() -> None:
    mixture = Mixture(sizes={"a": 50, "b": 7}, weights={"a": 3, "b": 1}, seed=1)
    places = [mixture.locate(index) for index in range(5000)]
    by_epoch: dict[tuple[str, int], list[int]] = {}
    for place in places:
        by_epoch.setdefault((place.source, place.epoch), []).append(place.position)
    sizes = {"a": 50, "b": 7}
    whole = {key: order for key, order in by_epoch.items() if len(order) == sizes[key[0]]}
    assert len(whole) > 100
    assert all(sorted(order) == list(range(sizes[source])) for (source, _), order in whole.items())
    assert by_epoch["a", 0] != by_epoch["a", 1]


def test_the_order_does_not_depend_on_the_order_of_names_or_on_history() -> None:
    one = Mixture(sizes={"a": 50, "b": 7}, weights={"b": 1, "a": 3}, seed=1)
    two = Mixture(sizes={"b": 7, "a": 50}, weights={"a": 3, "b": 1}, seed=1)
    backwards = [two.locate(index) for index in reversed(range(9000))]
    assert [one.locate(index) for index in range(9000)] == backwards[::-1]


def test_the_seed_changes_the_order() -> None:
    orders = [
        [
            Mixture(sizes={"a": 100}, weights={"a": 1}, seed=seed).locate(index).position
            for index in range(100)
        ]
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_weight(weight: float) -> None:
    with pytest.raises(ConfigError, match="not positive"):
        quotas({"a": 1.0, "b": weight})


def test_weight_too_small_for_a_slot() -> None:
    with pytest.raises(ConfigError, match="too small"):
        quotas({"a": 1.0, "b": 1e-9})


def test_weights_for_other_sources() -> None:
    with pytest.raises(ConfigError, match="do not fit the sources"):
        Mixture(sizes={"a": 1}, weights={"b": 1}, seed=0)


def test_empty_source() -> None:
    with pytest.raises(InputError, match="no samples"):
        Mixture(sizes={"a": 0}, weights={"a": 1}, seed=0)
