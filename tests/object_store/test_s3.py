"""Publishing once, on a store that honours conditions and on one that ignores them."""

import importlib
import random
import threading
from typing import Any

import pytest

from tokenmill import storage
from tokenmill.errors import StorageError
from tokenmill.object_store.client import Client
from tokenmill.object_store.s3 import S3Store


def on_seaweed(test: Any) -> Any:
    return pytest.mark.parametrize("s3_proxy", ["seaweed"], indirect=True)(test)


def on_rclone(test: Any) -> Any:
    return pytest.mark.parametrize("s3_proxy", ["rclone"], indirect=True)(test)


def hidden_names(s3_url: str) -> list[str]:
    return [name for name in S3Store(Client()).names(s3_url) if name.startswith(".")]


@on_seaweed
def test_a_store_is_probed_once(s3_proxy: Any, s3_url: str) -> None:
    assert storage.publish_once(f"{s3_url}/1.json", b"a")
    assert storage.requests() == {"put": 3, "head": 1, "delete": 1}
    assert not storage.publish_once(f"{s3_url}/1.json", b"b")
    assert storage.requests() == {"put": 4, "head": 2, "delete": 1}  # a loser looks whose it is
    assert storage.is_exclusive(f"{s3_url}/deep/2.json")
    assert storage.requests()["put"] == 4
    assert hidden_names(s3_url) == []


@on_rclone
def test_a_store_that_ignores_conditions_is_found_out(s3_proxy: Any, s3_url: str) -> None:
    assert storage.publish_once(f"{s3_url}/1.json", b"a")
    assert not storage.is_exclusive(f"{s3_url}/1.json")
    assert not storage.publish_once(f"{s3_url}/1.json", b"b")
    assert storage.read_bytes(f"{s3_url}/1.json") == b"a"
    assert hidden_names(s3_url) == []


@pytest.mark.parametrize(
    "faults", [["reset", "refused"], ["refused", "reset", "reset"], ["replayed", "reset"]]
)
def test_the_probe_survives_faults(
    s3_proxy: Any, s3_url: str, faults: list[str], request: pytest.FixtureRequest
) -> None:
    s3_proxy.force(*faults, method="PUT")
    assert storage.publish_once(f"{s3_url}/1.json", b"a")
    assert storage.is_exclusive(s3_url) == ("seaweed" in request.node.name)
    assert hidden_names(s3_url) == []


@pytest.mark.parametrize("fault", ["reset", "refused", "dropped", "replayed", "late"])
def test_a_winner_is_told_so_whatever_befell_the_answer(s3_proxy: Any, s3_url: str, fault: str) -> None:
    s3_proxy.spoil(importlib.import_module("s3_proxy").Faults(late_seconds=0.2))
    storage.is_exclusive(f"{s3_url}/1.json")
    s3_proxy.force(fault, method="PUT")
    assert storage.publish_once(f"{s3_url}/1.json", b"a")
    s3_proxy.force(fault, method="PUT")
    assert not storage.publish_once(f"{s3_url}/1.json", b"b")
    assert storage.read_bytes(f"{s3_url}/1.json") == b"a"


@on_seaweed
@pytest.mark.parametrize("fault", ["reset", "refused", "dropped", "replayed"])
def test_equal_bytes_of_two_writers_have_one_owner(s3_proxy: Any, s3_url: str, fault: str) -> None:
    storage.is_exclusive(f"{s3_url}/1.json")
    assert storage.publish_once(f"{s3_url}/1.json", b"a")
    s3_proxy.force(fault, method="PUT")
    assert not storage.publish_once(f"{s3_url}/1.json", b"a")


def race(url: str) -> list[int]:
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
    return winners


def test_races_under_faults_have_a_winner_who_knows(s3_proxy: Any, s3_url: str) -> None:
    exclusive = storage.is_exclusive(f"{s3_url}/1.json")
    draw = random.Random(1)
    for number in range(5):
        kinds = ("reset", "refused", "dropped", "none", "none")
        s3_proxy.force(*draw.choices(kinds, k=6), method="PUT")
        winners = race(f"{s3_url}/{number}.json")
        assert (len(winners) == 1) if exclusive else winners
        assert int(storage.read_bytes(f"{s3_url}/{number}.json")) in winners


def test_a_storm_is_survived_at_a_bounded_price(s3_proxy: Any, s3_url: str) -> None:
    def work(folder: str) -> int:
        storage.s3_of.cache_clear()
        for number in range(20):
            url = f"{s3_url}/{folder}/{number:05d}.json"
            assert storage.publish_once(url, str(number).encode())
            assert not storage.publish_once(url, b"no")
            storage.write_atomic(f"{url}.note", b"a")
            assert storage.read_bytes(url) == str(number).encode()
        assert len(storage.list_names(f"{s3_url}/{folder}")) == 40
        return sum(storage.requests().values()) - storage.requests().get("retries", 0)

    calm = work("calm")
    faults = {"refused": 0.1, "reset": 0.05, "cut": 0.1, "late": 0.02, "late_seconds": 0.1}
    s3_proxy.spoil(importlib.import_module("s3_proxy").Faults(seed=5, **faults))
    assert work("storm") <= 1.3 * calm
    assert set(s3_proxy.spoiled()) >= {"refused", "reset", "cut", "late"}


def test_damage_is_not_read(s3_proxy: Any, s3_url: str) -> None:
    url = f"{s3_url}/x.json"
    storage.write_atomic(url, b"abc")
    s3_proxy.force("damaged", "damaged", method="GET")
    assert storage.read_bytes(url) == b"abc"
    s3_proxy.force("damaged", "damaged", "damaged", method="GET")
    with pytest.raises(StorageError, match=r"(?s)an object is damaged.*x\.json.*tokenmill verify"):
        storage.read_bytes(url)


def test_listing_by_name_and_by_glob(s3_proxy: Any, s3_url: str) -> None:
    for name in ("b/2.txt", "a b é/1.txt", "b/3.json", "b/.hidden", "b.txt"):
        storage.write_atomic(storage.join(s3_url, name), name.encode())

    def found(pattern: str) -> list[str]:
        return [info.url.removeprefix(s3_url + "/") for info in storage.list_files(f"{s3_url}/{pattern}")]

    assert found("b") == ["b/2.txt", "b/3.json"]
    assert found("b/2.txt") == ["b/2.txt"]
    assert found("*/*.txt") == ["a b é/1.txt", "b/2.txt"]
    assert found("**/*.txt") == ["a b é/1.txt", "b.txt", "b/2.txt"]
    assert found("[ab]*") == ["a b é/1.txt", "b.txt", "b/2.txt", "b/3.json"], "a glob may match folders"
    assert found("none") == found("n*") == []
    assert storage.list_names(f"{s3_url}/b") == ["2.txt", "3.json"]
    assert not storage.exists(f"{s3_url}/b"), "a store has no folders"
    assert storage.exists(f"{s3_url}/b.txt")
    assert not storage.exists(f"{s3_url}/c")


def test_long_listings_go_on(s3_proxy: Any, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(Client())
    for number in range(5):
        store.write(f"{s3_url}/{number}.json", b"")
    pages = store._pages
    monkeypatch.setattr(store, "_pages", lambda url, more: pages(url, {**more, "MaxKeys": 2}))
    s3_proxy.force("none", "cut", "refused", method="GET")
    assert store.names(s3_url) == [f"{number}.json" for number in range(5)]
    assert store.client.counts()["list"] == 5  # three pages, two of them twice
