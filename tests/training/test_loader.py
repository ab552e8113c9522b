"""Windows over shards: every id once, document starts masked, and who reads what is a pure function."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tokenmill.errors import ConfigError, InputError
from tokenmill.kernels.cross_entropy import IGNORED
from tokenmill.tokens.shards import ShardWriter, TokenShard
from tokenmill.training.loader import Loader, TokenStream


def shard(path: Path, documents: list[list[int]]) -> TokenShard:
    writer = ShardWriter(vocab_size=1000, tokenizer_sha256="00" * 32, end_id=0)
    for document in documents:
        writer.add(document)
    with path.open("wb") as file:
        writer.write(file)
    return TokenShard(str(path))


@pytest.fixture
def shards(tmp_path: Path) -> list[TokenShard]:
    """Seven documents over four files, one of them empty."""
    files: list[list[list[int]]] = [
        [[1, 2, 3], [4]],
        [],
        [[5, 6, 7, 8, 9], []],
        [[10, 11], [12, 13, 14, 15, 16], [17]],
    ]
    return [shard(tmp_path / f"{index}.tokens", documents) for index, documents in enumerate(files)]


IDS = [1, 2, 3, 0, 4, 0, 5, 6, 7, 8, 9, 0, 0, 10, 11, 0, 12, 13, 14, 15, 16, 0, 17, 0]
STARTS = [0, 4, 6, 12, 13, 16, 22]


@pytest.mark.parametrize("seq_len", [1, 2, 3, 5, 7, 23])
def test_every_id_but_the_first_is_a_label_once(shards: list[TokenShard], seq_len: int) -> None:
    stream = TokenStream(shards, seq_len=seq_len)
    windows = [stream.window(index) for index in range(len(stream))]
    assert len(stream) == (len(IDS) - 1) // seq_len
    labels = np.concatenate([labels for _, labels in windows]).tolist()
    inputs = np.concatenate([inputs for inputs, _ in windows]).tolist()
    assert labels == IDS[1 : 1 + len(stream) * seq_len]
    assert inputs == IDS[: len(stream) * seq_len]


@pytest.mark.parametrize("seq_len", [1, 2, 3, 5, 7, 23])
def test_document_starts_do_not_count(shards: list[TokenShard], seq_len: int) -> None:
    stream = TokenStream(shards, seq_len=seq_len, mask_document_starts=True)
    labels = np.concatenate([stream.window(index)[1] for index in range(len(stream))])
    masked = (np.flatnonzero(labels == IGNORED) + 1).tolist()
    assert masked == [start for start in STARTS[1:] if start <= len(labels)]


def test_the_ids_on_disk_are_not_touched(shards: list[TokenShard]) -> None:
    stream = TokenStream(shards, seq_len=5, mask_document_starts=True)
    first = stream.window(0)[1].tolist()
    assert stream.window(0)[1].tolist() == first == [2, 3, 0, IGNORED, 0]


def test_batches_do_not_depend_on_how_they_are_asked_for(shards: list[TokenShard]) -> None:
    streams = {"a": TokenStream(shards[:3], seq_len=2), "b": TokenStream(shards[3:], seq_len=2)}
    whole = Loader(streams, weights={"a": 2, "b": 1}, seed=3).batch(range(40))
    again = Loader(streams, weights={"a": 2, "b": 1}, seed=3)
    parts = [again.batch(range(start, start + 5)) for start in range(35, -1, -5)][::-1]
    assert torch.equal(torch.cat([part.inputs for part in parts]), whole.inputs)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    assert whole.inputs.dtype == torch.int64
    assert whole.inputs.shape == (40, 2)
    assert whole.num_valid == 80


def test_valid_labels_are_counted(shards: list[TokenShard]) -> None:
    stream = TokenStream(shards, seq_len=23, mask_document_starts=True)
    assert Loader({"a": stream}, weights={"a": 1}, seed=0).batch([0, 1]).num_valid == 2 * (23 - 6)


def test_too_few_tokens(shards: list[TokenShard]) -> None:
    with pytest.raises(InputError, match=r"too few tokens(.|\n)*where: web(.|\n)*24 tokens"):
        Loader({"web": TokenStream(shards, seq_len=24)}, weights={"web": 1}, seed=0)


def test_weights_for_other_streams(shards: list[TokenShard]) -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        Loader({"web": TokenStream(shards, seq_len=2)}, weights={"code": 1}, seed=0)
