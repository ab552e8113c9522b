"""Groups of ranks and their collectives: the only file that calls torch.distributed.

Types of values, after ``spmd_types``: R replicated, its gradient partial; I invariant, value and gradient
equal on all ranks; V varying; P partial, to be summed.
"""

import contextlib
import datetime
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from tokenmill.errors import GangError
from tokenmill.parallel.mesh import Mesh


@dataclass(frozen=True, kw_only=True)
class Group:
    """Ranks that talk to each other, seen from one of them."""

    rank: int
    """Place of this rank in the group."""
    ranks: tuple[int, ...]
    """Global ranks, in order."""
    device: torch.device
    """Where this rank's tensors lie."""
    handle: Any = None
    """What torch.distributed calls a process group; None for a group of one."""

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.ranks)


def alone(device: torch.device) -> Group:
    """The group of one rank that needs no connection."""
    return Group(rank=0, ranks=(0,), device=device)


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A collective under way."""

    work: Any
    """torch.distributed's handle; None if there is nothing to wait for."""
    where: str
    """Who waits for what, for messages."""

    def wait(self) -> None:
        """Wait until the result is there; raises GangError if a rank is gone."""
        if self.work is not None:
            with _explained(self.where):
                self.work.wait()


class Store:
    """The small key-value server through which the ranks of a world find each other.

    Args:
        host: where rank 0 listens.
        port: its port; 0 lets rank 0 take a free one.
        world_size: number of ranks.
        is_server: true on rank 0.
        timeout_seconds: how long to wait for the others.

    Raises:
        GangError: nobody answers.

    Attributes:
        port: the port in use.
    """

    def __init__(
        self, *, host: str, port: int, world_size: int, is_server: bool, timeout_seconds: float
    ) -> None:
        with _explained(f"rendezvous at {host}:{port}"):
            self.handle: Any = distributed.TCPStore(  # type: ignore[attr-defined]  # torch exports it by *
                host,
                port,
                world_size,
                is_server,
                timeout=datetime.timedelta(seconds=timeout_seconds),
                wait_for_workers=False,
            )
        self.port = int(self.handle.port)

    def meet(self, rank: int, world_size: int, *, timeout_seconds: float) -> None:
        """Wait until all ranks are here.

        Raises:
            GangError: some are not; it names them.
        """
        deadline = time.monotonic() + timeout_seconds
        with _explained(f"rank {rank} of {world_size} at the rendezvous"):
            self.handle.set(f"arrived/{rank}", "1")
            missing = list(range(world_size))
            while missing:
                missing = [other for other in missing if not self.handle.check([f"arrived/{other}"])]
                if missing and time.monotonic() > deadline:
                    raise GangError(
                        "ranks did not come to the rendezvous",
                        where=f"rank {rank} of {world_size}",
                        expected=f"all ranks within {timeout_seconds:g} s",
                        got=f"missing: rank {', '.join(map(str, missing))}",
                        fix="look at the missing ranks' logs",
                    )
                time.sleep(0.02)


