import gzip
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard

from tokenmill.data.document import Document, DocumentWriter, read_frames
from tokenmill.data.readers import ReaderConfig, read_documents
from tokenmill.data.warc import Account
from tokenmill.errors import InputError
from tokenmill.executors.job import Piece

Whole = Callable[..., tuple[Piece, ...]]
Cut = Callable[[Piece, Sequence[int]], list[Piece]]
TEXTS = [f"text {number} " * (number % 7 + 1) for number in range(300)]
LINES = b"".join(json.dumps({"id": str(i), "text": text}).encode() + b"\n" for i, text in enumerate(TEXTS))


def seekable() -> bytes:
    sink = io.BytesIO()
    writer = DocumentWriter(sink)
    for i, text in enumerate(TEXTS):
        writer.write(Document(id=str(i), text=text * 200))
    writer.close()
    return sink.getvalue()


FILES = {
    "a.jsonl": LINES,
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.zst": zstandard.ZstdCompressor().compress(LINES),
    "own.jsonl.zst": seekable(),
    "no_last_newline.jsonl": LINES[:-1],
}


def test_cuts_at_the_edges_of_frames(tmp_path: Path, whole: Whole, cut: Cut) -> None:
    path = tmp_path / "own.jsonl.zst"
    path.write_bytes(FILES[path.name])
    [piece] = whole(path)
    frames = read_frames(io.BytesIO(FILES[path.name]))
    assert frames
    pieces = cut(piece, [frame.start for frame in frames])
    assert [document.id for document in read_documents(pieces)] == [str(i) for i in range(len(TEXTS))]


@pytest.mark.parametrize("name", FILES)
def test_pieces_give_every_document_once(tmp_path: Path, whole: Whole, cut: Cut, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    [piece] = whole(path)
    documents = list(read_documents([piece]))
    assert [document.id for document in documents] == [str(i) for i in range(len(TEXTS))]
    keys = [document.key for document in documents]
    assert keys == sorted(set(keys))
    chance = random.Random(1)
    for _ in range(10):
        pieces = cut(piece, chance.sample(range(piece.num_bytes), 5))
        assert [document.key for document in read_documents(pieces)] == keys


def test_every_cut_of_a_small_file(tmp_path: Path, whole: Whole, cut: Cut) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text":"a"}\n\n{"text":"b"}\r\n{"text":"c"}')
    [piece] = whole(path)
    for place in range(piece.num_bytes):
        assert [document.text for document in read_documents(cut(piece, [place]))] == ["a", "b", "c"]


def test_keys_of_other_tools(tmp_path: Path, whole: Whole) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"content": "hello", "name": 7, "link": "http://a/", "lang": "en", "metadata": {"x": 1}}\n'
    )
    config = ReaderConfig(text_key="content", id_key="name", url_key="link")
    [document] = read_documents(whole(path), config)
    assert (document.id, document.text, document.url) == ("7", "hello", "http://a/")
    assert document.metadata == {"lang": "en", "x": 1}


def test_broken_lines_are_counted_and_told(tmp_path: Path, whole: Whole) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n{"text": \n["no mapping"]\n{"text": 5}\n\xff\xfe\n{"text": "too"}\n')
    told: list[tuple[str, str]] = []
    account = Account(on_broken=lambda where, what: told.append((where, what)))
    assert [document.text for document in read_documents(whole(path), None, account)] == ["good", "too"]
    assert account.broken == {"json": 2, "no_text": 2}
    assert account.documents == 2
    assert len(told) == 4
    assert "a.jsonl at text byte 17" in told[0][0]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "own.jsonl.zst"])
def test_cut_off_files_are_counted(tmp_path: Path, whole: Whole, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name][: len(FILES[name]) // 2])
    account = Account()
    found = list(read_documents(whole(path), None, account))
    assert sum(account.broken.values()) == 1
    assert len(found) < len(TEXTS)


def test_a_damaged_frame_costs_its_documents_only(tmp_path: Path, whole: Whole) -> None:
    data = bytearray(FILES["own.jsonl.zst"])
    data[40] ^= 255
    path = tmp_path / "own.jsonl.zst"
    path.write_bytes(data)
    account = Account()
    found = list(read_documents(whole(path), None, account))
    assert account.broken == {"damaged": 1}
    assert 0 < len(found) < len(TEXTS)
    assert found[-1].id == str(len(TEXTS) - 1)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.warc", "a.warc.gz"])
def test_empty_files_are_fine(tmp_path: Path, whole: Whole, name: str) -> None:
    path = tmp_path / name
    path.touch()
    account = Account()
    assert list(read_documents(whole(path), None, account)) == []
    assert account.broken == {}


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    def piece(name: str) -> Piece:
        return Piece(url=str(tmp_path / name), name=name, file_index=0, start=0, end=9, num_bytes=9)

    with pytest.raises(InputError, match=r"not found[\s\S]*gone.jsonl"):
        list(read_documents([piece("gone.jsonl")]))
    with pytest.raises(InputError, match="does not tell its format"):
        list(read_documents([piece("a.docx")]))
