import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from trained import pieces_of

from tokenmill.errors import ConfigError, InputError
from tokenmill.evaluation.tasks.items import Item, read_items, read_lines
from tokenmill.executors.job import Piece

GOOD = {"id": "1", "task": "t", "query": "q", "choices": [" a", " b"], "gold": 1}


def write(path: Path, *rows: Any) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def part(path: Path, start: int, end: int) -> Piece:
    size = path.stat().st_size
    return Piece(url=str(path), name=path.name, file_index=3, start=start, end=end, num_bytes=size)


def test_prepared_items_are_read(tmp_path: Path) -> None:
    [piece] = pieces_of(write(tmp_path / "i.jsonl", GOOD, {**GOOD, "id": "2", "query": ""}))
    first, second = read_items(piece, "items")
    assert first == Item(id="1", task="t", prompt_version="prepared", query="q", choices=(" a", " b"), gold=1)
    assert second.query == ""
    assert first.digest != second.digest


def test_the_digest_is_pinned(tmp_path: Path) -> None:
    [piece] = pieces_of(write(tmp_path / "i.jsonl", GOOD))
    [item] = read_items(piece, "items")
    assert item.digest == "2fbb709de293eacc355e749741fbc47a2a921c4f5fea96a98b8cb6734f953b31"


def test_rows_of_a_benchmark_are_asked(tmp_path: Path) -> None:
    rows = [{"goal": "g", "sol1": str(n), "sol2": "b", "label": 0} for n in range(3)]
    [piece] = pieces_of(write(tmp_path / "p.jsonl.gz", *rows))
    items = list(read_items(piece, "piqa"))
    assert [item.choices[0] for item in items] == [" 0", " 1", " 2"]
    assert items[0].prompt_version == "fineweb-1"
    assert len({item.id for item in items}) == 3


@pytest.mark.parametrize("name", ["i.jsonl", "i.jsonl.gz"])
def test_any_cut_gives_each_item_once(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, *({**GOOD, "id": str(n), "query": "é" * n} for n in range(6)))
    size = path.stat().st_size
    [*whole] = read_items(part(path, 0, size), "items")
    assert len(whole) == 6
    for cut in range(1, size):
        left = list(read_items(part(path, 0, cut), "items"))
        right = list(read_items(part(path, cut, size), "items"))
        assert left + right == whole


def test_blank_lines_and_a_missing_last_line_end(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    path.write_bytes(b"{1}\n\n  \n{2}")
    assert list(read_lines(part(path, 0, 12))) == [(0, b"{1}\n"), (8, b"{2}")]
    assert list(read_lines(part(path, 5, 12))) == [(8, b"{2}")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold": 2}, "gold from 0 to 1"),
        ({"gold": -1}, "got: -1"),
        ({"gold": True}, "got: True"),
        ({"gold": "1"}, "got: '1'"),
        ({"choices": [" a"]}, "too few choices"),
        ({"choices": " ab"}, "not a list"),
        ({"choices": [" a", ""]}, r"choices\[1\]"),
        ({"choices": [" a", 3]}, r"choices\[1\]"),
        ({"query": None}, "query"),
        ({"id": 7}, "id"),
        ({"task": ""}, "task"),
    ],
)
def test_a_wrong_item_is_told_with_its_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    [piece] = pieces_of(write(tmp_path / "i.jsonl", GOOD, {**GOOD, **change}))
    with pytest.raises(InputError, match=message) as caught:
        list(read_items(piece, "items"))
    assert "i.jsonl, byte 75" in caught.value.where


@pytest.mark.parametrize("line", [b"{", b"[1]", b"{}", b"3", b"\xff"])
def test_a_line_that_is_no_item_is_told(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "i.jsonl"
    path.write_bytes(line + b"\n")
    for file_format in ("items", "piqa"):
        with pytest.raises(InputError, match="not an item"):
            list(read_items(pieces_of(path)[0], file_format))


def test_a_gold_label_of_a_test_split_is_refused(tmp_path: Path) -> None:
    row = {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "c", "label": "0"}
    [piece] = pieces_of(write(tmp_path / "s.jsonl", row))
    with pytest.raises(InputError, match="right answer is not one of the choices"):
        list(read_items(piece, "siqa"))


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    [piece] = pieces_of(write(tmp_path / "i.jsonl", GOOD))
    with pytest.raises(ConfigError, match="piqa"):
        list(read_items(piece, "pica"))


def test_a_cut_archive_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "i.jsonl.gz", *[{**GOOD, "id": str(n)} for n in range(99)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="does not unpack"):
        list(read_items(pieces_of(path)[0], "items"))
    path.write_bytes(b"plain")
    with pytest.raises(InputError, match="does not unpack"):
        list(read_items(pieces_of(path)[0], "items"))
