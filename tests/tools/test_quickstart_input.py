"""The quickstart's input: downloads, pages, WARC files, items."""

import gzip
import hashlib
import importlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tokenmill import storage
from tokenmill.errors import ConfigError, InputError, StorageError

TOOLS = Path(__file__).parents[2] / "tools"
TABLE = Path(__file__).parents[2] / "configs" / "data" / "quickstart_sources.yaml"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.fixture
def archives():
    return importlib.import_module("quickstart_archives")


@pytest.fixture
def inputs():
    return importlib.import_module("quickstart_input")


@pytest.fixture
def warc():
    return importlib.import_module("quickstart_warc")


def page(warc, name, html=b"<p>text</p>"):
    return warc.Page(url=f"https://example.org/{name}", html=html, seconds=1_700_000_000, source="a.tar.gz")


def read_back(paths):
    fastwarc = pytest.importorskip("fastwarc.warc")
    found = []
    for path in paths:
        with path.open("rb") as file:
            for record in fastwarc.ArchiveIterator(file, parse_http=False):
                kind = record.headers["WARC-Type"]
                if kind == "response":
                    assert record.verify_block_digest()
                    record.parse_http()
                    assert record.verify_payload_digest()
                    found.append((record.headers["WARC-Target-URI"], record.reader.read()))
    return found


def test_packed_pages_come_back_with_true_digests(warc, tmp_path):
    pages = [page(warc, f"page {index}é", b"<p>" + b"x" * 100 * index + b"</p>") for index in range(10)]
    paths = warc.pack(pages, tmp_path, num_files=3, about="a test")
    assert len(paths) == 3
    assert [html for _, html in read_back(paths)] == [page.html for page in pages]
    assert read_back(paths)[0][0] == "https://example.org/page%200%C3%A9"


def test_every_record_is_a_gzip_member_of_its_own(warc, tmp_path):
    (path,) = warc.pack([page(warc, "a"), page(warc, "b")], tmp_path, num_files=1, about="a test")
    assert path.read_bytes().count(b"\x1f\x8b\x08\x00\x00\x00\x00\x00") == 3
    assert gzip.decompress(path.read_bytes()).startswith(b"WARC/1.1\r\nWARC-Type: warcinfo\r\n")


def test_packing_is_deterministic_and_leaves_no_scratch_file(warc, tmp_path):
    contents = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        warc.pack([page(warc, "a"), page(warc, "b")], folder, num_files=2, about="a test")
        contents.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == ["pages-00000.warc.gz", "pages-00001.warc.gz"]


def test_fewer_pages_than_files(warc, tmp_path):
    assert len(warc.pack([page(warc, "a")], tmp_path, num_files=4, about="a test")) == 1
    assert warc.pack([], tmp_path, num_files=4, about="a test") == []


# Archives


def archive_of(archives, path, data=b"bytes", **changes):
    values = {"package": "thing", "version": "1.0", "file": path.name, "licence": "MIT"}
    return archives.Archive(**values, sha256=hashlib.sha256(data).hexdigest(), **changes)


def test_a_cached_archive_is_not_downloaded_again(archives, tmp_path, monkeypatch):
    (tmp_path / "thing-1.0.tar.gz").write_bytes(b"bytes")
    monkeypatch.setattr(archives, "_download", pytest.fail)
    archive = archive_of(archives, tmp_path / "thing-1.0.tar.gz")
    assert archives.obtain([archive], tmp_path) == [tmp_path / "thing-1.0.tar.gz"]


def test_a_broken_cached_archive_is_downloaded_again(archives, tmp_path, monkeypatch):
    target = tmp_path / "thing-1.0.tar.gz"
    target.write_bytes(b"half")
    monkeypatch.setattr(
        archives, "_download", lambda _, scratch: (scratch / target.name).write_bytes(b"bytes")
    )
    archives.obtain([archive_of(archives, target)], tmp_path)
    assert target.read_bytes() == b"bytes"
    assert list(tmp_path.iterdir()) == [target]


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(archives, tmp_path, monkeypatch):
    target = tmp_path / "thing-1.0.tar.gz"
    monkeypatch.setattr(
        archives, "_download", lambda _, scratch: (scratch / target.name).write_bytes(b"other")
    )
    with pytest.raises(InputError, match=r"wrong checksum[\s\S]*expected: [0-9a-f]{64}[\s\S]*--input"):
        archives.obtain([archive_of(archives, target)], tmp_path)
    assert list(tmp_path.iterdir()) == []


