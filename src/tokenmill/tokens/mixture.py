"""Which sample comes when: a pure function of the sample's index.

    index ──► slot table ──► source and its n-th turn ──► epoch and place ──► permutation ──► position

No state and no memory beyond the slot table, so any rank of any layout can ask for any sample, and resuming
needs one number.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from tokenmill.errors import ConfigError, InputError

NUM_SLOTS = 4096
"""Slots after which the table repeats; weights are rounded to multiples of 1/NUM_SLOTS."""

_ROUNDS = 4  # Luby and Rackoff 1988: four rounds make a strong pseudo-random permutation
_MASK = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a sample lies."""

    source: str
    """Name of the source."""
    epoch: int
    """Times the source has been read through before."""
    position: int
    """Sample of the source, from 0."""


def quotas(weights: Mapping[str, float], num_slots: int = NUM_SLOTS) -> dict[str, int]:
    """Slots per source, by largest remainder.

    >>> quotas({"a": 1, "b": 1, "c": 1}, 4)
    {'a': 2, 'b': 1, 'c': 1}

    Raises:
        ConfigError: a weight is not positive, or too small for a single slot.
    """
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise ConfigError("a mixture weight is not positive", where=name, got=str(weight))
    total = sum(Fraction(weight) for weight in weights.values())
    exact = {name: Fraction(weight) * num_slots / total for name, weight in weights.items()}
    result = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: result[name] - exact[name])
    for name in by_remainder[: num_slots - sum(result.values())]:
        result[name] += 1
    for name, quota in result.items():
        if quota == 0:
            raise ConfigError(
                "a mixture weight is too small",
                where=name,
                expected=f"at least 1/{num_slots} of the sum",
                got=str(weights[name]),
            )
    return result


def slot_table(quota: Mapping[str, int]) -> list[str]:
    """Order of sources in which every prefix is within one sample of the exact shares.

    Of the sources that may take the slot the one whose deadline is nearest takes it: Tijdeman, The chairman
    assignment problem, Discrete Mathematics 32 (1980).

    Args:
        quota: slots per source.

    Returns:
        Names, as many as there are slots.
    """
    names, num_slots = list(quota), sum(quota.values())
    if len(names) == 1:
        return names * num_slots
    doubled = 2 * len(names) - 2
    taken = dict.fromkeys(names, 0)
    table = []
    for slot in range(num_slots):
        # slots · doubled times the source's lag behind its share, so that all numbers are integers
        lag = {name: doubled * (quota[name] * (slot + 1) - taken[name] * num_slots) for name in names}
        open_names = [name for name in names if lag[name] >= num_slots]
        chosen = min(
            open_names, key=lambda name: Fraction((doubled - 1) * num_slots - lag[name], quota[name])
        )
        taken[chosen] += 1
        table.append(chosen)
    return table


def permute(index: int, size: int, key: int) -> int:
    """A permutation of 0 … size-1 without memory: a Feistel network, walked until it falls below ``size``.

    Paper: Black and Rogaway, Ciphers with Arbitrary Finite Domains (2002), section 3.

    Args:
        index: 0 … size-1.
        size: number of items.
        key: 64 bits that choose the permutation.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for round_number in range(_ROUNDS):
            left, right = right, left ^ (_mix(right ^ key ^ (round_number << 56)) & low)
        index = left << half | right
        if index < size:
            return index


def _mix(value: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014, figure 16)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


class Mixture:
    """A weighted mixture of sources, each of them shuffled anew in every epoch.

    Args:
        sizes: samples per source.
        weights: share per source; they need not sum to one.
        seed: seed of the run.

    Raises:
        ConfigError: the weights do not fit the sources.
        InputError: a source is empty.
    """

    def __init__(self, *, sizes: Mapping[str, int], weights: Mapping[str, float], seed: int) -> None:
        if set(sizes) != set(weights):
            raise ConfigError(
                "mixture weights do not fit the sources",
                expected=", ".join(sorted(sizes)),
                got=", ".join(sorted(weights)),
            )
        for name, size in sizes.items():
            if size < 1:
                raise InputError(
                    "a source of the mixture has no samples", where=name, fix="give it more data"
                )
        self._sizes, self._seed = dict(sizes), seed
        self._quota = quotas({name: weights[name] for name in sorted(weights)})
        self._table = slot_table(self._quota)
        turns = dict.fromkeys(self._quota, 0)
        self._turns = []
        for name in self._table:
            self._turns.append(turns[name])
            turns[name] += 1

    def locate(self, index: int) -> Location:
        """Where the sample with a global index lies."""
        block, slot = divmod(index, len(self._table))
        source = self._table[slot]
        turn = block * self._quota[source] + self._turns[slot]
        epoch, place = divmod(turn, self._sizes[source])
        digest = hashlib.sha256(f"{self._seed}:{source}:{epoch}".encode()).digest()
        key = int.from_bytes(digest[:8], "little")
        return Location(source=source, epoch=epoch, position=permute(place, self._sizes[source], key))
