"""The checkpoint format: its golden bytes, boxes of any layout, and every way a folder can be wrong."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenmill import checkpoint
from tokenmill.checkpoint import Box, Checkpoint, State, open_folder, open_pieces, write_index, write_shard
from tokenmill.errors import FormatError, InputError, StorageError, VersionError
from tokenmill.executors.job import Piece

STATE = State(step=7, consumed_tokens=700, model={"hidden_size": 4}, extra={"tokenizer_sha256": "ab"})

TENSORS = {
    "model.weight": torch.arange(35, dtype=torch.float64).reshape(7, 5),
    "model.short": torch.arange(6).to(torch.bfloat16),
    "optimizer.step": torch.tensor(3),
}

GOLDEN_SHARD = (
    (72).to_bytes(8, "little")
    + b'{"model.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(72)
    + b"\x00\x00\x80\x3f\x00\x00\x00\x40"
)


def save(folder: Path, tensors: dict[str, Tensor] | None = None) -> str:
    boxes = {name: Box.whole(value) for name, value in (tensors or TENSORS).items()}
    write_index(str(folder), STATE, [write_shard(str(folder), 0, boxes)])
    return str(folder)


def test_golden_bytes(tmp_path: Path) -> None:
    save(tmp_path, {"model.weight": torch.tensor([1.0, 2.0])})
    assert (tmp_path / "shard-00000.safetensors").read_bytes() == GOLDEN_SHARD
    assert json.loads((tmp_path / "index.json").read_bytes()) == {
        "format_version": 1,
        "step": 7,
        "consumed_tokens": 700,
        "model": {"hidden_size": 4},
        "extra": {"tokenizer_sha256": "ab"},
        "files": {"shard-00000.safetensors": hashlib.sha256(GOLDEN_SHARD).hexdigest()},
        "tensors": {
            "model.weight": {
                "dtype": "float32",
                "shape": [2],
                "boxes": [{"file": "shard-00000.safetensors", "offset": [0], "shape": [2]}],
            }
        },
    }


def test_save_and_load(tmp_path: Path) -> None:
    opened = open_folder(save(tmp_path))
    opened.verify()
    assert opened.state == STATE
    assert opened.names == sorted(TENSORS)
    for name, value in TENSORS.items():
        got = opened.read(name)
        assert got.dtype == value.dtype
        assert torch.equal(got, value)
    assert sorted(opened.tensors("model.")) == ["short", "weight"]
    assert opened.shape("model.weight") == (7, 5)
    assert list(opened.files) == ["index.json", "shard-00000.safetensors"]


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a")
    save(tmp_path / "b", dict(reversed(TENSORS.items())))
    for name in ("index.json", "shard-00000.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def grid(rows: list[int], columns: list[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Boxes (offset, shape) that cut [7, 5] at rows and columns."""
    row_parts = list(itertools.pairwise([0, *rows, 7]))
    column_parts = list(itertools.pairwise([0, *columns, 5]))
    return [
        ((r0, c0), (r1 - r0, c1 - c0)) for (r0, r1), (c0, c1) in itertools.product(row_parts, column_parts)
    ]


LAYOUTS = {
    "whole": grid([], []),
    "rows": grid([3], []),
    "uneven rows": grid([1, 2, 6], []),
    "columns": grid([], [2]),
    "both": grid([4], [1, 3]),
}


