"""Objects as files: ranged reads, uploads in parts, and nothing left of what failed."""

import io
import random
from typing import Any

import pytest

from tokenmill import storage
from tokenmill.errors import InputError, StorageError
from tokenmill.object_store.client import Client
from tokenmill.object_store.files import S3Reader

BIG = random.Random(0).randbytes(21 << 20)


def test_reading_here_and_there(s3_proxy: Any, s3_url: str) -> None:
    url = f"{s3_url}/big.bin"
    with storage.create(url) as file:
        for start in range(0, len(BIG), 3_000_000):
            file.write(BIG[start : start + 3_000_000])
    assert storage.requests() == {"put": 5}  # begin, three parts, complete
    with storage.open_input(url) as reader:
        assert reader.read(10) == BIG[:10]
        reader.seek(5_000_000)
        assert reader.read(2_000_000) == BIG[5_000_000:7_000_000]
        reader.seek(-7, io.SEEK_END)
        assert reader.read() == BIG[-7:]
        reader.seek(0)
        assert reader.read() == BIG
        reader.seek(len(BIG) + 5)
        assert reader.read() == b""
    assert storage.requests()["get"] <= 8
    s3_proxy.force("cut", "refused", "dropped", "slow", method="GET")
    assert storage.sha256_of(url) == file.sha256


def test_a_small_file_is_one_request_each_way(s3_proxy: Any, s3_url: str) -> None:
    with storage.create(f"{s3_url}/x.bin") as file:
        file.write(b"abc")
    with storage.open_input(f"{s3_url}/x.bin") as reader:
        assert list(reader) == [b"abc"]
    assert storage.requests() == {"put": 1, "get": 1}
    with storage.create(f"{s3_url}/empty.bin"):
        pass
    with storage.open_input(f"{s3_url}/empty.bin") as reader:
        assert reader.read() == b""
        assert reader.seek(0, io.SEEK_END) == 0


def test_what_is_not_there_cannot_be_read(s3_proxy: Any, s3_url: str) -> None:
    with pytest.raises(InputError, match="not found"):
        storage.open_input(f"{s3_url}/none").read()
    with pytest.raises(InputError, match="not found"):
        storage.open_input(f"{s3_url}/none").seek(0, io.SEEK_END)


def test_a_file_that_changes_is_refused(s3_proxy: Any, s3_url: str) -> None:
    storage.write_atomic(f"{s3_url}/x", bytes(3 << 20))
    reader = S3Reader(Client(), f"{s3_url}/x")
    assert reader.read(10) == bytes(10)
    storage.write_atomic(f"{s3_url}/x", b"1" * (3 << 20))
    reader.seek(2 << 20)
    with pytest.raises(StorageError, match="changed while it was read"):
        reader.read(10)


@pytest.mark.parametrize("fault", ["reset", "refused", "dropped", "replayed"])
@pytest.mark.parametrize("before", [0, 1])
def test_every_step_of_an_upload_may_fail(s3_proxy: Any, s3_url: str, fault: str, before: int) -> None:
    """POST begins and completes it, PUT sends parts."""
    url = f"{s3_url}/big.bin"
    s3_proxy.force(*["none"] * before, fault, method="POST")
    with storage.create(url) as file:
        file.write(BIG[: 9 << 20])
    s3_proxy.force(*["none"] * before, fault, method="PUT")
    with storage.create(f"{s3_url}/2.bin") as other:
        other.write(BIG[: 9 << 20])
    assert storage.sha256_of(url) == file.sha256
    assert storage.sha256_of(f"{s3_url}/2.bin") == other.sha256
    for upload in storage.list_uploads(s3_url):  # one whose beginning was answered twice
        assert fault in ("reset", "replayed")
        assert before == 0
        storage.abort_upload(upload)
        storage.abort_upload(upload)
    assert storage.list_uploads(s3_url) == []


def test_a_failed_upload_is_aborted(s3_proxy: Any, s3_url: str) -> None:
    def write_half() -> None:
        with storage.create(f"{s3_url}/big.bin") as file:
            file.write(BIG[: 9 << 20])
            assert len(storage.list_uploads(s3_url)) == 1
            raise KeyError("broken")

    with pytest.raises(KeyError):
        write_half()
    assert storage.list_uploads(s3_url) == []
    assert not storage.exists(f"{s3_url}/big.bin")


def test_uploads_of_the_dead_are_found(s3_proxy: Any, s3_url: str) -> None:
    file = storage.create(f"{s3_url}/data/big.bin")
    file.write(BIG[: 9 << 20])
    [upload] = storage.list_uploads(s3_url)
    assert upload.url == f"{s3_url}/data/big.bin"
    assert upload.started > 0
    assert storage.list_uploads(f"{s3_url}/other") == []
    file.discard()
    assert storage.list_uploads(s3_url) == []
    assert storage.list_uploads("/tmp") == []


def test_large_objects_are_read_in_pieces(
    s3_proxy: Any, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenmill.object_store.s3._MOST_AT_ONCE", 1000)
    storage.write_atomic(f"{s3_url}/x", BIG[:1001])
    assert storage.read_bytes(f"{s3_url}/x") == BIG[:1001]
    storage.write_atomic(f"{s3_url}/x", BIG[:1000])
    assert storage.read_bytes(f"{s3_url}/x") == BIG[:1000]
    storage.write_atomic(f"{s3_url}/x", b"")
    assert storage.read_bytes(f"{s3_url}/x") == b""
    assert storage.requests()["get"] == 4
