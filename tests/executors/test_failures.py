"""Classes of failures and what follows, as a table."""

import errno
from typing import Any

import pytest

from tokenmill.errors import GangError, HangError, InputError, StartError, StorageError, WorldError
from tokenmill.executors.failures import (
    CLASSES,
    LOST,
    STATES,
    bad_hosts,
    death_class,
    error_class,
    grown,
    hopeless,
    most_memory,
    state_class,
)
from tokenmill.executors.job import Resources

GB = 1_000_000_000
INTENT = {"memory_bytes": 2 * GB, "time_seconds": 100}


def wrapped(number: int) -> StorageError:
    error = StorageError("could not write a file")
    error.__cause__ = OSError(number, "x")
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "oom"),
        (InputError("x"), "mistake"),
        (OSError(errno.ENOSPC, "x"), "disk"),
        (wrapped(errno.EDQUOT), "disk"),
        (wrapped(errno.EIO), "error"),
        (ValueError("x"), "error"),
        (GangError("a rank is gone"), "lost"),
        (WorldError("x"), "mistake"),
        (HangError("x"), "hang"),
        (StartError("x"), "launch"),
    ],
)
def test_what_entries_raise(error: Exception, expected: str) -> None:
    assert error_class(error) == expected


@pytest.mark.parametrize(
    ("state", "exit_code", "expected"),
    [
        ("NODE_FAIL", "0:0", "node"),  # seen: a lost node with exit code 0
        ("FAILED", "0:53", "launch"),
        ("FAILED", "0:9", "killed"),
        ("FAILED", "137:0", "killed"),
        ("CANCELLED by 1000", "0:0", "cancelled"),
        ("CANCELLED+", "0:0", "cancelled"),
        ("OUT_OF_MEMORY", "0:125", "oom"),
        ("COMPLETED", "0:0", ""),
        ("FAILED", "1:0", ""),
        ("", "", ""),
    ],
)
def test_what_slurm_says(state: str, exit_code: str, expected: str) -> None:
    assert state_class(state, exit_code) == expected


def beat(**values: Any) -> dict[str, Any]:
    return {"shard": 3, "seconds": 10.0, "uptime_seconds": 20.0, "rss_bytes": GB} | values


@pytest.mark.parametrize(
    ("last", "told", "expected"),
    [
        (None, "", "lost"),
        (None, "node", "node"),
        (beat(), "killed", "killed"),
        (beat(rss_bytes=1_950_000_000), "killed", "oom"),  # without cgroups SLURM says no more than signal 9
        (beat(), "oom", "oom"),
        (beat(seconds=90.0, uptime_seconds=99.0), "timeout", "timeout"),
        (beat(seconds=10.0, uptime_seconds=99.0), "timeout", "cut"),
        (beat(seconds=95.0, uptime_seconds=100.0), "", "timeout"),
        (beat(seconds=5.0, uptime_seconds=101.0), "", "cut"),
        (beat(shard=2, seconds=95.0, uptime_seconds=101.0), "", "cut"),
        (None, "timeout", "timeout"),
    ],
)
def test_deaths_without_a_word(last: dict[str, Any] | None, told: str, expected: str) -> None:
    assert death_class({"shard": 3}, last, told, INTENT) == expected


def test_every_class_that_slurm_can_tell_is_known() -> None:
    assert set(STATES.values()) <= set(CLASSES)
    assert set(LOST) <= set(CLASSES)


def failed(attempt: str, kind: str, **values: Any) -> dict[str, Any]:
    outcome = "error" if kind in ("mistake", "error", "disk") else "lost"
    return {"attempt": attempt, "class": kind, "outcome": outcome, "error": f"{kind}!", "shard": 0} | values


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], ""),
        ([failed("a", "error")], ""),
        ([failed("a", "error"), failed("a", "error")], ""),  # two ranks of one attempt
        ([failed("a", "error"), failed("b", "disk")], "disk!"),
        ([failed("a", "mistake")], "mistake!"),
        ([failed("a", "error") | {"outcome": "forgiven"}, failed("b", "error")], ""),
        ([failed(name, "node") for name in "abc"], ""),
        ([failed(name, "node") for name in "abcd"], "ended 4 times"),
        ([failed(name, "cut") for name in "abcdefgh"], ""),
        ([failed("a", "oom", memory_bytes=2 * GB)], ""),
        ([failed("a", "oom", memory_bytes=8 * GB)], "out of memory with 8.0 GB"),
        ([failed("a", "timeout", time_seconds=400)], "not done in 400 s"),
        ([failed("a", "timeout", time_seconds=150)], ""),
        ([failed(name, "error", started=at, progress=["step-1"]) for at, name in enumerate("ab")], "error!"),
        ([failed(name, "error", started=at, progress=[f"step-{at}"]) for at, name in enumerate("abc")], ""),
    ],
)
def test_when_a_shard_is_set_aside(records: list[dict[str, Any]], expected: str) -> None:
    resources = Resources(memory_bytes=2 * GB, time_seconds=100, max_attempts=2, max_lost=4)
    found = hopeless(records, resources)
    assert expected in found if expected else found == ""


def test_resources_grow_to_a_cap() -> None:
    resources = Resources(memory_bytes=2 * GB, time_seconds=100)
    assert grown(resources, [failed("a", "node")]) == resources
    more = grown(
        resources, [failed("a", "oom", memory_bytes=2 * GB), failed("b", "timeout", time_seconds=150)]
    )
    assert (more.memory_bytes, more.time_seconds) == (3 * GB, 225)
    assert grown(resources, [failed("a", "oom", memory_bytes=7 * GB)]).memory_bytes == most_memory(resources)
    assert (
        grown(Resources(memory_bytes=2 * GB, max_memory_bytes=GB), [failed("a", "oom")]).memory_bytes
        == 2 * GB
    )


def test_nodes_are_avoided_only_if_others_work() -> None:
    bad = [failed(str(shard), "error", shard=shard, host="n1") for shard in range(3)]
    good = {"outcome": "done", "host": "n2", "shard": 9}
    assert bad_hosts(bad) == []
    assert bad_hosts([*bad, good]) == ["n1"]
    assert bad_hosts([*bad[:2], good]) == []
    assert bad_hosts([*bad, good, good | {"host": "n1"}]) == []
    assert bad_hosts([*(record | {"class": "mistake"} for record in bad), good]) == []
