"""After a launch has ended: why attempts ended that said nothing, and what the next launch looks like."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenmill import storage
from tokenmill.executors.failures import bad_hosts, death_class, grown, hopeless
from tokenmill.executors.job import Resources
from tokenmill.executors.ledger import JobFolder

_JUDGED = "judged.json"


def is_judged(folder: JobFolder, launch: str) -> bool:
    """True if nothing is left to find out about a launch."""
    return storage.exists(folder.at("submissions", launch, _JUDGED))


def losses(folder: JobFolder, launch: str) -> int:
    """Attempts that a launch lost, by what ``judge`` found."""
    url = folder.at("submissions", launch, _JUDGED)
    return sum(storage.read_json(url).values()) if storage.exists(url) else 0


def judge(folder: JobFolder, launch: str, ends: Mapping[str, str]) -> dict[str, int]:
    """Give every attempt of an ended launch that never said how it ended an outcome and a class.

    Shards without hope are set aside. Death in between loses nothing: the rest is judged the next time.

    Args:
        folder: the job's folder.
        launch: token of the launch.
        ends: what the scheduler says: its name of a task -> class.

    Returns:
        Class -> number of attempts that this launch lost.
    """
    found: dict[str, int] = {}
    doubtful: set[int] = set()
    for record in folder.attempts(launch):
        if record["outcome"] == "running":
            kind = _give_class(folder, record, ends.get(str(record.get("scheduler_id")), ""))
            found[kind] = found.get(kind, 0) + 1
        if record["outcome"] in ("running", "error"):
            doubtful.add(record["shard"])
    doubtful -= folder.done() | set(folder.quarantined())
    for shard, records in _by_shard(folder, doubtful).items():
        if reason := hopeless(records, folder.job.resources):
            folder.quarantine(shard, reason)
    storage.write_atomic(folder.at("submissions", launch, _JUDGED), storage.dump_json(found))
    return found


def _by_shard(folder: JobFolder, shards: set[int]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {shard: [] for shard in sorted(shards)}
    for record in folder.attempts() if shards else []:  # one listing, however many shards there are
        if record["shard"] in found:
            found[record["shard"]].append(record)
    return found


def _give_class(folder: JobFolder, record: Mapping[str, Any], told: str) -> str:
    beat = folder.beat(record["launch"], record.get("task", 0))
    kind = death_class(record, beat, told, folder.intent(record["launch"]))
    mine = beat if beat is not None and beat["shard"] == record["shard"] else None
    judged = {
        "outcome": "lost",
        "class": kind,
        "error": f"ended without a word on {record['host']} ({kind})",
        "seconds": 0.0 if mine is None else mine["seconds"],
    }
    folder.write_attempt({**record, **judged})
    return kind


def next_resources(folder: JobFolder, shards: Sequence[int]) -> Resources:
    """Resources of the next launch: more than attempts at these shards had that ran out of them."""
    records = [record for found in _by_shard(folder, set(shards)).values() for record in found]
    failed = [record for record in records if record["outcome"] in ("error", "lost")]
    return grown(folder.job.resources, failed)


def hosts_to_avoid(folder: JobFolder) -> tuple[str, ...]:
    """Nodes on which attempts at several shards failed while other nodes did theirs."""
    return tuple(bad_hosts(folder.attempts()))
