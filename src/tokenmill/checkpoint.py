"""Checkpoints: tensors in safetensors files, and an index that says where every box of them lies.

    step-000123/
      shard-00000.safetensors     boxes owned by rank 0
      shard-00001.safetensors     boxes owned by rank 1
      index.json                  version, step, tokens, model, extra, tensors -> boxes, files -> sha256

A box is a rectangular part of a tensor: an offset and a shape. Any layout of ranks writes boxes and any
other reads them back. The index is published last, so a folder without one is no checkpoint.

Tensors are named ``model.<parameter>`` and ``optimizer.<state>.<parameter>``; this module knows no model.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tokenmill import storage
from tokenmill.errors import FormatError, InputError, StorageError, VersionError
from tokenmill.executors.job import Piece

FORMAT_VERSION = 1
INDEX_NAME = "index.json"

Shape = tuple[int, ...]

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
_DTYPES |= {"float16": torch.float16, "int64": torch.int64}


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangular part of a global tensor and the values in it."""

    values: Tensor
    """The values; their shape is the box's."""
    offset: Shape
    """First index of the box in every dim."""
    global_shape: Shape
    """Shape of the whole tensor."""

    @classmethod
    def whole(cls, values: Tensor) -> "Box":
        """The box that holds all of a tensor."""
        return cls(values=values, offset=(0,) * values.dim(), global_shape=tuple(values.shape))


@dataclass(frozen=True, kw_only=True)
class State:
    """What a checkpoint says beside its tensors."""

    step: int
    """Optimizer steps done."""
    consumed_tokens: int
    """Tokens read from the data so far."""
    model: Mapping[str, Any]
    """Sizes of the model: keyword arguments of its config class."""
    extra: Mapping[str, Any]
    """Anything else of plain values: the run's config, the tokenizer's sha256."""


def step_folder(root_url: str, step: int) -> str:
    """Folder of one step's checkpoint.

    >>> step_folder("run/progress", 123)
    'run/progress/step-000123'
    """
    return storage.join(root_url, f"step-{step:06d}")


def write_shard(folder_url: str, rank: int, boxes: Mapping[str, Box]) -> dict[str, Any]:
    """Write the boxes that one rank owns.

    Args:
        folder_url: the checkpoint's folder.
        rank: number for the file's name.
        boxes: tensor name -> box.

    Returns:
        Plain values which rank 0 hands to ``write_index``.

    Raises:
        StorageError: the bytes could not be written.
    """
    name = f"shard-{rank:05d}.safetensors"
    values = {key: box.values.detach().cpu().contiguous() for key, box in sorted(boxes.items())}
    url = storage.join(folder_url, name)
    storage.write_atomic(url, safetensors.torch.save(values))
    entries = {
        key: {
            "dtype": _dtype_name(box.values.dtype, key),
            "shape": list(box.global_shape),
            "box": {"offset": list(box.offset), "shape": list(box.values.shape), "file": name},
        }
        for key, box in boxes.items()
    }
    return {"file": name, "sha256": storage.sha256_of(url), "tensors": entries}


def write_index(folder_url: str, state: State, shards: Sequence[Mapping[str, Any]]) -> None:
    """Make the checkpoint exist.

    Args:
        folder_url: the checkpoint's folder, all shards written.
        state: what it says beside its tensors.
        shards: what ``write_shard`` gave on every rank, in order of rank.

    Raises:
        FormatError: two boxes do not belong to one tensor, or they leave a part of it out.
        StorageError: the index could not be written, or another one is already there.
    """
    tensors: dict[str, dict[str, Any]] = {}
    for shard in shards:
        for name, entry in shard["tensors"].items():
            head = {"dtype": entry["dtype"], "shape": entry["shape"]}
            known = tensors.setdefault(name, {**head, "boxes": []})
            if {key: known[key] for key in head} != head:
                raise FormatError(
                    "ranks disagree on a tensor", where=name, expected=str(known), got=str(head)
                )
            known["boxes"].append(entry["box"])
    for name, entry in tensors.items():
        _check_cover(name, entry)
    index = {
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "consumed_tokens": state.consumed_tokens,
        "model": dict(state.model),
        "extra": dict(state.extra),
        "files": {shard["file"]: shard["sha256"] for shard in shards},
        "tensors": tensors,
    }
    url = storage.join(folder_url, INDEX_NAME)
    data = storage.dump_json(index, indent=1)
    if not storage.publish_once(url, data) and storage.read_bytes(url) != data:
        raise StorageError("another checkpoint is already there", where=url, fix="remove it, then run again")


