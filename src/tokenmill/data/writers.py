"""Writers: documents into the ports of a task."""

from dataclasses import dataclass
from types import TracebackType

from tokenmill.data.document import EXTENSION, Document, DocumentWriter
from tokenmill.executors.job import Task


@dataclass(frozen=True, kw_only=True)
class WriterConfig:
    """Where documents go."""

    port: str = "documents"
    """Port of the kept documents."""
    rejected_port: str = "rejected"
    """Port of the dropped documents; empty: they are only counted."""
    level: int = 3
    """zstd level, from 1 to 22."""


class PortWriter:
    """Writes one documents file per shard into a port; use as a context manager.

    Args:
        task: whose output it is.
        port: first part of the file's logical name.
        level: zstd level.
    """

    def __init__(self, task: Task, port: str, *, level: int = 3) -> None:
        self._output = task.output(f"{port}/{task.shard_name}{EXTENSION}")
        self._writer = DocumentWriter(self._output, level=level)

    def write(self, document: Document) -> None:
        """Add a document."""
        self._writer.write(document)

    def __enter__(self) -> "PortWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._writer.close()
        self._output.__exit__(kind, error, trace)
