"""Storage on every kind of store: local files, memory, and a real S3 protocol server."""

import errno
import hashlib
import os
import threading
import uuid
from pathlib import Path

import pytest

from tokenmill import storage
from tokenmill.errors import InputError, StorageError


@pytest.fixture(params=["local", "memory", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "a b é")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return str(request.getfixturevalue("s3_base"))


def test_atomic_writes_replace(base: str) -> None:
    url = storage.join(base, "x.json")
    assert not storage.exists(url)
    storage.write_atomic(url, b"old")
    storage.write_atomic(url, b"new")
    assert storage.read_bytes(url) == b"new"
    storage.remove(url)
    storage.remove(url)
    assert not storage.exists(url)


def test_of_racing_writers_one_wins(base: str) -> None:
    url = storage.join(base, "done", "00001.json")
    winners: list[int] = []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        if storage.publish_once(url, str(number).encode()):
            winners.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert storage.read_bytes(url) == str(winners[0]).encode()
    assert storage.list_names(storage.join(base, "done")) == ["00001.json"]


def test_outputs_are_hashed_while_written(base: str) -> None:
    url = storage.join(base, "data", "x.bin")
    with storage.create(url) as file:
        file.write(b"abc" * 1000)
        file.write(memoryview(b"def"))
    data = b"abc" * 1000 + b"def"
    assert (file.num_bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert storage.sha256_of(url) == file.sha256
    with storage.open_input(url) as reader:
        reader.seek(3000)
        assert reader.read() == b"def"


def test_a_failed_output_leaves_nothing(base: str) -> None:
    url = storage.join(base, "data", "x.bin")

    def write_half() -> None:
        with storage.create(url) as file:
            file.write(b"half")
            raise KeyError("broken")

    with pytest.raises(KeyError):
        write_half()
    assert not storage.exists(url)


def test_listing(base: str) -> None:
    for name in ("b/2.txt", "a/1.txt", "b/3.json"):
        storage.write_atomic(storage.join(base, name), name.encode())
    found = [info.url.rsplit("/", 2)[-2:] for info in storage.list_files(base)]
    assert found == [["a", "1.txt"], ["b", "2.txt"], ["b", "3.json"]]
    assert [info.num_bytes for info in storage.list_files(storage.join(base, "b", "*.txt"))] == [7]
    assert [info.num_bytes for info in storage.list_files(storage.join(base, "a", "1.txt"))] == [7]
    assert storage.list_names(base) == ["a", "b"]
    if storage.is_local(base):
        assert len(storage.list_files(storage.join(base, "[ab]"))) == 3, "a glob may match folders"
    assert storage.list_files(storage.join(base, "none")) == []
    assert storage.list_names(storage.join(base, "none")) == []


def test_missing_files_are_input_errors(base: str) -> None:
    with pytest.raises(InputError, match="file not found"):
        storage.read_bytes(storage.join(base, "none"))
    with pytest.raises(InputError, match="file not found"):
        storage.open_input(storage.join(base, "none")).read()


def test_a_control_file_that_is_not_json_is_named(base: str) -> None:
    storage.write_atomic(storage.join(base, "x.json"), b"{")
    with pytest.raises(StorageError, match=r"x\.json"):
        storage.read_json(storage.join(base, "x.json"))


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "x.json")
    storage.write_atomic(url, b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(StorageError, match="free space"):
        storage.write_atomic(url, b"new")
    with pytest.raises(StorageError, match="free space"):
        storage.publish_once(str(tmp_path / "y.json"), b"new")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert storage.read_bytes(url) == b"old"


def test_dead_writers_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".x.json.123.partial").write_bytes(b"half")
    assert storage.list_files(str(tmp_path)) == []
    assert storage.list_names(str(tmp_path)) == []


def test_partial_files_are_listed_apart(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".a.json.0123.partial").write_bytes(b"abc")
    (tmp_path / "a.partial").write_bytes(b"")
    found = storage.list_partials(str(tmp_path))
    assert [(info.url.rsplit("/", 1)[-1], info.num_bytes) for info in found] == [(".a.json.0123.partial", 3)]
    assert storage.list_partials("memory://nowhere") == []


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(StorageError, match="unknown protocol"):
        storage.read_bytes("nope://x/y")


@pytest.mark.parametrize(("values", "syncs"), [({}, 2), ({"sync_name": False}, 1), ({"durable": False}, 0)])
def test_what_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, bool], syncs: int
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        "os.fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    url = str(tmp_path / "folder" / "x.json")
    assert storage.publish_once(url, b"1", **values)
    assert len(synced) == syncs
    assert not storage.publish_once(url, b"2", **values)
    assert storage.read_bytes(url) == b"1"
    synced.clear()
    storage.sync_names(str(tmp_path / "folder"))
    assert synced == [str(tmp_path / "folder")]
