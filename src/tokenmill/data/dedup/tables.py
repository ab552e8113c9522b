"""The home of deduplication's intermediate files: tables of 64-bit integers, sorted, read by range.

Version 1, little-endian: magic ``TMTABLE``, version, kind, number of columns, groups and rows; then the rows.
"""

import struct
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tokenmill import storage
from tokenmill.data.document import Sink
from tokenmill.errors import FormatError, VersionError

Rows = npt.NDArray[np.uint64]

VERSION = 1
_HEADER = struct.Struct("<8sI12sIIQ24x")
_MAGIC = b"TMTABLE\0"


def write_table(sink: Sink, kind: str, rows: Rows, *, num_groups: int = 1) -> None:
    """Write a table.

    Args:
        sink: where to.
        kind: what the rows are, at most 12 letters.
        rows: [rows, columns]; within each group sorted by the first column.
        num_groups: groups of equal numbers of rows, one after another.
    """
    assert len(rows) % num_groups == 0
    sink.write(_HEADER.pack(_MAGIC, VERSION, kind.encode().ljust(12), rows.shape[1], num_groups, len(rows)))
    sink.write(np.ascontiguousarray(rows, "<u8").tobytes())


class Table:
    """A stored table, read by rows.

    Args:
        file: the open file.
        kind: what the rows must be.
        where: names the file in errors.

    Attributes:
        num_groups: groups, one after another.
        group_rows: rows of each group.

    Raises:
        FormatError: the file is not such a table, or is cut off.
        VersionError: the file is of a newer version.
    """

    def __init__(self, file: BinaryIO, kind: str, where: str) -> None:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            raise FormatError("not a table of integers", where=where, got=repr(head[:8]))
        _, version, found, columns, num_groups, num_rows = _HEADER.unpack(head)
        if version > VERSION:
            raise VersionError("a table of a newer version", where=where, expected=str(VERSION), got=version)
        if found.decode().strip() != kind:
            raise FormatError("a table of another kind", where=where, expected=kind, got=found.decode())
        expected, size = _HEADER.size + num_rows * columns * 8, file.seek(0, 2)
        if size != expected:
            raise FormatError(
                "a table is cut off", where=where, expected=f"{expected} bytes", got=f"{size} bytes"
            )
        self._file, self._columns = file, int(columns)
        self.num_groups, self.group_rows = int(num_groups), int(num_rows // num_groups)

    def read(self, start: int, end: int) -> Rows:
        """Rows [start, end), as [rows, columns]."""
        self._file.seek(_HEADER.size + start * self._columns * 8)
        data = self._file.read((end - start) * self._columns * 8)
        return np.frombuffer(data, "<u8").reshape(-1, self._columns)

    def first_row(self, group: int, value: int) -> int:
        """First row of a group whose first column is at least a value; the group's end if there is none."""
        low, high = group * self.group_rows, (group + 1) * self.group_rows
        while low < high:
            middle = (low + high) // 2
            if int(self.read(middle, middle + 1)[0, 0]) < value:
                low = middle + 1
            else:
                high = middle
        return low


def read_table(url: str, kind: str) -> Rows:
    """All rows of a stored table of one group."""
    with storage.open_input(url) as file:
        table = Table(file, kind, url)
        return table.read(0, table.group_rows * table.num_groups)


def sort_rows(rows: Rows) -> Rows:
    """Rows in order of the first column, then of the second; equal rows once."""
    if not len(rows):
        return rows
    order: npt.NDArray[Any] = np.lexsort((rows[:, 1], rows[:, 0]))
    ordered: Rows = rows[order]
    fresh = np.ones(len(ordered), bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    kept: Rows = ordered[fresh]
    return kept
