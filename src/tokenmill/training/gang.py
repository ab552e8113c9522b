"""How the ranks of a gang find each other: rank 0 opens a store on a free port and tells where.

All ranks are known to be there when this begins (executors/roll_call.py); here they connect, and add up 1.
"""

import time
from typing import Any

import torch

from tokenmill.errors import ConfigError, GangError
from tokenmill.executors.job import Task, TaskStopped
from tokenmill.parallel.collectives import Store, World, all_reduce, own_host
from tokenmill.parallel.mesh import Mesh

RENDEZVOUS = "rendezvous"
"""Key under which rank 0 publishes its host and port."""


def choose_device(name: str, local_rank: int) -> torch.device:
    """Device of a rank.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.
        local_rank: rank within the node; it picks the GPU where a task sees several.

    Raises:
        ConfigError: there is no such device.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not num_gpus):
        return torch.device("cpu")
    if name not in ("auto", "cuda") or not num_gpus:
        raise ConfigError(
            "no such device",
            where="device",
            expected="auto or cpu" if name in ("auto", "cuda") else "auto, cpu or cuda",
            got=f"{name}, with {num_gpus} GPUs visible",
        )
    device = torch.device("cuda", local_rank % num_gpus)
    torch.cuda.set_device(device)
    return device


def connect(task: Task, mesh: Mesh, device: torch.device, *, timeout_seconds: float) -> World:
    """Connect this rank to the others of its gang.

    Args:
        task: says who this rank is, and carries the address.
        mesh: the grid of ranks.
        device: where this rank's tensors lie.
        timeout_seconds: how long to wait for the others, here and in every collective.

    Raises:
        GangError: a rank did not come, and the message names it; or sums over the ranks are wrong.
        TaskStopped: the end was announced before all were there.
    """
    store = None
    if mesh.world_size > 1:
        store = _open_store(task, timeout_seconds)
    world = World(rank=task.rank, mesh=mesh, device=device, store=store, timeout_seconds=timeout_seconds)
    check_sum(world)
    return world


def check_sum(world: World) -> None:
    """Add up 1 over all ranks, on the device that will compute: a broken network shows here, not in a loss.

    Raises:
        GangError: the sum is not the number of ranks, or a rank is gone.
    """
    total = int(all_reduce(torch.ones(1, device=world.device), world.everyone).item())
    if total != world.mesh.world_size:
        raise GangError(
            "the ranks do not add up",
            where=f"rank {world.rank} of {world.mesh.world_size}, {world.device}",
            expected=f"{world.mesh.world_size} as the sum of 1 over the ranks",
            got=str(total),
            fix="test the nodes' network and GPUs; exclude the node that is wrong",
        )


def _open_store(task: Task, timeout_seconds: float) -> Store:
    if task.rank == 0:
        store = Store(
            host="0.0.0.0",  # noqa: S104 - ranks on other nodes must reach it
            port=0,
            world_size=task.world_size,
            is_server=True,
            timeout_seconds=timeout_seconds,
        )
        task.publish(RENDEZVOUS, {"host": own_host(), "port": store.port})
        return store
    address = _wait_for_address(task, timeout_seconds)
    return Store(
        host=str(address["host"]),
        port=int(address["port"]),
        world_size=task.world_size,
        is_server=False,
        timeout_seconds=timeout_seconds,
    )


def _wait_for_address(task: Task, timeout_seconds: float) -> dict[str, Any]:
    deadline, pause = time.monotonic() + timeout_seconds, 0.02
    while (address := task.published(RENDEZVOUS)) is None:
        if task.stop_requested():
            raise TaskStopped
        if time.monotonic() > deadline:
            raise GangError(
                "rank 0 did not publish where it listens",
                where=f"rank {task.rank} of {task.world_size}, attempt {task.attempt}",
                expected=f"an address within {timeout_seconds:g} s",
                fix="look at the log of rank 0",
            )
        time.sleep(pause)
        pause = min(1.0, pause * 1.5)  # a shared file system does not like to be asked often
    return address
