r"""Why attempts fail, and what follows from it: pure functions of attempt records.

    class       what happened                                what follows
    mistake     an error that another attempt would repeat   quarantine
    error       the entry raised                             quarantine after max_attempts
    disk        no space was left                            as error, but not tried again by the same task
    hang        a gang showed no progress                    as error
    oom         the task ran out of memory                   more memory, up to max_memory_bytes
    timeout     a whole time limit was too short             more time, up to max_time_seconds
    cut         the limit came while it did later shards     tried again
    node        the node failed                              \
    preempted   another job took its place                    |  tried again, at most max_lost times;
    cancelled   somebody cancelled the task                   |  nothing of it counts as the user's
    launch      the scheduler could not start it              |  own error
    killed      a signal ended the process                    |
    lost        it fell silent                               /

What a scheduler says of a task is one hint among others: it may be missing, late or wrong. Any class is right
enough, since every one of them ends in another attempt or in quarantine with the reason.
"""

import errno
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenmill.errors import (
    ConfigError,
    FormatError,
    GangError,
    HangError,
    InputError,
    MissingExtraError,
    StartError,
    WorldError,
)
from tokenmill.executors.job import Resources

MISTAKES = (ConfigError, FormatError, InputError, MissingExtraError, WorldError)
"""Errors that another attempt at the same input would only repeat."""
_GANG_CLASSES = {WorldError: "mistake", HangError: "hang", StartError: "launch"}
"""Other errors of gangs say that a peer is gone; if that was its own error, it has recorded it."""
OWN = ("mistake", "error", "disk", "hang")
"""Classes that count as errors of the entry."""
LOST = ("node", "preempted", "cancelled", "launch", "killed", "lost")
"""Classes that are nobody's fault until they become many."""
CLASSES = (*OWN, "oom", "timeout", "cut", *LOST)
STATES: Mapping[str, str] = {
    "OUT_OF_MEMORY": "oom",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
}
"""States of SLURM -> class; for the others the exit code speaks."""
GROWTH = 1.5
_MOST_GROWTH = 4.0
_NEAR_MEMORY = 0.95
_WHOLE_LIMIT = 0.8
"""Share of the time limit from which on one shard had all of it."""
_BAD_SHARDS = 3
"""Different shards that fail on one node before it is avoided."""


def error_class(error: BaseException) -> str:
    """Class of what an entry raised."""
    if isinstance(error, MemoryError):
        return "oom"
    if isinstance(error, GangError):
        return _GANG_CLASSES.get(type(error), "lost")
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk"
        seen = seen.__cause__
    return "mistake" if isinstance(error, MISTAKES) else "error"


def state_class(state: str, exit_code: str) -> str:
    """Class of a task, from SLURM's state and ``code:signal``; empty if they do not tell.

    >>> state_class("NODE_FAIL", "0:0"), state_class("FAILED", "0:53"), state_class("COMPLETED", "0:0")
    ('node', 'launch', '')
    """
    word = state.split(" ", maxsplit=1)[0].rstrip("+")
    if word in STATES:
        return STATES[word]
    code, _, number = exit_code.partition(":")
    if number == "53":
        return "launch"
    if number not in ("", "0") or code in ("137", "143"):
        return "killed"
    return ""


def death_class(
    record: Mapping[str, Any], beat: Mapping[str, Any] | None, told: str, intent: Mapping[str, Any]
) -> str:
    """Class of an attempt that ended without a word.

    Args:
        record: of the attempt.
        beat: last sign of life of its task; None if there was none.
        told: class that the scheduler's word gives; may be empty.
        intent: of the launch, with ``memory_bytes`` and ``time_seconds``.
    """
    limit = float(intent.get("time_seconds", 0) or 0)
    memory = float(intent.get("memory_bytes", 0) or 0)
    mine = beat if beat is not None and beat["shard"] == record["shard"] else None
    if told == "oom" or (beat is not None and memory and beat["rss_bytes"] >= _NEAR_MEMORY * memory):
        return "oom"
    if told == "timeout":
        return "timeout" if mine is None or mine["seconds"] >= _WHOLE_LIMIT * limit else "cut"
    if not told and limit and beat is not None and beat["uptime_seconds"] >= limit:
        return "timeout" if mine is not None and mine["seconds"] >= _WHOLE_LIMIT * limit else "cut"
    return told or "lost"


