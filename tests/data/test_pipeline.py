import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import pytest

from tokenmill.config import build
from tokenmill.data.document import Document, DocumentWriter
from tokenmill.data.extract import ExtractConfig
from tokenmill.data.filters.gopher_quality import GopherQualityConfig
from tokenmill.data.filters.language import LanguageConfig
from tokenmill.data.pipeline import BLOCKS, PipelineConfig, run
from tokenmill.data.readers import ReaderConfig, read_documents
from tokenmill.data.writers import WriterConfig
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors.job import Piece, Task

Whole = Callable[..., tuple[Piece, ...]]
Cut = Callable[[Piece, Sequence[int]], list[Piece]]
PortFiles = Callable[[Task, str], list[Path]]

TEXTS = [
    "Short text.",
    "The words of that page. " * 20,
    "Words and pages of the book. " * 2,
    "The end of that story. " * 30,
]


@pytest.fixture
def documents_file(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl.zst"
    with path.open("wb") as file:
        writer = DocumentWriter(file)
        for index, text in enumerate(TEXTS):
            writer.write(Document(id=str(index), text=text, url=f"http://{index}/", metadata={"n": index}))
        writer.close()
    return path


def test_documents_go_to_their_ports(
    documents_file: Path, whole: Whole, make_task: Callable[..., Task], port_files: PortFiles
) -> None:
    task = make_task("filter", source=whole(documents_file))
    run(PipelineConfig(blocks=(GopherQualityConfig(),)), task)
    kept = list(read_documents(whole(*port_files(task, "documents"))))
    rejected = list(read_documents(whole(*port_files(task, "rejected"))))
    assert [(d.id, d.text, d.url, d.metadata) for d in kept] == [
        (str(i), TEXTS[i], f"http://{i}/", {"n": i}) for i in (1, 3)
    ]
    assert [(d.id, d.metadata["rejected_by"], d.metadata["reason"]) for d in rejected] == [
        ("0", "gopher_quality", "too_few_words"),
        ("2", "gopher_quality", "too_few_words"),
    ]
    values = task.counters.values
    assert values["read/documents"] == 4
    assert values["gopher_quality/documents_out"] == 2
    assert values["gopher_quality/dropped/too_few_words"] == 2
    figures = {figure["title"]: figure for figure in task.report.figures}
    assert figures["Documents after each block"]["rows"] == [["read", 4], ["gopher_quality", 2]]
    assert figures["Why documents were dropped"]["rows"] == [["gopher_quality: too_few_words", 2]]
    assert [item["title"] for item in figures["Kept documents"]["items"]] == ["http://1/", "http://3/"]
    assert figures["Dropped documents"]["items"][0]["note"] == "gopher_quality: too_few_words"
    json.dumps(task.report.figures)


def test_the_same_bytes_for_every_attempt(
    documents_file: Path, whole: Whole, make_task: Callable[..., Task]
) -> None:
    sums = []
    for attempt in ("a0", "a1"):
        task = make_task("filter", attempt=attempt, source=whole(documents_file))
        run(PipelineConfig(blocks=(GopherQualityConfig(),)), task)
        sums.append({output["name"]: output["sha256"] for output in task.outputs})
    assert sums[0] == sums[1]
    assert set(sums[0]) == {"documents/00000.jsonl.zst", "rejected/00000.jsonl.zst"}


def test_ports_exist_even_if_empty(tmp_path: Path, whole: Whole, make_task: Callable[..., Task]) -> None:
    path = tmp_path / "empty.jsonl"
    path.touch()
    task = make_task("copy", source=whole(path))
    run(PipelineConfig(writer=WriterConfig(port="out", rejected_port="")), task)
    assert [output["name"] for output in task.outputs] == ["out/00000.jsonl.zst"]
    assert list(read_documents(whole(task.job_url + "/" + task.outputs[0]["path"]))) == []


def test_broken_records_are_counted_and_logged(
    tmp_path: Path, whole: Whole, make_task: Callable[..., Task], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "good"}\n' + "broken\n" * 150)
    task = make_task("copy", source=whole(path))
    with caplog.at_level(logging.WARNING):
        run(PipelineConfig(), task)
    assert task.counters.values["read/broken/json"] == 150
    assert len(caplog.messages) == 101
    assert "in.jsonl at text byte 17" in caplog.messages[0]
    figures = {figure["title"]: figure for figure in task.report.figures}
    assert figures["Records that are not documents"]["rows"] == [["broken: json", 150]]


def test_nothing_is_left_of_a_failed_attempt(
    documents_file: Path, whole: Whole, make_task: Callable[..., Task], tmp_path: Path
) -> None:
    gone = Piece(url=str(tmp_path / "gone.jsonl"), name="gone", file_index=1, start=0, end=5, num_bytes=5)
    task = make_task("copy", source=[*whole(documents_file), gone])
    with pytest.raises(InputError, match="not found"):
        run(PipelineConfig(), task)
    assert task.outputs == []
    assert not [path for path in Path(task.job_url).rglob("*") if path.is_file()]


def test_which_input_is_read(documents_file: Path, whole: Whole, make_task: Callable[..., Task]) -> None:
    pieces = whole(documents_file)
    run(PipelineConfig(reader=ReaderConfig(input="b")), make_task("copy", a=(), b=pieces))
    with pytest.raises(ConfigError, match=r"not clear[\s\S]*a b"):
        run(PipelineConfig(), make_task("copy", a=pieces, b=pieces))
    with pytest.raises(InputError, match="no such input"):
        run(PipelineConfig(reader=ReaderConfig(input="c")), make_task("copy", a=pieces))


def test_blocks_of_one_kind_are_counted_apart(
    documents_file: Path, whole: Whole, make_task: Callable[..., Task]
) -> None:
    task = make_task("filter", source=whole(documents_file))
    blocks = (GopherQualityConfig(min_words=5), GopherQualityConfig())
    run(PipelineConfig(blocks=blocks), task)
    assert task.counters.values["gopher_quality/documents_out"] == 3
    assert task.counters.values["gopher_quality_2/documents_out"] == 2


def test_every_kind_is_built_from_values_and_registered() -> None:
    extra: dict[str, dict[str, object]] = {
        "language": {"model_path": "lid.176.ftz"},
        "sample": {"share": 0.5},
    }
    kinds = [
        str(next(field.default for field in fields(config) if field.name == "kind")) for config in BLOCKS
    ]
    assert len(set(kinds)) == len(kinds)
    values = {"blocks": [{"kind": kind} | extra.get(kind, {}) for kind in kinds]}
    config = build(PipelineConfig, values, "a test")
    assert [type(block) for block in config.blocks] == list(BLOCKS)


def test_crawl_to_documents(
    shared_data: Path, whole: Whole, cut: Cut, make_task: Callable[..., Task], port_files: PortFiles
) -> None:
    """One shard, or three cut at any byte: the same documents, in the same order."""
    [source] = whole(sorted(shared_data.glob("crawl-data/*/segments/*/warc/*.warc.gz"))[3])
    end = 700_000
    pieces = [piece for piece in cut(source, [200_003, 411_111, end]) if piece.end <= end]
    [one] = cut(source, [end])[:1]
    language = LanguageConfig(model_path=str(shared_data / "lid" / "lid.176.ftz"))
    config = PipelineConfig(blocks=(ExtractConfig(extractor="resiliparse"), language))
    single = make_task("single", source=[one])
    run(config, single)
    wanted = read_documents(whole(*port_files(single, "documents")))
    texts = [(document.id, document.text, document.metadata) for document in wanted]
    assert len(texts) > 5
    parts: list[Path] = []
    for shard, piece in enumerate(pieces):
        task = make_task("parts", shard=shard, num_shards=3, source=[piece])
        run(config, task)
        parts += port_files(task, "documents")
    found = read_documents(whole(*parts))
    assert [(document.id, document.text, document.metadata) for document in found] == texts
