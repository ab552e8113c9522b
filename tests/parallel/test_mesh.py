"""The grid of ranks: every rank has one place, groups of an axis tile the world."""

import itertools

import pytest

from tokenmill.errors import ConfigError
from tokenmill.parallel.mesh import AXES, Mesh

SIZES = itertools.product((1, 2, 3), (1, 2, 4), (1, 2), (1, 2))
MESHES = [Mesh(pp=pp, dp=dp, cp=cp, tp=tp) for pp, dp, cp, tp in SIZES]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_places_and_groups(mesh: Mesh) -> None:
    everyone = list(range(mesh.world_size))
    assert [mesh.rank(mesh.coordinate(rank)) for rank in everyone] == everyone
    for count in range(len(AXES) + 1):
        for axes in itertools.combinations(AXES, count):
            groups = mesh.groups(axes)
            assert sorted(itertools.chain(*groups)) == everyone
            for group in groups:
                assert all(mesh.peers(rank, axes) == group for rank in group)
                fixed = [
                    {axis: mesh.coordinate(rank)[axis] for axis in AXES if axis not in axes} for rank in group
                ]
                assert all(place == fixed[0] for place in fixed)


def test_tensor_parallel_ranks_are_neighbours_and_stages_are_far() -> None:
    mesh = Mesh(pp=2, dp=2, cp=2, tp=2)
    assert mesh.peers(5, ("tp",)) == (4, 5)
    assert mesh.peers(5, ("cp",)) == (5, 7)
    assert mesh.peers(5, ("dp",)) == (1, 5)
    assert mesh.peers(5, ("pp",)) == (5, 13)
    assert mesh.coordinate(13) == {"pp": 1, "dp": 1, "cp": 0, "tp": 1}
    assert mesh.peers(5, ("dp", "cp")) == (1, 3, 5, 7)


def test_expert_groups_lie_within_data_and_context_parallel_ranks() -> None:
    mesh = Mesh(dp=2, cp=2, tp=2, ep=2)
    assert mesh.expert_groups() == [(0, 2), (4, 6), (1, 3), (5, 7)]
    data_groups = mesh.groups(("dp", "cp"))
    assert all(any(set(group) <= set(whole) for whole in data_groups) for group in mesh.expert_groups())


def test_data_parallelism_takes_the_rest() -> None:
    assert Mesh.of_world(12, tp=2, pp=3) == Mesh(dp=2, tp=2, pp=3)
    for world_size in (0, 1, 7):
        with pytest.raises(ConfigError, match=r"do not fill the mesh(.|\n)*a multiple of pp · cp · tp = 6"):
            Mesh.of_world(world_size, tp=2, pp=3)


def test_bad_sizes() -> None:
    with pytest.raises(ConfigError, match=r"not positive\n  where: tp\n  got: 0"):
        Mesh(tp=0)
    with pytest.raises(ConfigError, match=r"do not divide dp × cp"):
        Mesh(dp=2, ep=3)