def hopeless(records: Iterable[Mapping[str, Any]], resources: Resources) -> str:
    """Why a shard is not tried again; empty if it is.

    Args:
        records: of all attempts at the shard.
        resources: of the job.
    """
    failed = [record for record in _since_progress(records) if record["outcome"] in ("error", "lost")]
    first = {(record["attempt"], record.get("class", "error")): record for record in failed}
    own = [record for (_, kind), record in first.items() if kind in OWN]
    if len(own) >= resources.max_attempts or any(record.get("class") == "mistake" for record in own):
        return str(own[-1].get("error", ""))
    if any(_at_cap(record, "oom", "memory_bytes", most_memory(resources)) for record in failed):
        return f"out of memory with {most_memory(resources) / 1e9:.1f} GB; raise max_memory_bytes"
    if any(_at_cap(record, "timeout", "time_seconds", most_time(resources)) for record in failed):
        return f"not done in {most_time(resources):.0f} s; raise max_time_seconds, or make shards smaller"
    lost = Counter(kind for _, kind in first if kind in LOST)
    if lost.total() >= resources.max_lost:
        kinds = ", ".join(f"{count} times {kind}" for kind, count in sorted(lost.items()))
        return f"its tasks ended {lost.total()} times before it was done ({kinds}); it may be what ends them"
    return ""


def _since_progress(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Attempts that began from the same saved progress as the newest: a long training may fail many times."""
    found = sorted(records, key=lambda record: float(record.get("started", 0.0)))
    return [record for record in found if record.get("progress") == found[-1].get("progress")]


def _at_cap(record: Mapping[str, Any], kind: str, key: str, most: float) -> bool:
    return record.get("class") == kind and float(record.get(key, most)) >= most


def most_memory(resources: Resources) -> int:
    """Most memory of a task in bytes, however often it runs out."""
    return resources.max_memory_bytes or int(resources.memory_bytes * _MOST_GROWTH)


def most_time(resources: Resources) -> int:
    """Longest time limit in seconds, however often it is too short."""
    return resources.max_time_seconds or int(resources.time_seconds * _MOST_GROWTH)


def grown(resources: Resources, records: Iterable[Mapping[str, Any]]) -> Resources:
    """Resources of the next launch: more than an attempt had that ran out of them.

    Args:
        resources: of the job.
        records: of attempts at the shards that are left.
    """
    memory, seconds = float(resources.memory_bytes), float(resources.time_seconds)
    for record in records:
        if record.get("class") == "oom":
            memory = max(memory, GROWTH * float(record.get("memory_bytes", resources.memory_bytes)))
        if record.get("class") == "timeout":
            seconds = max(seconds, GROWTH * float(record.get("time_seconds", resources.time_seconds)))
    return replace(
        resources,
        memory_bytes=min(int(memory), max(most_memory(resources), resources.memory_bytes)),
        time_seconds=min(int(seconds), max(most_time(resources), resources.time_seconds)),
    )


def bad_hosts(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Nodes on which several shards failed and none was done, while others did some; sorted.

    Args:
        records: of attempts of a launch.
    """
    failed: dict[str, set[int]] = defaultdict(set)
    good: set[str] = set()
    for record in records:
        if record["outcome"] in ("done", "late"):
            good.add(str(record["host"]))
        elif record["outcome"] in ("error", "lost") and record.get("class") not in ("mistake", "cancelled"):
            failed[str(record["host"])].add(int(record["shard"]))
    if not good:
        return []  # it is not the nodes
    return sorted(host for host, shards in failed.items() if len(shards) >= _BAD_SHARDS and host not in good)
