import pickle

from hypothesis import given
from hypothesis import strategies as st

from tokenmill.errors import ConfigError, TokenmillError
from tokenmill.telemetry import Counters, Report

NAMES = st.sampled_from(["documents", "length_max", "length_min"])
COUNTERS = st.lists(st.tuples(NAMES, st.integers(-100, 100)), max_size=20)


@given(st.lists(COUNTERS, max_size=6))
def test_merging_in_parts_equals_adding_all(parts: list[list[tuple[str, int]]]) -> None:
    whole, merged = Counters(), Counters()
    for part in parts:
        mine = Counters()
        for name, value in part:
            mine.add(name, value)
            whole.add(name, value)
        merged.merge(mine)
    assert merged.values == whole.values


def test_figures_of_shards_join() -> None:
    total, shards = Report(), []
    for number in range(3):
        shard = Report()
        shard.bars("Documents", unit="documents", rows=[("read", 2), (f"only {number}", 1)])
        shard.table("Files", columns=["name"], rows=[[f"{number}"]])
        shard.series("Loss", x_label="step", y_label="nats", lines={"train": [(number, 1.5)]})
        shard.texts("Kept", items=[{"title": str(number), "text": "t"}])
        shards.append(shard.figures)
    for figures in shards:
        total.merge(figures)
    bars, table, series, texts = total.figures
    assert bars["rows"] == [["read", 6], ["only 0", 1], ["only 1", 1], ["only 2", 1]]
    assert table["rows"] == [["0"], ["1"], ["2"]]
    assert series["lines"] == {"train": [[0, 1.5], [1, 1.5], [2, 1.5]]}
    assert [item["title"] for item in texts["items"]] == ["0", "1", "2"]
    assert shards[0][0]["rows"] == [["read", 2], ["only 0", 1]], "merging must not change a shard's figures"


def test_rows_are_bounded() -> None:
    total = Report()
    for _ in range(5):
        shard = Report()
        shard.table("Files", columns=["name"], rows=[["x"]] * 60)
        total.merge(shard.figures, most_rows=100)
    assert len(total.figures[0]["rows"]) == 100


def test_errors_say_what_where_and_what_to_do() -> None:
    error = ConfigError("unknown key", where="job a", expected="steps", got="step", fix="rename it")
    assert str(error).splitlines() == [
        "unknown key",
        "  where: job a",
        "  expected: steps",
        "  got: step",
        "  fix: rename it",
    ]
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.fix) == (ConfigError, str(error), "rename it")
    assert isinstance(error, TokenmillError)
