"""Collectives between the ranks of one attempt, for jobs that ask: the same calls on every executor.

    task.world.all_to_all(parts)  ──> MPI messages, where the ranks are an MPI world (mpi_world.py)
                                  └─> files in the attempt's folder of exchange/, everywhere else

Two rounds of bytes are all that a kind of world provides; the rest is built on them, so that results are the
same, to the last bit of a sum, wherever a job runs.

>>> import numpy as np
>>> World(rank=0, world_size=1).all_reduce(np.array([1, 2])).tolist()
[1, 2]
"""

import itertools
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # every worker imports this module, and hardly any has arrays: see deferred_for_start
    import numpy as np
    from numpy.typing import NDArray

from tokenmill import storage
from tokenmill.errors import GangError

Bytes = bytes | bytearray | memoryview
Scalar = TypeVar("Scalar", bound="np.generic")
TIMEOUT_SECONDS = 600.0
"""How long ranks wait for each other unless somebody says otherwise."""
_NUMBER_BYTES = 8


@dataclass(kw_only=True)
class World:
    """Ranks that work on one shard together, seen from one of them; by itself the world of one.

    Every rank must make the same calls in the same order.
    """

    rank: int
    """This rank."""
    world_size: int
    """Number of ranks."""
    timeout_seconds: float = TIMEOUT_SECONDS
    """How long a call may wait for the other ranks."""
    check: Callable[[], None] = lambda: None
    """Called while waiting; may raise to give up."""

    # what a kind of world provides

    def gather_bytes(self, value: Bytes) -> list[Bytes]:
        """Values of all ranks, in order of rank, on every rank."""
        return [value]

    def exchange_bytes(self, parts: Sequence[Bytes]) -> list[Bytes]:
        """Part r goes to rank r; returns what each rank had for this one, in order of rank."""
        return [parts[0]]

    # what is built on it

    def barrier(self) -> None:
        """Wait until every rank is here.

        Raises:
            GangError: a rank did not come in time.
        """
        self.gather_bytes(b"")

    def broadcast(self, value: bytes, *, source: int = 0) -> bytes:
        """The value of one rank, on every rank.

        Args:
            value: what to give; of ranks other than the source it is ignored.
            source: whose value it is.

        Raises:
            GangError: a rank did not come in time.
        """
        return bytes(self.gather_bytes(value if self.rank == source else b"")[source])

    def all_gather(self, value: bytes) -> list[bytes]:
        """Values of all ranks, in order of rank, on every rank.

        Args:
            value: what this rank has; lengths may differ.

        Raises:
            GangError: a rank did not come in time.
        """
        return [bytes(part) for part in self.gather_bytes(value)]

    def all_to_all(self, parts: "Sequence[NDArray[Scalar]]") -> "list[NDArray[Scalar]]":
        """Send every rank an array and receive one from each.

        Args:
            parts: one array of one dimension per rank; one dtype, the same on all ranks; lengths may differ.

        Returns:
            What each rank had for this one, in order of rank.

        Raises:
            GangError: a rank did not come in time.
        """
        import numpy as np

        assert len(parts) == self.world_size, f"{len(parts)} parts for {self.world_size} ranks"
        dtype = parts[0].dtype
        got = self.exchange_bytes([_bytes_of(part) for part in parts])
        return [np.frombuffer(bytearray(part), dtype=dtype) for part in got]

    def all_reduce(self, values: "NDArray[Scalar]") -> "NDArray[Scalar]":
        """Sum of an array over all ranks, on every rank; added in order of ranks, so always the same bits.

        Args:
            values: same shape and dtype on every rank.

        Raises:
            GangError: a rank did not come in time.
        """
        import numpy as np

        pieces = np.array_split(values.reshape(-1), self.world_size)  # each rank adds up a piece
        mine: Any = 0
        for part in self.all_to_all(pieces):
            mine = mine + part
        whole = b"".join(self.gather_bytes(_bytes_of(mine.astype(values.dtype))))
        return np.frombuffer(bytearray(whole), dtype=values.dtype).reshape(values.shape)


def _bytes_of(array: "NDArray[Any]") -> memoryview:
    import numpy as np

    # bytes, since a buffer of structured or empty arrays has no plain format
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


@dataclass(kw_only=True)
class FileWorld(World):
    """Ranks that meet at files: slow, but wherever they see one folder.

    A round is one file per rank, with a part for each reader. A rank that has read a round's files removes
    its own file of the round before: whoever is in this round has read that one.
    """

    url: str
    """Folder for the files; of one attempt."""
    _round: int = field(default=0, init=False)

    def gather_bytes(self, value: Bytes) -> list[Bytes]:
        """Values of all ranks, in order of rank, on every rank."""
        return [value] if self.world_size == 1 else self._meet([value], part=0)

    def exchange_bytes(self, parts: Sequence[Bytes]) -> list[Bytes]:
        """Part r goes to rank r; returns what each rank had for this one, in order of rank."""
        return [parts[0]] if self.world_size == 1 else self._meet(parts, part=self.rank)

    def _meet(self, parts: Sequence[Bytes], *, part: int) -> list[Bytes]:
        numbers = [len(parts), *itertools.accumulate((len(value) for value in parts), initial=0)]
        header = struct.pack(f"<{len(numbers)}Q", *numbers)
        storage.write_atomic(self._url(self._round, self.rank), b"".join([header, *parts]))
        self._wait()
        urls = [self._url(self._round, rank) for rank in range(self.world_size)]
        got: list[Bytes] = [_part_of(url, part) for url in urls]
        if self._round:
            storage.remove(self._url(self._round - 1, self.rank))
        self._round += 1
        return got

    def _url(self, number: int, rank: int) -> str:
        return storage.join(self.url, f"round-{number}", f"{rank}.bin")

    def _wait(self) -> None:
        deadline, pause = time.monotonic() + self.timeout_seconds, 0.001
        missing = set(range(self.world_size)) - {self.rank}
        while missing:
            names = storage.list_names(storage.join(self.url, f"round-{self._round}"))
            missing -= {int(name.partition(".")[0]) for name in names}
            if missing and time.monotonic() > deadline:
                raise late(self, f"round {self._round} in {self.url}", sorted(missing))
            if missing:
                self.check()
                time.sleep(pause)
                pause = min(0.2, pause * 1.5)  # a shared file system does not like to be asked often


def _part_of(url: str, part: int) -> bytes:
    with storage.open_input(url) as file:
        (count,) = struct.unpack("<Q", file.read(_NUMBER_BYTES))
        bounds = struct.unpack(f"<{count + 1}Q", file.read((count + 1) * _NUMBER_BYTES))
        file.seek((count + 2) * _NUMBER_BYTES + bounds[part])
        return file.read(bounds[part + 1] - bounds[part])


def late(world: World, where: str, missing: Sequence[int] = ()) -> GangError:
    """The error that says who did not come."""
    return GangError(
        "ranks did not come in time",
        where=f"rank {world.rank} of {world.world_size}, {where}",
        expected=f"all ranks within {world.timeout_seconds:g} s",
        got=f"missing: rank {', '.join(map(str, missing))}" if missing else "some are missing",
        fix="look at the other ranks' logs: the first error there is the cause",
    )
