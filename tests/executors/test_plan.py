import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.errors import InputError
from tokenmill.executors.job import Job, Sharding
from tokenmill.executors.plan import InputFile, cut, make_plan


def files(*sizes: int, suffix: str = ".jsonl") -> list[InputFile]:
    return [
        InputFile(url=f"/x/{n}{suffix}", name=f"{n}{suffix}", num_bytes=size) for n, size in enumerate(sizes)
    ]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=20), st.integers(1, 3000), st.booleans())
def test_pieces_cover_every_byte_once_in_order(sizes: list[int], target: int, split: bool) -> None:
    found = files(*sizes)
    parts = cut(found, target, split_files=split)
    pieces = [piece for part in parts for piece in part]
    assert all(parts)
    for index, file in enumerate(found):
        mine = [piece for piece in pieces if piece.file_index == index]
        assert mine[0].start == 0
        assert mine[-1].end == file.num_bytes
        assert all(left.end == right.start for left, right in itertools.pairwise(mine))
        assert split or len(mine) == 1
    assert [piece.file_index for piece in pieces] == sorted(piece.file_index for piece in pieces)


def test_shards_of_one_big_file_are_balanced() -> None:
    parts = cut(files(100_000), 10_000, split_files=True)
    assert [part[0].end - part[0].start for part in parts] == [10_000] * 10


def test_cuts_near_a_border_move_onto_it() -> None:
    parts = cut(files(1000, 980, 1020), 1000, split_files=True)
    assert [[(piece.file_index, piece.start) for piece in part] for part in parts] == [
        [(0, 0)],
        [(1, 0)],
        [(2, 0)],
    ]


def test_files_that_cannot_be_entered_are_not_cut() -> None:
    parts = cut(files(5000, suffix=".jsonl.gz"), 1000, split_files=True)
    assert [len(part) for part in parts] == [1]
    parts = cut(files(5000, suffix=".warc.gz"), 1000, split_files=True)
    assert len(parts) == 5


def test_modes() -> None:
    inputs = {"a": files(10, 10), "b": files(5, suffix=".bin")}
    job = Job(name="j", entry="x.y", inputs={"a": "a", "b": "b"})

    def plan(**sharding: object) -> list[list[int]]:
        shards = make_plan(Job(**(vars(job) | {"sharding": Sharding(**sharding)})), inputs)  # type: ignore[arg-type]
        return [[len(shard.inputs["a"]), len(shard.inputs["b"])] for shard in shards]

    assert plan(mode="whole") == [[2, 1]]
    assert plan(mode="count", count=3) == [[2, 1]] * 3
    assert plan(mode="pieces", target_bytes=10) == [[1, 1], [1, 1]]
    assert plan(mode="pieces", over="b") == [[2, 1]]
    with pytest.raises(InputError, match="sharding names an input"):
        plan(mode="pieces", over="c")


def test_an_input_without_files_is_refused() -> None:
    with pytest.raises(InputError, match="job j, input a"):
        make_plan(Job(name="j", entry="x.y", inputs={"a": "a"}), {"a": []})
