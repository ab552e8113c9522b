"""The token shard format: its golden bytes, and every way a file can be wrong."""

import io
from pathlib import Path

import numpy as np
import pytest

from tokenmill.errors import ConfigError, FormatError, InputError, VersionError
from tokenmill.tokens.shards import ShardWriter, TokenShard, open_shards

SHA256 = bytes(range(32)).hex()

# Documents (5, 6, 7) and (), end id 0, vocabulary of 300; written out by hand from the docstring.
GOLDEN = (
    b"TMTOKENS"
    + (1).to_bytes(4, "little")  # version
    + (2).to_bytes(4, "little")  # bytes per id
    + (2).to_bytes(8, "little")  # documents
    + (5).to_bytes(8, "little")  # tokens
    + (300).to_bytes(8, "little")  # vocab_size
    + bytes(range(32))
    + bytes(56)
    + b"".join(token.to_bytes(2, "little") for token in (5, 6, 7, 0, 0))
    + bytes(6)  # up to a multiple of eight
    + (4).to_bytes(8, "little")
    + (5).to_bytes(8, "little")
)


def packed(documents: list[list[int]], *, vocab_size: int = 300, sha256: str = SHA256) -> bytes:
    writer = ShardWriter(vocab_size=vocab_size, tokenizer_sha256=sha256, end_id=0)
    for document in documents:
        writer.add(document)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def stored(folder: Path, data: bytes, name: str = "00000.tokens") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def test_golden_bytes() -> None:
    assert packed([[5, 6, 7], []]) == GOLDEN


def test_read_golden(tmp_path: Path) -> None:
    shard = TokenShard(stored(tmp_path, GOLDEN))
    assert shard.ids.tolist() == [5, 6, 7, 0, 0]
    assert shard.ids.dtype == np.uint16
    assert [shard.document(index).tolist() for index in range(len(shard))] == [[5, 6, 7, 0], [0]]
    assert (shard.vocab_size, shard.tokenizer_sha256, shard.num_tokens) == (300, SHA256, 5)
    assert isinstance(shard.ids.base, np.memmap) or isinstance(shard.ids, np.memmap)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_width_of_ids(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    shard = TokenShard(stored(tmp_path, packed([[vocab_size - 1, 1]], vocab_size=vocab_size)))
    assert shard.ids.dtype == dtype
    assert shard.ids.tolist() == [vocab_size - 1, 1, 0]


def test_no_documents(tmp_path: Path) -> None:
    shard = TokenShard(stored(tmp_path, packed([])))
    assert (len(shard), shard.num_tokens) == (0, 0)


def test_memory_url(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://shards/a.tokens", "wb") as file:
        file.write(GOLDEN)
    assert TokenShard("memory://shards/a.tokens").ids.tolist() == [5, 6, 7, 0, 0]


@pytest.mark.parametrize("token", [-1, 300])
def test_id_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(FormatError, match=r"outside the vocabulary(.|\n)*document 1(.|\n)*299"):
        packed([[1], [2, token]])


@pytest.mark.parametrize("length", [0, 7, 100, 128, 135, len(GOLDEN) - 8, len(GOLDEN) - 1, len(GOLDEN) + 1])
def test_wrong_length(tmp_path: Path, length: int) -> None:
    data = (GOLDEN + b"x")[:length]
    with pytest.raises(FormatError, match=r"no token shard|cut or damaged") as caught:
        TokenShard(stored(tmp_path, data))
    assert "00000.tokens" in caught.value.where


def test_other_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no token shard"):
        TokenShard(stored(tmp_path, b"{}" * 100))


def test_newer_version(tmp_path: Path) -> None:
    data = GOLDEN[:8] + (2).to_bytes(4, "little") + GOLDEN[12:]
    with pytest.raises(VersionError, match=r"expected: 1\n  got: 2"):
        TokenShard(stored(tmp_path, data))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        TokenShard(str(tmp_path / "none.tokens"))


def test_shards_of_two_tokenizers(tmp_path: Path) -> None:
    first = stored(tmp_path, GOLDEN, "a.tokens")
    second = stored(tmp_path, packed([[1]], sha256="ab" * 32), "b.tokens")
    assert len(open_shards([first, first])) == 2
    with pytest.raises(ConfigError, match=r"another tokenizer(.|\n)*abababababab"):
        open_shards([first, second])


def test_shards_of_another_vocabulary_than_the_model(tmp_path: Path) -> None:
    url = stored(tmp_path, GOLDEN)
    assert open_shards([url], vocab_size=300, tokenizer_sha256=SHA256)
    with pytest.raises(ConfigError, match=r"expected: vocab_size 512(.|\n)*got: vocab_size 300"):
        open_shards([url], vocab_size=512)
    with pytest.raises(ConfigError, match="another tokenizer"):
        open_shards([url], tokenizer_sha256="cd" * 32)
