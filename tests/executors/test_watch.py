"""Looks at a run: estimates from what is measured, and only what is new is read."""

import time

import ledgers
import pytest

from tokenmill import storage
from tokenmill.errors import InputError
from tokenmill.executors import watch
from tokenmill.executors.watch import Watcher


@pytest.fixture
def folder(tmp_path):
    folder = ledgers.make_run(tmp_path / "run", {"upper": 20}, {})["upper"]
    folder.ensure_plan()
    ledgers.launch(folder, "aaaaaaaa", executor="slurm", tasks=4)
    return folder


@pytest.fixture
def watcher(folder, tmp_path):
    return Watcher(str(tmp_path / "run"))


def done(folder, *shards, **counters):
    for shard in shards:
        ledgers.attempt(folder, shard, f"aaaaaaaa-{shard}", "done")
        ledgers.commit(folder, shard, f"aaaaaaaa-{shard}")
        record = folder.committed(shard) | {"counters": counters}
        storage.write_atomic(folder.done_url(shard), storage.dump_json(record))


def running(folder, shard, task):
    folder.lease("aaaaaaaa", shard, {"task": task, "pid": 1})
    ledgers.attempt(folder, shard, f"aaaaaaaa-{shard}", "running", started=time.time())
    beat(folder, task, shard=shard)


def beat(folder, task, **values):
    values = {"task": task, "number": 1, "state": "working", "machine": "another", "shard": -1} | values
    folder.write_beat("aaaaaaaa", {"pid": 1, "process_started": "", "uptime_seconds": 1.0, **values})


def test_before_anything_is_done(watcher, folder):
    [view] = watcher.look()
    assert (view.status.num_shards, view.rate, view.left_seconds, view.alive) == (20, 0.0, None, 0)
    assert view.counters == {}


def test_what_measured_shards_promise(watcher, folder):
    done(folder, *range(10))  # of ten seconds each
    for task in range(4):
        running(folder, 10 + task, task)
    [view] = watcher.look()
    assert view.status.running == 4
    assert view.rate == pytest.approx(0.4)
    assert view.left_seconds == pytest.approx(30.0)  # ten shards, four at a time, in three rounds
    assert (view.alive, view.silent) == (4, 0)


def test_the_rate_is_that_of_the_last_minute(folder, tmp_path):
    now = 1000.0
    watcher = Watcher(str(tmp_path / "run"), lambda: now)
    running(folder, 19, 0)
    watcher.look()
    for shard in range(10):
        now += 20.0
        done(folder, shard)
        [view] = watcher.look()
    assert view.rate == pytest.approx(0.05)
    now += 500.0
    watcher.look()
    now += 1.0
    [view] = watcher.look()
    assert view.rate == pytest.approx(0.1)  # nothing lately: the measured times again
    assert view.left_seconds == pytest.approx(100.0)


def test_tasks_that_fell_silent(folder, tmp_path):
    now = 1000.0
    watcher = Watcher(str(tmp_path / "run"), lambda: now)
    for task in range(3):
        running(folder, task, task)
    beat(folder, 3, state="ended")
    watcher.look()
    now += 2 * folder.job.resources.lease_seconds
    beat(folder, 0, number=2)
    [view] = watcher.look()
    assert (view.alive, view.silent) == (1, 2)


def test_of_many_tasks_some_stand_for_the_others(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_MOST_BEATS", 10)
    running(folder, 0, 0)
    for task in range(1, 40):
        beat(folder, task, state="working" if task < 20 else "ended")
    [view] = Watcher(str(tmp_path / "run")).look()
    assert (view.alive, view.silent) == (20, 0)


def test_counters_are_estimated_and_exact_in_the_end(watcher, folder, monkeypatch):
    monkeypatch.setattr(watch, "_SAMPLE_SECONDS", 0.0)  # one shard a look
    running(folder, 15, 0)
    for shard in range(10):
        done(folder, shard, **{"write/documents_out": 10 + shard % 2, "other": 3})
    [view] = watcher.look()
    assert 100 <= view.counters["write/documents_out"] <= 110
    for _ in range(9):
        [view] = watcher.look()
    assert view.counters == {"write/documents_out": pytest.approx(105.0)}
    assert view.rates["write/documents_out"] == pytest.approx(10.5 * view.rate)
    done(folder, *range(10, 20), **{"write/documents_out": 1})
    assert folder.publish_manifest()
    [view] = watcher.look()
    assert view.status.state == "complete"
    assert view.counters == {"write/documents_out": 115}
    assert (view.left_seconds, view.rate) == (None, 0.0)


def test_a_complete_job_is_read_once(watcher, folder, monkeypatch):
    done(folder, *range(20))
    folder.publish_manifest()
    [view] = watcher.look()
    read = []
    real = storage.read_json
    monkeypatch.setattr(storage, "read_json", lambda url: (read.append(url), real(url))[1])
    assert watcher.look() == [view]
    assert all(url.endswith(("run.json", "driver.json")) for url in read)
    storage.remove(folder.at("manifest.json"))  # `verify --repair` took it back
    assert watcher.look()[0].status.state != "complete"


def test_what_died_with_its_driver_takes_no_more_time(folder, watcher):
    ledgers.launch(folder, "bbbbbbbb", executor="processes")
    folder.lease("bbbbbbbb", 0, {"task": 0, "pid": 1})
    ledgers.attempt(folder, 0, "bbbbbbbb-0", "running", started=time.time() - 1000)
    folder.quarantine(1, "an error")
    [view] = watcher.look()
    assert view.status.state == "failed"
    assert view.usage.attempts == {"lost": 1}
    assert view.usage.task_seconds == 0.0


def test_last_words(watcher, folder):
    running(folder, 3, 0)
    assert watcher.look()[0].words == ""
    url = folder.log_url(3, "aaaaaaaa-3")
    storage.write_atomic(
        url, ("x" * 5000 + "\n12:00 second to last\n12:01 hello é " + "y" * 300 + "\n\n").encode()
    )
    words = watcher.look()[0].words
    assert words.startswith("shard 3: 12:01 hello é yyy")
    assert len(words) < 200
    storage.write_atomic(url, b"2026-01-02 03:04:05,678 INFO job upper, shard 3\n")
    assert watcher.look()[0].words == "shard 3: 03:04:05 job upper, shard 3"
    storage.write_atomic(folder.at("now.json"), storage.dump_json({"shard": 3, "text": "step 5"}))
    assert watcher.look()[0].words == "step 5"


def test_looks_of_a_driver_are_rare(watcher, folder):
    assert watcher.is_due()
    watcher.look()
    assert not watcher.is_due()


def test_plain_values(watcher, folder):
    done(folder, 0)
    value = watch.plain(watcher.look()[0])
    assert value["name"] == "upper"
    assert value["seconds"] == 10.0
    assert value["usage"]["attempts"] == {"done": 1}
    storage.dump_json(value)


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="no run"):
        Watcher(str(tmp_path)).look()
