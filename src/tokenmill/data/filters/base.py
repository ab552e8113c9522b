"""What every block shares: counting, timing, and the account of what it drops."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tokenmill.data.document import Document
from tokenmill.telemetry import Counters

OnDrop = Callable[[Document, str, str], None]


def _ignore(document: Document, block: str, reason: str) -> None:
    """Default of a block outside a pipeline."""


@dataclass(kw_only=True)
class Tally:
    """What went through a block."""

    documents_in: int = 0
    """Documents taken."""
    documents_out: int = 0
    """Documents given."""
    bytes_in: int = 0
    """UTF-8 bytes of the texts taken."""
    bytes_out: int = 0
    """UTF-8 bytes of the texts given."""
    seconds: float = 0.0
    """CPU time of this block alone, in seconds."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Documents dropped, by reason."""
    events: dict[str, int] = field(default_factory=dict)
    """Anything else that a block counts."""

    def event(self, name: str, count: int = 1) -> None:
        """Count something that is not a document."""
        self.events[name] = self.events.get(name, 0) + count

    def write(self, counters: Counters, name: str) -> None:
        """Add everything to a task's counters under the block's name."""
        for key in ("documents_in", "documents_out", "bytes_in", "bytes_out", "seconds"):
            counters.add(f"{name}/{key}", getattr(self, key))
        for reason in sorted(self.dropped):
            counters.add(f"{name}/dropped/{reason}", self.dropped[reason])
        for event in sorted(self.events):
            counters.add(f"{name}/{event}", self.events[event])


class Block:
    """A transformation of a stream of documents; write ``process``.

    Args:
        name: how the report calls it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.tally = Tally()
        self.on_drop: OnDrop = _ignore

    def process(self, documents: Iterator[Document]) -> Iterator[Document]:
        """Turn documents into documents; call ``drop`` for those that leave."""
        raise NotImplementedError

    def drop(self, document: Document, reason: str) -> None:
        """Account for a document that leaves here."""
        self.tally.dropped[reason] = self.tally.dropped.get(reason, 0) + 1
        self.on_drop(document, self.name, reason)

    def run(self, documents: Iterator[Document]) -> Iterator[Document]:
        """``process`` with counts and CPU time; that of earlier and later blocks is not counted."""
        tally = self.tally
        outputs = self.process(self._counted_inputs(documents))
        while True:
            started = time.thread_time()
            document = next(outputs, None)
            tally.seconds += time.thread_time() - started
            if document is None:
                return
            tally.documents_out += 1
            tally.bytes_out += len(document.text.encode())
            yield document

    def _counted_inputs(self, documents: Iterator[Document]) -> Iterator[Document]:
        tally = self.tally
        while True:
            started = time.thread_time()
            document = next(documents, None)
            tally.seconds -= time.thread_time() - started  # upstream's time, inside the span measured by run
            if document is None:
                return
            tally.documents_in += 1
            tally.bytes_in += len(document.text.encode())
            yield document


class Filter(Block):
    """A block that keeps or drops; write ``judge``."""

    def judge(self, document: Document) -> str | None:
        """None to keep the document, or the reason to drop it; may change its text or metadata."""
        raise NotImplementedError

    def process(self, documents: Iterator[Document]) -> Iterator[Document]:
        """Keep or drop each document."""
        for document in documents:
            reason = self.judge(document)
            if reason is None:
                yield document
            else:
                self.drop(document, reason)
