"""A pipeline: documents from a reader, through blocks, into a port; one entry for every such job."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenmill.data.document import Document
from tokenmill.data.extract import Extract, ExtractConfig
from tokenmill.data.filters.base import Block
from tokenmill.data.filters.c4_quality import C4Quality, C4QualityConfig
from tokenmill.data.filters.fineweb_quality import FineWebQuality, FineWebQualityConfig
from tokenmill.data.filters.gopher_quality import GopherQuality, GopherQualityConfig
from tokenmill.data.filters.gopher_repetition import GopherRepetition, GopherRepetitionConfig
from tokenmill.data.filters.language import Language, LanguageConfig
from tokenmill.data.filters.sample import Sample, SampleConfig
from tokenmill.data.filters.url import Url, UrlConfig
from tokenmill.data.readers import ReaderConfig, read_documents
from tokenmill.data.warc import Account
from tokenmill.data.writers import PortWriter, WriterConfig
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors.job import Piece, Task

BlockConfig = (
    UrlConfig
    | ExtractConfig
    | LanguageConfig
    | GopherRepetitionConfig
    | GopherQualityConfig
    | C4QualityConfig
    | FineWebQualityConfig
    | SampleConfig
)
BLOCKS: Mapping[type, Callable[[Any], Block]] = {
    UrlConfig: Url,
    ExtractConfig: Extract,
    LanguageConfig: Language,
    GopherRepetitionConfig: GopherRepetition,
    GopherQualityConfig: GopherQuality,
    C4QualityConfig: C4Quality,
    FineWebQualityConfig: FineWebQuality,
    SampleConfig: Sample,
}
_MOST_KEPT, _MOST_REJECTS, _MOST_PER_REASON = 4, 24, 2
_EXCERPT, _MOST_FAULT_LINES = 700, 100


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """A pipeline over documents."""

    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """How input files become documents."""
    blocks: tuple[BlockConfig, ...] = ()
    """What happens to them, in order."""
    writer: WriterConfig = field(default_factory=WriterConfig)
    """Where they go."""


def run(config: PipelineConfig, task: Task) -> None:
    """Entry: read the shard's documents, pass them through the blocks, write what is kept and dropped.

    Raises:
        InputError: an input file is missing.
        ConfigError: a block cannot be made of its settings.
    """
    for block in config.blocks:
        if type(block) not in BLOCKS:
            raise ConfigError(
                "a kind of block without a block",
                where=f"{__name__}.BLOCKS",
                got=type(block).__name__,
                fix="list its config and its class there",
            )
    blocks = [BLOCKS[type(block)](block) for block in config.blocks]
    run_blocks(task, blocks, reader=config.reader, writer=config.writer)


def run_blocks(task: Task, blocks: Sequence[Block], *, reader: ReaderConfig, writer: WriterConfig) -> None:
    """Pass the shard's documents through blocks, write them, and report."""
    _name_apart(blocks)
    account = account_of(task)
    samples = Samples()
    pieces = pieces_of(task, reader.input)
    with PortWriter(task, writer.port, level=writer.level) as kept:
        if writer.rejected_port:
            with PortWriter(task, writer.rejected_port, level=writer.level) as rejected:
                _drain(read_documents(pieces, reader, account), blocks, kept, rejected, samples)
        else:
            _drain(read_documents(pieces, reader, account), blocks, kept, None, samples)
    _report(task, account, blocks, samples)


def _drain(
    documents: Iterator[Document],
    blocks: Sequence[Block],
    kept: PortWriter,
    rejected: PortWriter | None,
    samples: "Samples",
) -> None:
    def on_drop(document: Document, block: str, reason: str) -> None:
        samples.reject(document, block, reason)
        if rejected is not None:
            document.metadata |= {"rejected_by": block, "reason": reason}
            rejected.write(document)

    for block in blocks:
        block.on_drop = on_drop
        documents = block.run(documents)
    for document in documents:
        samples.keep(document)
        kept.write(document)


