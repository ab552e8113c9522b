import gzip
import io
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fastwarc.stream_io import BrotliWriter

from tokenmill.data.document import Document
from tokenmill.data.readers import ReaderConfig, read_documents
from tokenmill.data.warc import Account, decode_html
from tokenmill.executors.job import Piece

Whole = Callable[..., tuple[Piece, ...]]
Cut = Callable[[Piece, Sequence[int]], list[Piece]]
Record = Callable[..., bytes]
Write = Callable[..., Path]
CONFIG = ReaderConfig(format="warc", max_page_bytes=100_000)


def read(pieces: Sequence[Piece]) -> tuple[list[Document], Account]:
    account = Account()
    return list(read_documents(pieces, CONFIG, account)), account


def brotli(body: bytes) -> bytes:
    sink = io.BytesIO()
    writer = BrotliWriter(sink)
    writer.write(body)
    writer.close()
    return sink.getvalue()


def page(number: int) -> bytes:
    return f"<html><p>Page {number} {'words ' * (number * 37 % 400)}</p></html>".encode()


def test_pages_and_reasons(whole: Whole, record: Record, write_warc: Write) -> None:
    records = [
        record("http://a/", page(1)),
        record("http://a/", page(1), kind="request"),
        record("http://b/", page(2), status=404),
        record("http://c/", b"%PDF", Content_Type="application/pdf"),
        record("http://d/", b"  "),
        record("http://e/", b"<p>" + b"x" * 200_000),
        record("http://f/", page(3), Content_Type="application/xhtml+xml; charset=utf-8"),
        record("http://g/", page(4), Content_Type=""),
        record("dns:h", b"", kind="response").replace(b"application/http; msgtype=response", b"text/dns"),
    ]
    documents, account = read(whole(write_warc("a.warc.gz", *records)))
    assert [document.url for document in documents] == ["http://a/", "http://f/", "http://g/"]
    first = documents[0]
    assert first.id == "<urn:http://a/>"
    assert first.text == page(1).decode()
    assert first.metadata == {
        "date": "2026-01-02T03:04:05Z",
        "encoding": "utf-8",
        "file": "a.warc.gz",
        "offset": 0,
    }
    assert account.skipped == {
        "type_request": 1,
        "http_status": 1,
        "not_html": 1,
        "empty": 1,
        "too_large": 1,
        "not_http": 1,
    }
    assert account.broken == {}


@pytest.mark.parametrize(
    ("encode", "headers"),
    [
        (gzip.compress, {"Content_Encoding": "gzip"}),
        (zlib.compress, {"Content_Encoding": "deflate"}),
        (brotli, {"Content_Encoding": "br"}),
        (lambda body: b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), {"Transfer_Encoding": "chunked"}),
        (lambda body: body, {"Transfer_Encoding": "chunked", "Content_Encoding": "br"}),  # already decoded
    ],
)
def test_encodings_of_the_body(
    whole: Whole,
    record: Record,
    write_warc: Write,
    encode: Callable[[bytes], bytes],
    headers: dict[str, str],
) -> None:
    path = write_warc("a.warc.gz", record("http://a/", encode(page(9)), **headers))
    documents, account = read(whole(path))
    assert [document.text for document in documents] == [page(9).decode()], account


def test_a_body_that_cannot_be_decoded_is_broken(whole: Whole, record: Record, write_warc: Write) -> None:
    damaged = bytearray(gzip.compress(page(9), mtime=0x3C3C3C3C))  # holds the letter <
    damaged[12] ^= 255
    path = write_warc(
        "a.warc.gz",
        record("http://a/", bytes(damaged), Content_Encoding="gzip"),
        record("http://b/", page(2)),
    )
    documents, account = read(whole(path))
    assert [document.url for document in documents] == ["http://b/"]
    assert account.broken == {"http": 1}


def test_a_body_that_grows_beyond_the_limit_is_not_kept(
    whole: Whole, record: Record, write_warc: Write
) -> None:
    bomb = gzip.compress(b"<p>" + b"a" * 50_000_000)
    documents, account = read(
        whole(write_warc("a.warc.gz", record("http://a/", bomb, Content_Encoding="gzip")))
    )
    assert documents == []
    assert account.skipped == {"too_large": 1}


def layouts(record: Record) -> dict[str, bytes]:
    records = [record(f"http://{i}/", page(i)) for i in range(12)]
    members = [gzip.compress(item) for item in records]
    damaged = bytearray(members[5])
    damaged[60] ^= 255
    checksum = bytearray(members[5])
    checksum[-6] ^= 255
    torn = members[5][:-900] + b"\x00\xff\xff\x00\x00"
    text = b"".join(records)
    return {
        "members": b"".join(members),
        "one member": gzip.compress(text),
        "pairs": b"".join(gzip.compress(records[i] + records[i + 1]) for i in range(0, 12, 2)),
        "members at wrong places": b"".join(
            gzip.compress(text[i : i + 700]) for i in range(0, len(text), 700)
        ),
        "damaged member": b"".join([*members[:5], bytes(damaged), *members[6:]]),
        "wrong checksum": b"".join([*members[:5], bytes(checksum), *members[6:]]),
        "member torn in two": b"".join([*members[:5], torn, *members[6:]]),
        "garbage between": b"".join([*members[:5], b"garbage\x1f\x8b\x08garbage" * 3, *members[5:]]),
        "cut off": b"".join(members)[:-50],
        "padding": b"".join(members) + b"\0" * 100,
        "plain": text,
        "plain, damaged": text.replace(b"WARC/1.0", b"WURC/1.0", 6).replace(b"WURC/1.0", b"WARC/1.0", 5),
        "plain, cut off": text[:-300],
    }