def _dtype_name(dtype: torch.dtype, where: str) -> str:
    for name, known in _DTYPES.items():
        if known is dtype:
            return name
    raise FormatError("a dtype that checkpoints do not hold", where=where, got=str(dtype))


def _check_cover(name: str, entry: Mapping[str, Any]) -> None:
    held = sum(math.prod(box["shape"]) for box in entry["boxes"])
    if held != math.prod(entry["shape"]):
        raise FormatError(
            "the boxes of a tensor do not fill it",
            where=name,
            expected=f"{math.prod(entry['shape'])} values",
            got=f"{held} values",
        )


class Checkpoint:
    """A checkpoint opened for reading.

    Args:
        index_url: URL of the index.
        files: file name -> URL; files that are not named lie beside the index.

    Raises:
        InputError: there is no index.
        FormatError: the index is damaged.
        VersionError: a newer tokenmill wrote it.

    Attributes:
        state: what the checkpoint says beside its tensors.
        names: names of all tensors, sorted.
    """

    def __init__(self, index_url: str, files: Mapping[str, str] | None = None) -> None:
        self.url = index_url
        folder = index_url.rsplit("/", 1)[0]
        index = _read_index(index_url)
        self._sha256: dict[str, str] = index["files"]
        self._urls = {name: storage.join(folder, name) for name in self._sha256} | dict(files or {})
        self._tensors: dict[str, dict[str, Any]] = index["tensors"]
        self._remote: tuple[str, dict[str, Tensor]] = ("", {})
        self.names = sorted(self._tensors)
        keys = ("step", "consumed_tokens", "model", "extra")
        self.state = State(**{key: index[key] for key in keys})

    @property
    def files(self) -> dict[str, str]:
        """Name -> URL of every file, the index first."""
        return {INDEX_NAME: self.url, **self._urls}

    def verify(self) -> None:
        """Read every file once.

        Raises:
            FormatError: a file is missing, cut or changed.
        """
        for name, expected in self._sha256.items():
            url = self._urls[name]
            try:
                got = storage.sha256_of(url)
            except InputError as error:
                raise FormatError(
                    "a file of the checkpoint is missing", where=url, fix="use an older step"
                ) from error
            if got != expected:
                raise FormatError(
                    "a file of the checkpoint is damaged",
                    where=url,
                    expected=f"sha256 {expected}",
                    got=f"sha256 {got}",
                    fix="use an older step",
                )

    def shape(self, name: str) -> Shape:
        """Global shape of a tensor."""
        return tuple(self._entry(name)["shape"])

    def tensors(self, prefix: str = "model.") -> dict[str, Tensor]:
        """All whole tensors whose names begin with a prefix, without it."""
        return {name.removeprefix(prefix): self.read(name) for name in self.names if name.startswith(prefix)}

    def read(self, name: str, *, offset: Shape | None = None, shape: Shape | None = None) -> Tensor:
        """Read a box of a tensor from the boxes that hold it; only the bytes needed, if files are local.

        Args:
            name: name of the tensor.
            offset: first index in every dim; None: zeros.
            shape: the box's shape; None: up to the tensor's end.

        Returns:
            The values, on the CPU.

        Raises:
            FormatError: no such tensor, or its file is damaged.
        """
        entry = self._entry(name)
        offset = offset or (0,) * len(entry["shape"])
        shape = shape or tuple(size - first for size, first in zip(entry["shape"], offset, strict=True))
        result = torch.empty(shape, dtype=_DTYPES[entry["dtype"]])
        for box in entry["boxes"]:
            overlap = _intersect(offset, shape, tuple(box["offset"]), tuple(box["shape"]))
            if overlap is not None:
                target, source = overlap
                result[target] = self._read_slice(box["file"], name, source)
        return result

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self._tensors:
            raise FormatError("the checkpoint has no such tensor", where=self.url, expected=name)
        return self._tensors[name]

    def _read_slice(self, file: str, name: str, source: tuple[slice, ...]) -> Tensor:
        url = self._urls[file]
        try:
            if not storage.is_local(url):
                return self._remote_file(url)[name][source]
            with safetensors.safe_open(str(storage.local_path(url)), framework="pt") as opened:
                if not source:
                    return cast("Tensor", opened.get_tensor(name))
                return cast("Tensor", opened.get_slice(name)[source])
        except (safetensors.SafetensorError, InputError, FileNotFoundError, KeyError) as error:
            raise FormatError(
                "a file of the checkpoint is damaged", where=url, got=str(error), fix="use an older step"
            ) from error

    def _remote_file(self, url: str) -> dict[str, Tensor]:
        """Tensors of a file that cannot be mapped; the last one is kept."""
        if self._remote[0] != url:
            self._remote = (url, safetensors.torch.load(storage.read_bytes(url)))
        return self._remote[1]


