import hashlib
import io
from pathlib import Path

import numpy as np
import pytest

from tokenmill.data.dedup.tables import Table, read_table, sort_rows, write_table
from tokenmill.errors import FormatError, InputError, VersionError

ROWS = np.array([[1, 9], [3, 7], [3, 8], [2**64 - 1, 0]], np.uint64)


def stored(rows: np.ndarray = ROWS, groups: int = 1) -> bytes:
    sink = io.BytesIO()
    write_table(sink, "pairs", rows, num_groups=groups)
    return sink.getvalue()


def test_golden_file() -> None:
    """The bytes of version 1: a change here is a new version."""
    data = stored(groups=2)
    assert len(data) == 64 + 4 * 16
    assert data[:40] == b"TMTABLE\0\x01\0\0\0pairs       " + b"\x02\0\0\0\x02\0\0\0\x04\0\0\0\0\0\0\0"
    assert (
        hashlib.sha256(data).hexdigest() == "b5a89405576f1174e48e90c83aac92e9622fcc04b5acf0030202b999ab55acf3"
    )


def test_rows_and_search() -> None:
    table = Table(io.BytesIO(stored()), "pairs", "here")
    assert (table.num_groups, table.group_rows) == (1, 4)
    assert table.read(1, 3).tolist() == [[3, 7], [3, 8]]
    assert [table.first_row(0, value) for value in (0, 1, 2, 3, 4, 2**64 - 1, 2**64)] == [0, 0, 1, 1, 3, 3, 4]
    grouped = Table(io.BytesIO(stored(groups=2)), "pairs", "here")
    assert [grouped.first_row(group, 3) for group in (0, 1)] == [1, 2]
    assert grouped.first_row(0, 4) == 2


def test_wrong_files(tmp_path: Path) -> None:
    data = stored()
    with pytest.raises(FormatError, match="another kind"):
        Table(io.BytesIO(data), "clusters", "here")
    with pytest.raises(FormatError, match=r"cut off[\s\S]*127 bytes"):
        Table(io.BytesIO(data[:-1]), "pairs", "here")
    with pytest.raises(FormatError, match="not a table"):
        Table(io.BytesIO(b"something else"), "pairs", "here")
    with pytest.raises(VersionError, match="newer"):
        Table(io.BytesIO(data[:8] + b"\x02" + data[9:]), "pairs", "here")
    with pytest.raises(InputError, match="not found"):
        read_table(str(tmp_path / "gone.table"), "pairs")


def test_empty_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.table"
    path.write_bytes(stored(np.empty((0, 2), np.uint64), groups=14))
    assert read_table(str(path), "pairs").shape == (0, 2)
    assert Table(io.BytesIO(path.read_bytes()), "pairs", "here").first_row(13, 5) == 0


def test_sort_rows() -> None:
    rows = np.array([[3, 1], [1, 5], [3, 0], [1, 5]], np.uint64)
    assert sort_rows(rows).tolist() == [[1, 5], [3, 0], [3, 1]]
    assert sort_rows(np.empty((0, 2), np.uint64)).shape == (0, 2)