def own_host() -> str:
    """A name under which other nodes reach this one; 127.0.0.1 if its own name resolves to nothing."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return "127.0.0.1"
    return name


class World:
    """All ranks of a run, connected. Use as a context manager.

    Args:
        rank: this rank.
        mesh: the grid.
        device: where this rank's tensors lie.
        store: where the ranks meet; None for a world of one.
        timeout_seconds: how long a collective may take.

    Raises:
        GangError: a rank did not come.

    Attributes:
        rank: this rank.
        mesh: the grid.
        everyone: the group of all ranks.
    """

    def __init__(
        self, *, rank: int, mesh: Mesh, device: torch.device, store: Store | None, timeout_seconds: float
    ) -> None:
        self.rank, self.mesh, self.device = rank, mesh, device
        self._connected = mesh.world_size > 1
        if self._connected:
            assert store is not None
            store.meet(rank, mesh.world_size, timeout_seconds=timeout_seconds)
            with _explained(f"rank {rank} of {mesh.world_size} waiting for the others"):
                distributed.init_process_group(
                    "nccl" if device.type == "cuda" else "gloo",
                    store=store.handle,
                    rank=rank,
                    world_size=mesh.world_size,
                    timeout=datetime.timedelta(seconds=timeout_seconds),
                    device_id=device if device.type == "cuda" else None,
                )
        ranks = tuple(range(mesh.world_size))
        handle = distributed.group.WORLD if self._connected else None
        self.everyone = Group(rank=rank, ranks=ranks, device=device, handle=handle)

    def group(self, axes: Sequence[str]) -> Group:
        """This rank's group with some axes free; all ranks must ask for the same axes in the same order."""
        return self._pick(self.mesh.groups(axes))

    def expert_group(self) -> Group:
        """This rank's group of ranks that share the experts."""
        return self._pick(self.mesh.expert_groups())

    def _pick(self, groups: Sequence[tuple[int, ...]]) -> Group:
        mine = next(ranks for ranks in groups if self.rank in ranks)
        handle = None
        if len(mine) > 1 and len(mine) == self.mesh.world_size:
            handle = self.everyone.handle
        elif len(mine) > 1:
            for ranks in groups:  # every rank takes part in making every group
                made = distributed.new_group(list(ranks))
                handle = made if ranks == mine else handle
        return Group(rank=mine.index(self.rank), ranks=mine, device=self.device, handle=handle)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Disconnect; after an error at once, without waiting for the others."""
        if not self._connected:
            return
        try:
            if kind is None:
                barrier(self.everyone)
        finally:
            distributed.destroy_process_group()


def all_reduce(tensor: Tensor, group: Group, *, operation: str = "sum") -> Tensor:
    """Reduce a tensor in place over a group: P → I.

    Args:
        tensor: same shape on every rank.
        group: who takes part.
        operation: ``sum``, ``max`` or ``min``.

    Returns:
        The tensor.

    Raises:
        GangError: a rank is gone.
    """
    start_all_reduce(tensor, group, operation=operation).wait()
    return tensor


def start_all_reduce(tensor: Tensor, group: Group, *, operation: str = "sum") -> Pending:
    """Begin what ``all_reduce`` does; the tensor must not be touched before ``wait``."""
    where = f"{operation} over {group.size} ranks, rank {group.rank}"
    if group.size == 1:
        return Pending(work=None, where=where)
    kinds = {
        "sum": distributed.ReduceOp.SUM,
        "max": distributed.ReduceOp.MAX,
        "min": distributed.ReduceOp.MIN,
    }
    with _explained(where):
        work = distributed.all_reduce(tensor, kinds[operation], group=group.handle, async_op=True)
    return Pending(work=work, where=where)


def broadcast(tensor: Tensor, group: Group, *, source: int = 0) -> Tensor:
    """Give every rank the tensor of one, in place: V → I.

    Args:
        tensor: same shape on every rank.
        group: who takes part.
        source: place of the giver in the group.

    Raises:
        GangError: a rank is gone.
    """
    if group.size > 1:
        with _explained(f"broadcast over {group.size} ranks, rank {group.rank}"):
            distributed.broadcast(tensor, group.ranks[source], group=group.handle)
    return tensor


def gather_objects(value: Any, group: Group) -> list[Any]:
    """Plain values of all ranks, in order of rank, on every rank; raises GangError if a rank is gone."""
    if group.size == 1:
        return [value]
    result: list[Any] = [None] * group.size
    with _explained(f"gather over {group.size} ranks, rank {group.rank}"):
        distributed.all_gather_object(result, value, group=group.handle)
    return result


def barrier(group: Group) -> None:
    """Wait for all ranks of a group; raises GangError if a rank is gone."""
    if group.size > 1:
        all_reduce(torch.zeros(1, device=group.device), group)


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's DistError and its kin are RuntimeErrors
        raise GangError(
            "lost contact with the other ranks",
            where=where,
            got=str(error).splitlines()[0],
            fix="look at the other ranks' logs: the first error there is the cause",
        ) from error