def _intersect(
    offset: Shape, shape: Shape, box_offset: Shape, box_shape: Shape
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Slices of the common part, within the wanted box and within the stored one."""
    target, source = [], []
    for first, size, box_first, box_size in zip(offset, shape, box_offset, box_shape, strict=True):
        low, high = max(first, box_first), min(first + size, box_first + box_size)
        if low >= high:
            return None
        target.append(slice(low - first, high - first))
        source.append(slice(low - box_first, high - box_first))
    return tuple(target), tuple(source)


def _read_index(url: str) -> dict[str, Any]:
    try:
        index = json.loads(storage.read_bytes(url))
        version = int(index["format_version"])
    except InputError as error:
        raise InputError(
            "no checkpoint here", where=url, expected=f"a folder with {INDEX_NAME}", fix="use a complete step"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError("the index of a checkpoint is damaged", where=url, got=str(error)) from error
    if version != FORMAT_VERSION:
        raise VersionError(
            "checkpoint of another version", where=url, expected=str(FORMAT_VERSION), got=str(version)
        )
    missing = {"step", "consumed_tokens", "model", "extra", "files", "tensors"} - set(index)
    if missing:
        raise FormatError(
            "the index of a checkpoint is damaged", where=url, expected=", ".join(sorted(missing))
        )
    return cast("dict[str, Any]", index)


def open_folder(folder_url: str) -> Checkpoint:
    """Open the checkpoint in a folder; raises what ``Checkpoint`` raises."""
    return Checkpoint(storage.join(folder_url, INDEX_NAME))


def open_pieces(pieces: Iterable[Piece]) -> Checkpoint:
    """Open the checkpoint whose files are an input of a job, found by their logical names.

    Raises:
        InputError: no piece is an index.
    """
    urls = {piece.name.rsplit("/", 1)[-1]: piece.url for piece in pieces}
    if INDEX_NAME not in urls:
        raise InputError(
            "no checkpoint in this input", expected=INDEX_NAME, got=", ".join(sorted(urls)) or "no files"
        )
    return Checkpoint(urls.pop(INDEX_NAME), urls)


def list_steps(root_url: str) -> list[int]:
    """Steps below a folder whose checkpoints are complete, oldest first."""
    return sorted(_complete_steps(root_url))


def _complete_steps(root_url: str) -> Iterator[int]:
    for name in storage.list_names(root_url):
        number = name.removeprefix("step-")
        if number.isdigit() and storage.exists(storage.join(root_url, name, INDEX_NAME)):
            yield int(number)


def remove(folder_url: str) -> None:
    """Remove a checkpoint, its index first, so that no reader takes the rest for one."""
    storage.remove(storage.join(folder_url, INDEX_NAME))
    for info in storage.list_files(folder_url):
        storage.remove(info.url)
