"""Requests are tried again within a deadline, and what comes of them is told plainly."""

from pathlib import Path
from typing import Any

import pytest

from tokenmill import storage
from tokenmill.errors import InputError, StorageError
from tokenmill.object_store.client import Client, Policy, RefusedError
from tokenmill.object_store.s3 import S3Store

HASTY = Policy(deadline_seconds=0.3, first_deadline_seconds=0.2, first_wait_seconds=0.02)


def test_refusals_and_lost_answers_are_met_again(s3_proxy: Any, s3_url: str) -> None:
    url = storage.join(s3_url, "x.json")
    s3_proxy.force("refused", "refused", "reset", method="PUT")
    storage.write_atomic(url, b"abc")
    s3_proxy.force("refused", "dropped", "cut", "damaged", method="GET")
    assert storage.read_bytes(url) == b"abc"
    counts = storage.requests()
    # after the reset a look finds the bytes in place; so three PUTs, and one HEAD
    assert counts == {"put": 3, "head": 1, "get": 5, "retries": 6}
    s3_proxy.force("refused", "cut", "none", "dropped", method="GET")
    assert storage.list_names(s3_url) == ["x.json"]
    assert [info.num_bytes for info in storage.list_files(s3_url)] == [3]
    assert storage.requests()["retries"] == 9
    s3_proxy.force("refused", "reset", method="DELETE")
    storage.remove(url)
    assert not storage.exists(url)


def test_the_proxys_count_is_ours(s3_proxy: Any, s3_url: str) -> None:
    before = s3_proxy.requests()
    s3_proxy.force("refused", "none", "reset", "none", "cut")
    for number in range(4):
        storage.write_atomic(storage.join(s3_url, f"{number}.json"), b"abc")
    storage.read_bytes(storage.join(s3_url, "3.json"))
    storage.list_names(s3_url)
    storage.remove(storage.join(s3_url, "3.json"))
    counts = storage.requests()
    assert counts.pop("retries") > 0
    assert counts == {kind: n - before.get(kind, 0) for kind, n in s3_proxy.requests().items() if n}


def test_there_is_an_end_to_patience(s3_proxy: Any, s3_url: str) -> None:
    store = S3Store(Client(policy=HASTY))
    store.write(f"{s3_url}/x.json", b"abc")
    s3_proxy.force(*["refused"] * 500)
    with pytest.raises(StorageError, match=r"(?s)did not do what was asked.*x\.json.*tries.*spoiled.*resume"):
        store.read(f"{s3_url}/x.json")
    assert store.client.counts()["get"] > 2


def test_who_is_late_looks_once_more(s3_proxy: Any, s3_url: str) -> None:
    url = f"{s3_url}/x.json"
    store = S3Store(Client(policy=Policy(deadline_seconds=0)))
    store.is_exclusive(url)
    s3_proxy.force("reset", method="PUT")
    assert store.publish(url, b"abc")  # no further try, but the look finds it
    assert store.read(url) == b"abc"


def test_a_wrong_address_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(StorageError, match=r"(?s)127\.0\.0\.1:9.*AWS_ENDPOINT_URL"):
        S3Store(Client(policy=HASTY)).read("s3://bucket/x.json")


def test_missing_and_wrong_keys_are_told(
    s3_proxy: Any, s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(InputError, match="not readable"):
        storage.open_input(f"{s3_url}/x").read()
    with pytest.raises(StorageError, match="403"):
        storage.write_atomic(f"{s3_url}/x", b"")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    storage.s3_of.cache_clear()
    with pytest.raises(RefusedError, match=r"(?s)NoCredentials.*set AWS_ACCESS_KEY_ID"):
        storage.read_bytes(f"{s3_url}/x")


@pytest.mark.parametrize("s3_proxy", ["rclone"], indirect=True)
def test_no_bucket_is_no_file(s3_proxy: Any) -> None:
    with pytest.raises(InputError, match="not found"):
        storage.read_bytes("s3://no-such-bucket-here/x.json")
    with pytest.raises(StorageError, match="NoSuchBucket"):
        storage.write_atomic("s3://no-such-bucket-here/x.json", b"")
