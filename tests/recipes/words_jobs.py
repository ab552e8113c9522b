"""A tiny story for tests of the command: lines -> words -> counts."""

import collections
import time
from dataclasses import dataclass

from tokenmill.errors import StorageError
from tokenmill.executors.job import Task


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Values of ``split``."""

    least_letters: int = 1
    """Shorter words are dropped."""
    fail_on: str = ""
    """A word that makes the shard fail."""
    seconds: float = 0.0
    """Time to wait, in seconds."""


def split(config: SplitConfig, task: Task) -> None:
    """Write the words of every line that begins in the shard's pieces."""
    time.sleep(config.seconds)
    with task.output(f"words/{task.shard_name}.jsonl") as out:
        for piece in task.inputs("lines"):
            for line in _lines(piece.url, piece.start, piece.end):
                task.counters.add("split/documents_in")
                words = [word for word in line.split() if len(word) >= config.least_letters]
                if config.fail_on and config.fail_on in words:
                    raise StorageError("a forbidden word <b>", where=piece.name, got=config.fail_on)
                if words:
                    task.counters.add("split/documents_out")
                    out.write((" ".join(words) + "\n").encode())
                else:
                    task.counters.add("split/dropped/no_words")
    task.log.info("split is done")


def _lines(url: str, start: int, end: int) -> list[str]:
    """Lines that begin in [start, end) of the file."""
    with open(url, "rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()
        found = []
        while file.tell() < end and (line := file.readline()):
            found.append(line.decode())
    return found


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    """Values of ``count``."""

    num_words: int = 3
    """Most frequent words to report."""


def count(config: CountConfig, task: Task) -> None:
    """Count words over all shards."""
    counts: collections.Counter[str] = collections.Counter()
    for piece in task.inputs("words"):
        for line in _lines(piece.url, piece.start, piece.end):
            counts.update(line.split())
    best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: config.num_words]
    with task.output("counts/counts.txt") as out:
        out.write("".join(f"{word} {number}\n" for word, number in best).encode())
    task.counters.add("words", counts.total())
    task.report.bars("Most frequent <words>", unit="times", rows=best)
    task.report.table(
        "Words", columns=["word", "count", "share"], rows=[[w, n, n / counts.total()] for w, n in best]
    )
    task.report.series(
        "Rank", x_label="rank", y_label="count", lines={"all": list(enumerate(counts.values()))}
    )
    task.report.texts(
        "Sample", items=[{"title": "first", "text": "<script>alert(1)</script>", "note": "escaped"}]
    )
