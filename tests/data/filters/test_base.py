from collections.abc import Iterator

from tokenmill.data.document import Document
from tokenmill.data.filters.base import Block, Filter
from tokenmill.telemetry import Counters


class Short(Filter):
    def judge(self, document: Document) -> str | None:
        return "long" if len(document.text) > 3 else None


class Twice(Block):
    def process(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in documents:
            yield document
            yield document


def test_counts_drops_and_time() -> None:
    documents = [Document(id=text, text=text) for text in ("a", "häh", "long one", "b")]
    first, second = Short("short"), Twice("twice")
    dropped: list[tuple[str, str, str]] = []
    first.on_drop = lambda document, block, reason: dropped.append((document.id, block, reason))
    found = [document.id for document in second.run(first.run(iter(documents)))]
    assert found == ["a", "a", "häh", "häh", "b", "b"]
    assert dropped == [("long one", "short", "long")]
    counters = Counters()
    for block in (first, second):
        assert 0 <= block.tally.seconds < 1
        block.tally.seconds = 0
        block.tally.write(counters, block.name)
    first.tally.event("looked", 2)
    assert counters.values == {
        "short/documents_in": 4,
        "short/documents_out": 3,
        "short/bytes_in": 14,
        "short/bytes_out": 6,
        "short/seconds": 0,
        "short/dropped/long": 1,
        "twice/documents_in": 3,
        "twice/documents_out": 6,
        "twice/bytes_in": 6,
        "twice/bytes_out": 12,
        "twice/seconds": 0,
    }


def test_an_error_in_a_block_is_not_hidden() -> None:
    class Wrong(Filter):
        def judge(self, document: Document) -> str | None:
            raise RuntimeError("wrong")

    try:
        list(Wrong("wrong").run(iter([Document(id="a", text="a")])))
    except RuntimeError as error:
        assert str(error) == "wrong"  # noqa: PT017 - pytest.raises would also catch a StopIteration turned error
    else:
        raise AssertionError
