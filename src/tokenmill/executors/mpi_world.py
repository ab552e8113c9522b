"""Collectives over MPI, and the check that the ranks are the world that was asked for.

Nobody waits inside MPI: every call is begun, then looked at again and again with a pause, so that a rank that
waits leaves its core to others and gives up when nobody comes.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenmill.errors import GangError, WorldError
from tokenmill.executors.mpi_start import PMI, start_fix
from tokenmill.executors.world import Bytes, World, late

_MOST_PAUSE_SECONDS = 0.002
_BYTES_PER_SECOND = 1e7
"""Of a slow network."""


@dataclass(kw_only=True)
class MpiWorld(World):
    """Ranks that are an MPI world."""

    comm: Any
    """mpi4py's communicator; nobody else uses it."""

    def gather_bytes(self, value: Bytes) -> list[Bytes]:
        """Values of all ranks, in order of rank, on every rank."""
        sizes = np.empty(self.world_size, np.int64)
        mine = np.frombuffer(value, np.uint8)
        with self._explained("a gather"):
            self.finish(self.comm.Iallgather(np.array([len(value)], np.int64), sizes), "lengths of a gather")
            got = np.empty(int(sizes.sum()), np.uint8)
            self.finish(self.comm.Iallgatherv(mine, [got, sizes]), "a gather", got.size)
        return _split(got, sizes)

    def exchange_bytes(self, parts: Sequence[Bytes]) -> list[Bytes]:
        """Part r goes to rank r; returns what each rank had for this one, in order of rank."""
        given = np.array([len(part) for part in parts], np.int64)
        sizes = np.empty(self.world_size, np.int64)
        mine = np.frombuffer(b"".join(parts), np.uint8)
        with self._explained("an exchange"):
            self.finish(self.comm.Ialltoall(given, sizes), "lengths of an exchange")
            got = np.empty(int(sizes.sum()), np.uint8)
            call = self.comm.Ialltoallv([mine, given], [got, sizes])
            self.finish(call, "an exchange", mine.size + got.size)
        return _split(got, sizes)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # mpi4py's errors are RuntimeErrors
            raise GangError(
                "lost contact with the other ranks",
                where=f"rank {self.rank} of {self.world_size}, {what}",
                got=str(error).partition("\n")[0],
                fix="look at the other ranks' logs: the first error there is the cause",
            ) from error

    def finish(self, request: Any, what: str, num_bytes: int = 0) -> None:
        """Wait for a call that was begun.

        Args:
            request: mpi4py's handle.
            what: what it is, for messages.
            num_bytes: what it moves at this rank: looking is what moves them, so it is done without pauses
                for as long as that may take.

        Raises:
            GangError: the others did not come in time.
        """
        began, pause = time.monotonic(), 0.00002
        busy = num_bytes / _BYTES_PER_SECOND
        while not request.Test():
            seconds = time.monotonic() - began
            if seconds > self.timeout_seconds:
                raise late(self, what)
            self.check()
            time.sleep(0.0 if seconds < busy else pause)
            pause = pause if seconds < busy else min(_MOST_PAUSE_SECONDS, pause * 1.5)


def _split(data: NDArray[np.uint8], sizes: NDArray[np.int64]) -> list[Bytes]:
    ends = np.cumsum(sizes)
    return [data[end - size : end].data for end, size in zip(ends, sizes, strict=True)]


def check_world(
    wanted: int, ranks: Sequence[int], total: int, *, threads: bool, library: str, where: str
) -> None:
    """Refuse a world that is not the one that was asked for.

    Args:
        wanted: ranks that were asked for.
        ranks: rank of every member, as gathered from all.
        total: sum of 1 over all members, as reduced by all.
        threads: several threads may call MPI.
        library: the MPI library.
        where: job and launch.

    Raises:
        GangError: some are missing, two have the same rank, or rank 0 could not hand out from a thread.
    """
    if not threads:
        raise GangError(
            "this MPI library cannot be called from threads",
            where=where,
            expected="MPI_THREAD_MULTIPLE",
            got=library,
            fix="use an MPI library built with threads; pip install 'tokenmill[mpi]' brings one",
        )
    if sorted(ranks) == list(range(wanted)) and total == wanted:
        return
    alone = len(ranks) == 1 and wanted > 1
    name = next((name for name in PMI if library.startswith(name)), library)
    raise WorldError(
        "every process is an MPI world of its own" if alone else "not the MPI world that was asked for",
        where=where,
        expected=f"ranks 0 to {wanted - 1}, and {wanted} as the sum of 1 over them",
        got=f"rank 0 of 1, {wanted} times" if alone else f"ranks {sorted(ranks)}, and {total} as the sum",
        fix=start_fix(name),
    )
