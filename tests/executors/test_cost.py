"""Usage: sums over attempts and tasks, with what runs, what is lost and what others had done before."""

import time

import ledgers
import pytest
from ledgers import attempt, launch, make_run

from tokenmill import storage
from tokenmill.executors import cost
from tokenmill.executors.cost import Account, Prices, usage_of


@pytest.fixture
def folder(tmp_path):
    folder = make_run(tmp_path / "run", {"upper": 4}, {})["upper"]
    launch(folder, "aaaaaaaa")
    return folder


def tried(folder, shard, outcome, **values):
    """An attempt that took ten seconds from second 1000 on, on one task."""
    values = {"started": 1000.0, "ended": 1010.0, "seconds": 10.0, "task": 0, "rank": 0} | values
    return attempt(folder, shard, f"aaaaaaaa-{shard}", outcome, **values)


def test_a_task_is_asked_from_its_first_sign_of_life_to_its_last(folder):
    tried(folder, 0, "done", cpu_seconds=7.0, max_rss_bytes=5_000)
    tried(folder, 1, "done", started=1020.0, ended=1030.0, cpu_seconds=2.0, max_rss_bytes=3_000)
    tried(folder, 2, "done", task=1)
    usage = Account(folder, Prices(core_hour=36.0)).look()
    assert usage.task_seconds == 40.0  # 30 of task 0, 10 of task 1
    assert usage.attempt_seconds == 30.0
    assert usage.core_hours == pytest.approx(40 / 3600)
    assert usage.used_core_hours == pytest.approx(9 / 3600)
    assert usage.cost == pytest.approx(0.4)
    assert (usage.tasks, usage.launches, usage.max_rss_bytes) == (2, 1, 5_000)
    assert usage.mean_seconds == 10.0


def test_heartbeats_know_of_idle_time(folder):
    tried(folder, 0, "done")
    beat = {"task": 0, "state": "ended", "uptime_seconds": 55.0, "rss_bytes": 9_000, "number": 3}
    storage.write_atomic(folder.at("heartbeats", "aaaaaaaa", "0.json"), storage.dump_json(beat))
    account = Account(folder)
    for usage in (account.look(), account.look(), usage_of(folder, folder.attempts(), Prices())):
        assert (usage.task_seconds, usage.max_rss_bytes, usage.tasks) == (55.0, 9_000, 1)


def test_very_many_tasks_are_looked_at_in_turn(folder, monkeypatch):
    monkeypatch.setattr(cost, "_MOST_BEATS", 3)
    account = Account(folder)
    for seconds, expected in ((10.0, [80.0]), (20.0, [110.0, 140.0, 160.0])):
        for task in range(8):
            beat = {"task": task, "state": "working", "uptime_seconds": seconds}
            storage.write_atomic(folder.at("heartbeats", "aaaaaaaa", f"{task}.json"), storage.dump_json(beat))
        assert [account.look().task_seconds for _ in expected] == expected


def test_what_is_wasted(folder):
    tried(folder, 0, "done")
    tried(folder, 1, "late")
    tried(folder, 2, "error", **{"class": "disk"})
    tried(folder, 3, "lost", **{"class": "node"})
    attempt(folder, 3, "aaaaaaaa-x", "forgiven", started=1.0, ended=2.0, seconds=1.0)
    usage = Account(folder).look()
    assert usage.wasted_core_hours == pytest.approx(31 / 3600)
    assert usage.attempts == {"done": 1, "late": 1, "error": 1, "lost": 1, "forgiven": 1}
    assert usage.failures == {"disk": 1, "node": 1, "error": 1}


def test_what_runs_counts_up_to_now_and_is_read_again(folder):
    record = tried(folder, 0, "running", started=time.time() - 100)
    account = Account(folder)
    assert 100 <= account.look().task_seconds < 160
    dead = account.look(alive=False)
    assert dead.task_seconds == 0.0  # nobody knows when it died
    assert (dead.attempts, dead.failures) == ({"lost": 1}, {"lost": 1})
    assert account.look(alive=False) == dead
    folder.write_attempt(record | {"outcome": "done", "seconds": 5.0})
    assert account.look().task_seconds == 5.0
    assert account.look().attempts == {"done": 1}


def test_an_attempt_that_died_after_its_commit_is_done(folder):
    folder.ensure_plan()
    attempt(folder, 0, "aaaaaaaa-0", "running", started=time.time(), task=0)
    attempt(folder, 0, "aaaaaaaa-1", "running", started=time.time(), task=1)
    ledgers.commit(folder, 0, "aaaaaaaa-0", seconds=4.0)
    usage = Account(folder).look(alive=False)
    assert usage.attempts == {"done": 1, "lost": 1}
    assert (usage.failures, usage.done_seconds) == ({"lost": 1}, 4.0)
    assert usage == usage_of(folder, folder.attempts(), Prices(), alive=False)


def test_what_runs_never_outlives_its_heartbeat(folder):
    tried(folder, 0, "running", started=time.time() - 1000)
    beat = {"task": 0, "state": "working", "uptime_seconds": 30.0, "shard": 0, "seconds": 20.0}
    storage.write_atomic(folder.at("heartbeats", "aaaaaaaa", "0.json"), storage.dump_json(beat))
    assert Account(folder).look().task_seconds == 30.0
    dead = Account(folder).look(alive=False)
    assert dead.task_seconds == 30.0
    assert dead.wasted_core_hours == pytest.approx(20 / 3600)


def test_records_that_cannot_change_are_read_once(folder, monkeypatch):
    for shard in range(4):
        tried(folder, shard, "done")
    account = Account(folder)
    first = account.look()
    monkeypatch.setattr(storage, "read_json", pytest.fail)
    assert account.look() == first


def test_ranks_of_a_gang_are_tasks_and_one_attempt(folder):
    tried(folder, 0, "done")
    attempt(folder, 0, "aaaaaaaa-0", "done", rank=1, task=0, started=1000.0, seconds=10.0)
    usage = Account(folder).look()
    assert (usage.tasks, usage.attempts, usage.task_seconds) == (2, {"done": 1}, 20.0)


def test_totals(folder):
    one = cost.Usage(attempts={"done": 2}, failures={"oom": 1}, core_hours=1.0, max_rss_bytes=5, cost=2.0)
    two = cost.Usage(attempts={"done": 1, "late": 1}, core_hours=0.5, max_rss_bytes=9, memory_bytes=10)
    both = cost.total([one, two])
    assert both.attempts == {"done": 3, "late": 1}
    assert (both.core_hours, both.max_rss_bytes, both.memory_bytes, both.cost) == (1.5, 9, 10, 2.0)
    assert cost.total([]) == cost.Usage()
    assert cost.Usage().mean_seconds == 0.0


def test_prices_are_recorded(tmp_path):
    assert cost.prices_of(str(tmp_path)) == Prices()
    cost.record_prices(str(tmp_path), Prices(core_hour=0.5, gpu_hour=2.0))
    assert cost.prices_of(str(tmp_path)) == Prices(core_hour=0.5, gpu_hour=2.0)


def test_gpus(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", {"upper": 1}, {})["upper"]
    tried(folder, 0, "done", seconds=3600.0)
    record = folder.record
    record["job"]["resources"] |= {"gpus": 4, "cpus": 8}
    usage = usage_of(folder, folder.attempts(), Prices(core_hour=0.1, gpu_hour=2.0))
    assert (usage.core_hours, usage.gpu_hours) == (8.0, 4.0)
    assert usage.cost == pytest.approx(8.8)