class FakeDone:
    returncode = 1

    def __init__(self, stderr):
        self.stderr = stderr


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            "ERROR: No matching distribution found for thing==1.0\n",
            r"could not be downloaded[\s\S]*No matching",
        ),
        ("", r"could not be downloaded[\s\S]*exit code 1"),
        (
            "THESE PACKAGES DO NOT MATCH THE HASHES\n    Got        abc\n",
            r"wrong checksum[\s\S]*got: abc",
        ),
    ],
)
def test_what_pip_says_is_told(archives, tmp_path, monkeypatch, stderr, message):
    monkeypatch.setattr(archives.subprocess, "run", lambda *_, **__: FakeDone(stderr))
    with pytest.raises(InputError, match=message):
        archives.obtain([archive_of(archives, tmp_path / "thing-1.0.tar.gz")], tmp_path)


def test_a_full_disk_is_told_before_the_download(archives, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="not enough free space"):
        archives.obtain([archive_of(archives, tmp_path / "thing-1.0.tar.gz")], tmp_path)


# Pages of archives


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(f"thing-1.0/{name}")
            info.size, info.mtime = len(text.encode()), 1_700_000_000
            archive.addfile(info, io.BytesIO(text.encode()))


def page_source(inputs, path, suffix, folder="docs"):
    values = {"package": "thing", "version": "1.0", "file": path.name, "sha256": "", "licence": "MIT"}
    return inputs.PageSource(**values, folder=folder, suffix=suffix, url="https://example.org/")


def test_pages_of_a_source_archive(inputs, tmp_path):
    members = {
        "docs/b.html": "<p>b</p>",
        "docs/a/index.html": "<p>a</p>",
        "docs/genindex.html": "<p>index</p>",
        "docs/x/_modules/y.html": "<p>code</p>",
        "docs/empty.html": " ",
        "docs/note.txt": "text",
        "other/c.html": "<p>c</p>",
    }
    make_tar(tmp_path / "t.tar.gz", members)
    found = list(inputs._members(page_source(inputs, tmp_path / "t.tar.gz", ".html"), tmp_path))
    assert [(name, data) for name, _, data in found] == [
        ("a/index.html", b"<p>a</p>"),
        ("b.html", b"<p>b</p>"),
    ]


def test_pages_of_a_wheel_and_of_rest(inputs, tmp_path):
    with zipfile.ZipFile(tmp_path / "t.whl", "w") as wheel:
        wheel.writestr("thing/docs/a.html", "<p>a</p>")
    found = list(inputs._members(page_source(inputs, tmp_path / "t.whl", ".html", "thing/docs"), tmp_path))
    assert [(name, data) for name, _, data in found] == [("a.html", b"<p>a</p>")]
    make_tar(tmp_path / "t.tar.gz", {"docs/topics/a.txt": "A\n=\n"})
    found = list(inputs._members(page_source(inputs, tmp_path / "t.tar.gz", ".txt"), tmp_path))
    assert [name for name, _, _ in found] == ["topics/a/"]


REST = """
Title & more
============

.. toctree::
   :maxdepth: 2

   a

See :ref:`the guide <guide>` and :class:`~a.b.Model`.

.. setting:: DEBUG

    Shows details.

.. versionadded:: 5.0

    A way.
"""


def test_rest_keeps_roles_and_descriptions_and_leaves_indexes_out():
    pytest.importorskip("docutils")
    html = importlib.import_module("quickstart_rest").render(REST)
    text = html.decode()
    assert "<title>Title &amp; more</title>" in text
    for part in ("the guide", "Model", "DEBUG", "Shows details.", "New in version 5.0:", "A way."):
        assert part in text
    assert "maxdepth" not in text
    assert "a.b" not in text


