"""What tools/bench/executors makes of its measurements; the measuring itself needs a cluster and minutes."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "tools" / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    loader = importlib.machinery.SourceFileLoader("bench_executors", str(BENCH / "executors"))
    spec = importlib.util.spec_from_loader("bench_executors", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_executors", module)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    return module


def options(bench: ModuleType, shards: int) -> Any:
    return bench.Options(
        shards=shards, rounds=1, peers=None, peer_shards=50, overhead_shards=10, contenders=bench.CONTENDERS
    )


def verdicts(rows: list[dict[str, Any]]) -> dict[tuple[str, str], bool]:
    return {(row["work"].split(", ")[1], row["unit"]): row["ok"] for row in rows}


def test_every_limit_can_be_missed(bench: ModuleType) -> None:
    good = {"bare": 100.0, "packed": 9.0, "unpacked": 105.0, "submitit": 100.0}
    costs = {name: [bench.Cost(seconds, seconds)] for name, seconds in good.items()}
    assert set(verdicts(bench.judge(costs, options(bench, 5000))).values()) == {True}
    for name, seconds in (("packed", 11.0), ("unpacked", 111.0)):
        slow = costs | {name: [bench.Cost(seconds, 1.0)]}
        found = verdicts(bench.judge(slow, options(bench, 5000)))
        assert [key for key, ok in found.items() if not ok] == [(name, "CPU seconds")]


def test_the_cheapest_turn_counts_and_absent_peers_make_no_row(bench: ModuleType) -> None:
    costs = {"bare": [bench.Cost(9.0, 9.0), bench.Cost(5.0, 5.0)], "packed": [bench.Cost(2.0, 2.0)]}
    rows = bench.judge(costs | {"datatrove": []}, options(bench, 300))
    assert [row["ratio"] for row in rows] == [2.5, 2.5]
    assert {row["at_least"] for row in rows} == {bench.LEAST_UNDER_BARE_SMALL}


def test_workers_are_judged(bench: ModuleType) -> None:
    row = {"timed wall_seconds": 0.004, "timed fsync_seconds": 0.0025, "none wall_seconds": 0.001}
    row |= {"none cpu_seconds": 0.001}
    assert [one["ok"] for one in bench.judge_workers([row], 10.0, 12.9)] == [True, True]
    row["timed wall_seconds"] = 0.0046
    assert [one["ok"] for one in bench.judge_workers([row], 10.0, 13.1)] == [False, False]


def test_processor_seconds_of_those_that_ended_count(bench: ModuleType) -> None:
    cluster = sys.modules["executors_cluster"]
    before = cluster.tree_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    assert cluster.tree_seconds(os.getpid()) > before
