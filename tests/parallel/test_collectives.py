"""Collectives on real processes over gloo."""

import threading

import pytest
import torch
from parallel_programs import axis_sums, lost_peer, reduces
from ranks import pool, succeeded

from tokenmill.errors import GangError
from tokenmill.parallel.collectives import Store, World, all_reduce, alone, broadcast, gather_objects
from tokenmill.parallel.mesh import Mesh

CPU = torch.device("cpu")


def test_two_ranks() -> None:
    results = succeeded(pool(2).run(reduces))
    assert results[0] == results[1]
    assert results[0] == {
        "sum": [3.0, -1.0],
        "max": [2.0, 0.0],
        "min": [1.0, -1.0],
        "from_last": [2.0, -1.0],
        "objects": [{"rank": 0}, {"rank": 1}],
    }


@pytest.mark.slow
def test_groups_of_four_ranks_hold_the_peers_of_the_mesh() -> None:
    mesh = Mesh(dp=2, tp=2, ep=2)
    results = succeeded(pool(4).run(axis_sums, mesh=mesh))
    for rank, sums in enumerate(results):
        for axes in ("tp", "dp", "dp+cp", "pp", "dp+tp"):
            assert sums[axes] == sum(mesh.peers(rank, axes.split("+"))), (rank, axes)
        assert sums["ep"] == sum(mesh.peers(rank, ("dp", "cp")))


def test_a_rank_that_leaves_is_told_to_the_others() -> None:
    results = pool(2).run(lost_peer)
    assert isinstance(results[1], ValueError)
    assert isinstance(results[0], GangError)
    assert "lost contact with the other ranks" in str(results[0])
    assert "rank 0" in str(results[0])


def test_a_group_of_one_needs_no_connection() -> None:
    group = alone(CPU)
    assert all_reduce(torch.tensor([2.0]), group).tolist() == [2.0]
    assert broadcast(torch.tensor([2.0]), group).tolist() == [2.0]
    assert gather_objects("x", group) == ["x"]
    with World(rank=0, mesh=Mesh(), device=CPU, store=None, timeout_seconds=1) as world:
        assert world.group(("dp", "cp")) == group


def test_a_rank_that_never_comes_is_named() -> None:
    store = Store(host="127.0.0.1", port=0, world_size=3, is_server=True, timeout_seconds=5)
    other = Store(host="127.0.0.1", port=store.port, world_size=3, is_server=False, timeout_seconds=5)
    errors: list[GangError] = []

    def arrive() -> None:
        try:
            other.meet(2, 3, timeout_seconds=0.3)
        except GangError as error:
            errors.append(error)

    thread = threading.Thread(target=arrive)
    thread.start()
    with pytest.raises(GangError, match=r"did not come(.|\n)*missing: rank 1\n"):
        store.meet(0, 3, timeout_seconds=0.3)
    thread.join()
    assert "missing: rank 1" in str(errors[0])


def test_nobody_at_the_rendezvous() -> None:
    store = Store(host="127.0.0.1", port=0, world_size=2, is_server=True, timeout_seconds=5)
    port = store.port
    del store
    with pytest.raises(GangError, match=rf"lost contact(.|\n)*127\.0\.0\.1:{port}"):
        Store(host="127.0.0.1", port=port, world_size=2, is_server=False, timeout_seconds=0.2)