WANTED = {
    "damaged member": (11, {"damaged": 1}),
    "wrong checksum": (11, {"damaged": 1}),
    "member torn in two": (11, {"garbage": 1}),
    "garbage between": (12, {"garbage": 1}),
    "cut off": (11, {"truncated": 1, "cut_off": 1}),
    "plain, damaged": (11, {"damaged": 1}),
    "plain, cut off": (11, {"cut_off": 1}),
}
NAMES = [
    "members",
    "one member",
    "pairs",
    "members at wrong places",
    "damaged member",
    "wrong checksum",
    "member torn in two",
    "garbage between",
    "cut off",
    "padding",
    "plain",
    "plain, damaged",
    "plain, cut off",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_cut_gives_the_same_documents(
    tmp_path: Path, whole: Whole, cut: Cut, record: Record, name: str
) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(layouts(record)[name])
    [piece] = whole(path)
    documents, account = read([piece])
    count, broken = WANTED.get(name, (12, {}))
    assert (len(documents), account.broken) == (count, broken)
    keys = [document.key for document in documents]
    assert keys == sorted(set(keys))
    texts = [document.text for document in documents]
    chance = random.Random(2)
    for _ in range(25):
        pieces = cut(piece, chance.sample(range(1, piece.num_bytes), chance.randint(1, 6)))
        again, _ = read(pieces)
        assert [document.text for document in again] == texts
        assert [document.key for document in again] == keys


def test_a_page_whose_checksum_is_wrong_is_not_kept(
    tmp_path: Path, whole: Whole, record: Record, write_warc: Write
) -> None:
    """The checksum comes after the page has been read."""
    body = random.Random(1).randbytes(100_000).hex().encode()
    body = body[: (1 << 16) + 3 + 65_000 - len(record("http://0/", b"x" * 65_000))]  # ends with a read
    path = write_warc("a.warc.gz", *(record(f"http://{i}/", body) for i in range(3)))
    data = bytearray(path.read_bytes())
    data[len(data) // 3 - 6] ^= 255
    path.write_bytes(data)
    documents, account = read_all(whole(path))
    assert [document.url for document in documents] == ["http://1/", "http://2/"]
    assert (account.documents, account.broken) == (2, {"damaged": 1})


def test_another_format_is_one_broken_file(tmp_path: Path, whole: Whole, cut: Cut) -> None:
    for data in (b"filedesc://x.arc 0.0.0.0 text/plain 200\n" * 50, b"\x89PNG" * 50):
        path = tmp_path / "a.warc.gz"
        for stored in (data, gzip.compress(data)):
            path.write_bytes(stored)
            pieces = cut(whole(path)[0], [len(stored) // 2])
            documents, account = read(pieces)
            assert (documents, account.broken) == ([], {"not_warc": 1})


@pytest.mark.parametrize(
    ("payload", "charset", "text", "encoding"),
    [
        ("Zoë".encode(), "latin-1", "Zoë", "utf-8"),  # what decodes as UTF-8 is UTF-8
        ("\ufeffZoë".encode(), None, "Zoë", "utf-8"),
        ("Привет, мир".encode("cp1251"), "windows-1251", "Привет, мир", "cp1251"),
        ('<meta charset="shift_jis">日本語のページ'.encode("shift_jis"), None, "日本語のページ", "shift_jis"),
        ("日本語のページ".encode("iso2022_jp"), "iso-2022-jp", "日本語のページ", "iso2022_jp"),
        ("Καλημέρα σε όλους τους φίλους".encode("iso8859_7"), "no-such-charset", "Καλημέρα", None),
        (b"a\0b", None, "ab", "utf-8"),
    ],
)
def test_charsets(payload: bytes, charset: str | None, text: str, encoding: str | None) -> None:
    found, used = decode_html(payload, charset)
    assert text in found
    assert encoding is None or used == encoding


def test_files_of_other_tools(shared_data: Path, whole: Whole, cut: Cut) -> None:
    """Every record of every file is a document, or counted with a reason; cuts change nothing."""
    paths = sorted((shared_data / "warc_asis").iterdir())
    assert len(paths) == 24
    chance = random.Random(3)
    totals: dict[str, tuple[int, dict[str, int]]] = {}
    for path in paths:
        [piece] = whole(path)
        documents, account = read_all([piece])
        totals[path.name] = len(documents), account.broken
        for _ in range(3):
            pieces = cut(piece, chance.sample(range(1, piece.num_bytes), 4))
            again, _ = read_all(pieces)
            assert [(d.key, d.text) for d in again] == [(d.key, d.text) for d in documents], path
    assert {name: broken for name, (_, broken) in totals.items() if broken} == {
        "archivesunleashed_aut__example.arc.gz": {"not_warc": 1},
        "chatnoir-eu_chatnoir-resiliparse__clipped.warc.gz": {"truncated": 1, "cut_off": 1},
        "webrecorder_warcio__example-trunc.warc": {"damaged": 1},
    }
    assert totals["allenai_dolma__sample-0000.warc.gz"][0] == 22
    assert totals["webrecorder_warcio__example-wrong-chunks.warc.gz"][0] == 1
    assert sum(count for count, _ in totals.values()) == 145


def read_all(pieces: Sequence[Piece]) -> tuple[list[Document], Account]:
    account = Account()
    return list(read_documents(pieces, ReaderConfig(format="warc"), account)), account