@pytest.mark.parametrize("stored", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("wanted", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_layout_reads_any_other(tmp_path: Path, stored: Any, wanted: Any) -> None:
    whole = TENSORS["model.weight"]
    shards = []
    for rank, (offset, shape) in enumerate(stored):
        values = whole[offset[0] : offset[0] + shape[0], offset[1] : offset[1] + shape[1]]
        box = Box(values=values, offset=offset, global_shape=(7, 5))
        shards.append(write_shard(str(tmp_path), rank, {"model.weight": box}))
    write_index(str(tmp_path), STATE, shards)
    opened = open_folder(str(tmp_path))
    assert torch.equal(opened.read("model.weight"), whole)
    for offset, shape in wanted:
        values = whole[offset[0] : offset[0] + shape[0], offset[1] : offset[1] + shape[1]]
        assert torch.equal(opened.read("model.weight", offset=offset, shape=shape), values)


def test_pieces_of_a_job_under_other_urls(tmp_path: Path) -> None:
    save(tmp_path)
    moved = tmp_path / "weights.a0.safetensors"
    (tmp_path / "shard-00000.safetensors").rename(moved)
    urls = {"checkpoint/index.json": tmp_path / "index.json", "checkpoint/shard-00000.safetensors": moved}
    pieces = [
        Piece(url=str(url), name=name, file_index=index, start=0, end=1, num_bytes=1)
        for index, (name, url) in enumerate(urls.items())
    ]
    opened = open_pieces(pieces)
    opened.verify()
    assert torch.equal(opened.read("model.weight"), TENSORS["model.weight"])
    with pytest.raises(InputError, match=r"no checkpoint in this input(.|\n)*got: shard-00000"):
        open_pieces(pieces[1:])
    with pytest.raises(InputError, match="got: no files"):
        open_pieces([])


def test_memory_url() -> None:
    boxes = {name: Box.whole(value) for name, value in TENSORS.items()}
    folder = "memory://checkpoints/step-000007"
    write_index(folder, STATE, [write_shard(folder, 0, boxes)])
    opened = open_folder(folder)
    opened.verify()
    assert torch.equal(
        opened.read("model.weight", offset=(2, 1), shape=(3, 4)), TENSORS["model.weight"][2:5, 1:]
    )
    assert checkpoint.list_steps("memory://checkpoints") == [7]


def test_without_an_index_there_is_no_checkpoint(tmp_path: Path) -> None:
    write_shard(str(tmp_path / "step-000001"), 0, {"model.weight": Box.whole(torch.ones(2))})
    save(tmp_path / "step-000002")
    save(tmp_path / "step-000010")
    (tmp_path / "step-x").mkdir()
    assert checkpoint.list_steps(str(tmp_path)) == [2, 10]
    with pytest.raises(InputError, match=r"no checkpoint here(.|\n)*a folder with index\.json"):
        open_folder(str(tmp_path / "step-000001"))
    assert checkpoint.list_steps(str(tmp_path / "none")) == []


def test_removed(tmp_path: Path) -> None:
    folder = save(tmp_path / "step-000002")
    checkpoint.remove(folder)
    assert checkpoint.list_steps(str(tmp_path)) == []
    assert list((tmp_path / "step-000002").iterdir()) == []


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_cut_file(tmp_path: Path, cut: int) -> None:
    folder = save(tmp_path)
    path = tmp_path / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    opened = open_folder(folder)
    with pytest.raises(FormatError, match=r"damaged(.|\n)*shard-00000\.safetensors(.|\n)*sha256"):
        opened.verify()
    with pytest.raises(FormatError, match=r"damaged(.|\n)*shard-00000\.safetensors"):
        opened.read("model.weight")


def test_one_changed_byte(tmp_path: Path) -> None:
    folder = save(tmp_path)
    path = tmp_path / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(FormatError, match="sha256"):
        open_folder(folder).verify()


def test_a_missing_file(tmp_path: Path) -> None:
    folder = save(tmp_path)
    (tmp_path / "shard-00000.safetensors").unlink()
    with pytest.raises(FormatError, match="is missing"):
        open_folder(folder).verify()
    with pytest.raises(FormatError, match="damaged"):
        open_folder(folder).read("model.weight")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"format_version": "x"}', b'{"format_version": 1, "step": 1}']
)
def test_a_damaged_index(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "index.json").write_bytes(data)
    with pytest.raises(FormatError, match=r"the index of a checkpoint is damaged"):
        Checkpoint(str(tmp_path / "index.json"))


def test_another_version(tmp_path: Path) -> None:
    folder = save(tmp_path)
    index = json.loads((tmp_path / "index.json").read_bytes()) | {"format_version": 2}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(VersionError, match=r"expected: 1\n  got: 2"):
        open_folder(folder)


def test_a_tensor_that_is_not_there(tmp_path: Path) -> None:
    opened = open_folder(save(tmp_path))
    with pytest.raises(FormatError, match=r"no such tensor(.|\n)*model\.bias"):
        opened.read("model.bias")


def test_boxes_must_fill_their_tensor(tmp_path: Path) -> None:
    half = Box(values=torch.ones(2, 5), offset=(0, 0), global_shape=(4, 5))
    shard = write_shard(str(tmp_path), 0, {"model.weight": half})
    with pytest.raises(FormatError, match=r"do not fill it(.|\n)*20 values(.|\n)*10 values"):
        write_index(str(tmp_path), STATE, [shard])
    other = Box(values=torch.ones(2, 5, dtype=torch.float64), offset=(2, 0), global_shape=(4, 5))
    with pytest.raises(FormatError, match=r"ranks disagree(.|\n)*float32(.|\n)*float64"):
        write_index(str(tmp_path), STATE, [shard, write_shard(str(tmp_path), 1, {"model.weight": other})])
    assert not (tmp_path / "index.json").exists()


def test_an_index_is_published_once(tmp_path: Path) -> None:
    save(tmp_path)
    save(tmp_path)  # equal bytes: another attempt of the same step
    with pytest.raises(StorageError, match="another checkpoint is already there"):
        save(tmp_path, {"model.weight": torch.ones(1)})


def test_a_dtype_that_is_not_held(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"dtype(.|\n)*complex"):
        write_shard(str(tmp_path), 0, {"model.weight": Box.whole(torch.ones(1, dtype=torch.complex64))})