# The user's own input


def test_own_html_becomes_warc_once_and_again_when_it_changes(inputs, tmp_path):
    own = tmp_path / "own pages"
    own.mkdir()
    (own / "é.html").write_text("<p>text</p>")
    assert inputs.packed_files(own) == []
    assert inputs.packed_files(own / "é.html") == []
    assert [page.html for page in inputs._own_pages(own)] == [b"<p>text</p>"]
    before = inputs._listing(own)
    assert inputs._listing(own) == before
    (own / "b.htm").write_text("<p>more</p>")
    assert inputs._listing(own) != before


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_packed_input_is_used_as_it_is(inputs, tmp_path, name):
    folder = tmp_path / "own [1] é"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / name).write_bytes(b"x")
    (folder / "index.html").write_bytes(b"x")
    (folder / "paths.gz").write_bytes(b"x")
    (pattern,) = inputs.packed_files(folder)
    assert [file.url for file in storage.list_files(pattern)] == [str(folder / "deep" / name)]
    assert inputs.packed_files(folder / "deep" / name) == [str(folder / "deep" / name)]


def test_missing_empty_mixed_and_foreign_input_are_refused(inputs, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        inputs.packed_files(tmp_path / "none")
    with pytest.raises(InputError, match="an empty folder"):
        inputs.packed_files(tmp_path)
    (tmp_path / "a.pdf").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.pdf"):
        inputs.packed_files(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "a.warc.gz").write_bytes(b"")
    with pytest.raises(InputError, match="both pages and texts"):
        inputs.packed_files(tmp_path)


def test_made_once(inputs, tmp_path):
    calls = []
    first = inputs._made_once(tmp_path, "thing", [1], calls.append)
    assert inputs._made_once(tmp_path, "thing", [1], calls.append) == first
    assert inputs._made_once(tmp_path, "thing", [2], calls.append) != first
    assert len(calls) == 2


def test_what_fails_half_way_leaves_nothing(inputs, tmp_path):
    def fill(folder):
        (folder / "half").write_text("half")
        raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        inputs._made_once(tmp_path, "thing", [1], fill)
    assert list(tmp_path.iterdir()) == []


# Items and the table


def test_items_have_the_early_signal_prompts(inputs):
    doc = {"query": "Question: Why?\nAnswer:", "choices": ["a", "b"], "gold": 1}
    lines = [
        json.dumps({"doc_id": number, "native_id": f"q{number}", "doc": doc})
        for number in (0, 0, 1, 1_000_000)
    ]
    items = list(inputs._items("arc_easy", lines))
    assert [item["id"] for item in items] == ["q0", "q1"]
    assert items[0] | {"id": ""} == {
        "id": "",
        "task": "arc_easy",
        "query": "Question: Why?\nAnswer:",
        "choices": [" a", " b"],
        "gold": 1,
    }
    (item,) = inputs._items("openbookqa", lines[:1])
    assert item["query"] == "Why?"
    doc = {"goal": "Do it", "sol1": "x", "sol2": "y", "label": 1, "query": "", "choices": [], "gold": 1}
    (item,) = inputs._items("piqa", [json.dumps({"doc_id": 0, "native_id": 0, "doc": doc})])
    assert (item["query"], item["choices"], item["gold"]) == ("Question: Do it\nAnswer:", [" x", " y"], 1)


def test_the_table_is_read_and_checked(inputs, tmp_path):
    sources = inputs.load_sources(TABLE)
    assert len({source.url for source in sources.pages}) == len(sources.pages)
    everything = [*sources.pages, sources.renderer, sources.language_model, sources.items]
    for archive in everything:
        assert len(archive.sha256) == 64
        assert archive.licence
        assert archive.version in archive.file
    broken = tmp_path / "broken.yaml"
    broken.write_text(TABLE.read_text().replace("renderer:", "renderers:"))
    with pytest.raises(ConfigError, match="renderers"):
        inputs.load_sources(broken)
    assert sys.path
