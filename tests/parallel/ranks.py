"""A pool of processes that play the ranks of a gang; started once per test session.

A program is a function ``program(world, *arguments)`` of an importable module. The test process is the
rendezvous server, so that nobody has to guess a free port.
"""

import functools
import multiprocessing
import multiprocessing.connection
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tokenmill.parallel.collectives import Store, World
from tokenmill.parallel.mesh import Mesh

SECONDS = 120.0


class Ranks:
    """Processes that run programs together.

    Args:
        size: number of ranks.
    """

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        for rank in range(size):
            mine, theirs = context.Pipe()
            context.Process(target=_serve, args=(rank, theirs), daemon=True).start()
            self._pipes.append(mine)

    def run(self, program: Callable[..., Any], *arguments: Any, mesh: Mesh | None = None) -> list[Any]:
        """What the program returns on every rank; an exception is returned, not raised."""
        mesh = mesh or Mesh(dp=len(self._pipes))
        store = Store(
            host="127.0.0.1", port=0, world_size=mesh.world_size, is_server=True, timeout_seconds=SECONDS
        )
        return self.each(_connected, program, mesh, store.port, *arguments)

    def each(self, program: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``program(rank, *arguments)`` returns on every rank; nobody connects them."""
        for pipe in self._pipes:
            pipe.send((program, arguments))
        results = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(SECONDS), f"rank {rank} does not answer"
            results.append(pipe.recv())
        return results


def _serve(rank: int, pipe: "multiprocessing.connection.Connection[Any, Any]") -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    while True:
        try:
            program, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(program(rank, *arguments))
        except Exception as error:
            error.add_note(traceback.format_exc())
            pipe.send(error)


def _connected(rank: int, program: Callable[..., Any], mesh: Mesh, port: int, *arguments: Any) -> Any:
    store = Store(
        host="127.0.0.1",
        port=port,
        world_size=mesh.world_size,
        is_server=False,
        timeout_seconds=SECONDS,
    )
    device = torch.device("cpu")
    with World(rank=rank, mesh=mesh, device=device, store=store, timeout_seconds=SECONDS) as world:
        return program(world, *arguments)


@functools.cache
def pool(size: int) -> Ranks:
    """The session's pool of a size."""
    return Ranks(size)


def succeeded(results: list[Any]) -> list[Any]:
    """The results, if no rank failed."""
    for rank, result in enumerate(results):
        if isinstance(result, BaseException):
            raise AssertionError(f"rank {rank} failed: {result} {getattr(result, '__notes__', '')}")
    return results
