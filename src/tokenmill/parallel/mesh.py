"""The grid of ranks: pure arithmetic, no processes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tokenmill.errors import ConfigError

AXES = ("pp", "dp", "cp", "tp")
"""Axes of the grid, the slowest first: tensor parallel ranks are neighbours."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Sizes of a grid of ranks.

    rank = ((pp · dp_size + dp) · cp_size + cp) · tp_size + tp

    Raises:
        ConfigError: a size is not positive, or expert parallel ranks do not divide dp × cp.
    """

    dp: int = 1
    """Data parallel ranks."""
    pp: int = 1
    """Pipeline parallel ranks."""
    cp: int = 1
    """Context parallel ranks."""
    tp: int = 1
    """Tensor parallel ranks."""
    ep: int = 1
    """Expert parallel ranks; they are taken from dp × cp."""

    def __post_init__(self) -> None:
        for axis, size in vars(self).items():
            if size < 1:
                raise ConfigError("a mesh axis is not positive", where=axis, got=str(size))
        if self.dp * self.cp % self.ep:
            raise ConfigError(
                "expert parallel ranks do not divide dp × cp",
                where="ep",
                expected=f"a divisor of {self.dp * self.cp}",
                got=str(self.ep),
            )

    @classmethod
    def of_world(cls, world_size: int, *, pp: int = 1, cp: int = 1, tp: int = 1, ep: int = 1) -> "Mesh":
        """The grid in which data parallelism takes the ranks that the other axes leave.

        Raises:
            ConfigError: the other axes do not divide the world.
        """
        dp, rest = divmod(world_size, pp * cp * tp)
        if rest or not dp:
            raise ConfigError(
                "the ranks do not fill the mesh",
                expected=f"a multiple of pp · cp · tp = {pp * cp * tp} ranks",
                got=f"{world_size} ranks",
                fix="change the job's resources.tasks or the mesh",
            )
        return cls(dp=dp, pp=pp, cp=cp, tp=tp, ep=ep)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.pp * self.dp * self.cp * self.tp

    def coordinate(self, rank: int) -> dict[str, int]:
        """Place of a rank on every axis."""
        assert 0 <= rank < self.world_size
        result = {}
        for axis in reversed(AXES):
            rank, result[axis] = divmod(rank, self._size(axis))
        return result

    def rank(self, coordinate: dict[str, int]) -> int:
        """Rank at a place; the inverse of ``coordinate``."""
        rank = 0
        for axis in AXES:
            rank = rank * self._size(axis) + coordinate[axis]
        return rank

    def peers(self, rank: int, axes: Sequence[str]) -> tuple[int, ...]:
        """Ranks that differ from a rank only on some axes, in order of rank, itself included."""
        here = self.coordinate(rank)
        ranges = [range(self._size(axis)) if axis in axes else (here[axis],) for axis in AXES]
        return tuple(self.rank(dict(zip(AXES, place, strict=True))) for place in itertools.product(*ranges))

    def groups(self, axes: Sequence[str]) -> list[tuple[int, ...]]:
        """All groups with some axes free, in order of their first rank."""
        return sorted({self.peers(rank, axes) for rank in range(self.world_size)})

    def expert_groups(self) -> list[tuple[int, ...]]:
        """Groups of ``ep`` ranks that share the experts: neighbours within dp × cp."""
        return [
            group[start : start + self.ep]
            for group in self.groups(("dp", "cp"))
            for start in range(0, len(group), self.ep)
        ]

    def _size(self, axis: str) -> int:
        assert axis in AXES, axis
        return int(getattr(self, axis))