def _name_apart(blocks: Sequence[Block]) -> None:
    """Number the blocks of one kind, so that counters stay apart."""
    seen: dict[str, int] = {}
    for block in blocks:
        seen[block.name] = seen.get(block.name, 0) + 1
        if seen[block.name] > 1:
            block.name = f"{block.name}_{seen[block.name]}"


def pieces_of(task: Task, name: str) -> tuple[Piece, ...]:
    """Pieces of the named input, or of the only one.

    Raises:
        InputError: the job has no such input.
        ConfigError: the job has several inputs and none is named.
    """
    inputs = task.shard.inputs
    if name in inputs:
        return task.inputs(name)
    if name:
        raise InputError("no such input", where=task.job.name, expected=" ".join(inputs), got=name)
    if len(inputs) != 1:
        raise ConfigError(
            "which input to read is not clear",
            where=task.job.name,
            got=" ".join(inputs) or "no input",
            fix="set reader.input",
        )
    return task.inputs(next(iter(inputs)))


def account_of(task: Task) -> Account:
    """An account that logs the first broken records and counts all."""
    left = [_MOST_FAULT_LINES]

    def on_broken(where: str, what: str) -> None:
        if left[0] > 0:
            task.log.warning("broken: %s: %s", where, what)
        left[0] -= 1
        if left[0] == 0:
            task.log.warning("broken: more of them, counted only")

    return Account(on_broken=on_broken)


@dataclass(kw_only=True)
class Samples:
    """A few texts for people to look at."""

    kept: list[dict[str, str]] = field(default_factory=list)
    """Documents that reached the end."""
    rejected: list[dict[str, str]] = field(default_factory=list)
    """Documents dropped on the way, a few per reason."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Samples per reason."""

    def keep(self, document: Document) -> None:
        """Consider a kept document."""
        if len(self.kept) < _MOST_KEPT:
            self.kept.append(excerpt(document, ""))

    def reject(self, document: Document, block: str, reason: str) -> None:
        """Consider a dropped document."""
        note = f"{block}: {reason}"
        if len(self.rejected) < _MOST_REJECTS and self.reasons.get(note, 0) < _MOST_PER_REASON:
            self.reasons[note] = self.reasons.get(note, 0) + 1
            self.rejected.append(excerpt(document, note))


def excerpt(document: Document, note: str) -> dict[str, str]:
    """The start of a document as an item of a report."""
    text = document.text
    shown = text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]} … ({len(text):,} characters)"
    return {"title": document.url or document.id, "text": shown, "note": note}


def report_reading(task: Task, account: Account) -> None:
    """Counters and a figure of what was read and what was not."""
    task.counters.add("read/documents", account.documents)
    rows: list[tuple[str, int]] = []
    for group, reasons in (("skipped", account.skipped), ("broken", account.broken)):
        for reason in sorted(reasons):
            task.counters.add(f"read/{group}/{reason}", reasons[reason])
            rows.append((f"{group}: {reason}", reasons[reason]))
    if rows:
        task.report.bars("Records that are not documents", unit="records", rows=rows)


def _report(task: Task, account: Account, blocks: Sequence[Block], samples: Samples) -> None:
    report_reading(task, account)
    for block in blocks:
        block.tally.write(task.counters, block.name)
    funnel = [("read", account.documents)] + [(block.name, block.tally.documents_out) for block in blocks]
    task.report.bars("Documents after each block", unit="documents", rows=funnel)
    drops = [
        (f"{block.name}: {reason}", count)
        for block in blocks
        for reason, count in sorted(block.tally.dropped.items(), key=lambda item: (-item[1], item[0]))
    ]
    if drops:
        task.report.bars("Why documents were dropped", unit="documents", rows=drops, by_value=True)
    seconds = [(block.name, round(block.tally.seconds, 3)) for block in blocks]
    task.report.bars("CPU time in each block", unit="s", rows=seconds)
    task.report.texts("Kept documents", items=samples.kept)
    task.report.texts("Dropped documents", items=samples.rejected)
