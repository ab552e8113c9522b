"""Commit records: a file each, folded into one file per thousand shards once all of them are done.

    done/00003/03017.json    the commit record of one shard
    done/00003.jsonl         those of shards 3000 to 3999, in order; counts before their own files

So resuming a job of a hundred thousand shards reads a hundred files. A task that wakes up late may publish
the record of a folded shard again: it stands beside the segment and counts for nothing.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenmill import storage
from tokenmill.errors import StorageError
from tokenmill.telemetry import Counters, Report

PER_SEGMENT = 1000
"""Shards whose records share a folder, and later a file."""
_ENDING = ".jsonl"


class Commits:
    """The commit records of a job.

    Args:
        url: the folder ``done/`` of the job.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def url_of(self, shard: int) -> str:
        """Where the record of a shard is published."""
        return storage.join(self.url, f"{shard // PER_SEGMENT:05d}", f"{shard:05d}.json")

    def segment_url(self, shard: int) -> str:
        """Where the record of a shard is once its thousand is folded."""
        return storage.join(self.url, f"{shard // PER_SEGMENT:05d}{_ENDING}")

    def publish(self, record: Mapping[str, Any]) -> bool:
        """Publish a record; False if another attempt was first.

        A crash of the machine may take it away, whole, until ``sync``: the shard is then done again, and
        nobody has read what it wrote, since only manifests are read.
        """
        url, data = self.url_of(record["shard"]), storage.dump_json(dict(record))
        return storage.publish_once(url, data, sync_name=False)

    def sync(self) -> None:
        """Wait until the disk has all records."""
        _, loose = self._layout()
        for prefix in loose:
            storage.sync_names(storage.join(self.url, f"{prefix:05d}"))

    def has(self, shard: int) -> bool:
        """True if a shard is done."""
        return storage.exists(self.url_of(shard)) or storage.exists(self.segment_url(shard))

    def indices(self) -> set[int]:
        """Shards that are done."""
        folded, loose = self._layout()
        found = {
            int(name.partition(".")[0])
            for prefix in loose
            for name in storage.list_names(storage.join(self.url, f"{prefix:05d}"))
        }
        for prefix in folded:
            found.update(range(prefix * PER_SEGMENT, (prefix + 1) * PER_SEGMENT))
        return found

    def _layout(self) -> tuple[set[int], list[int]]:
        """Numbers of the thousands that are folded, and of those that are not."""
        names = storage.list_names(self.url)
        folded = {int(name.removesuffix(_ENDING)) for name in names if name.endswith(_ENDING)}
        return folded, [int(name) for name in names if name.isdigit() and int(name) not in folded]

    def read(self, shard: int) -> dict[str, Any]:
        """The record of a shard that is done.

        Raises:
            InputError: it is not.
            StorageError: the record is damaged.
        """
        url = self.segment_url(shard)
        if storage.exists(url):
            return _parse(url)[shard % PER_SEGMENT]
        return dict(storage.read_json(self.url_of(shard)))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Records in order of shards; only a thousand are held at a time."""
        folded, _ = self._layout()
        for prefix, shards in itertools.groupby(sorted(self.indices()), lambda shard: shard // PER_SEGMENT):
            if prefix in folded:
                yield from _parse(self.segment_url(prefix * PER_SEGMENT))
            else:
                yield from (storage.read_json(self.url_of(shard)) for shard in shards)

    def fold(self) -> int:
        """Fold every thousand that is done as a whole; returns how many were."""
        folded, loose = self._layout()
        full = [prefix for prefix in loose if len(self._loose(prefix)) == PER_SEGMENT]
        for prefix in full:
            first = prefix * PER_SEGMENT
            records = [storage.read_json(self.url_of(shard)) for shard in range(first, first + PER_SEGMENT)]
            lines = b"".join(storage.dump_json(record) for record in records)
            storage.write_atomic(self.segment_url(first), lines)
        for prefix in {*folded, *full}:  # death in between leaves files: the next fold removes them
            for name in self._loose(prefix):
                storage.remove(storage.join(self.url, f"{prefix:05d}", name))
        return len(full)

    def _loose(self, prefix: int) -> list[str]:
        return storage.list_names(storage.join(self.url, f"{prefix:05d}"))

    def unfold(self, shard: int) -> None:
        """Give the shards of a folded thousand files of their own again, so that one can be withdrawn."""
        url = self.segment_url(shard)
        if not storage.exists(url):
            return
        for record in _parse(url):
            storage.write_atomic(self.url_of(record["shard"]), storage.dump_json(record))
        storage.remove(url)


def _parse(url: str) -> list[dict[str, Any]]:
    try:
        records = [dict(json.loads(line)) for line in storage.read_bytes(url).splitlines()]
    except (ValueError, TypeError) as error:
        raise StorageError(
            "a segment of commit records is damaged", where=url, got=str(error), fix="remove it and resume"
        ) from error
    if len(records) != PER_SEGMENT:
        raise StorageError(
            "a segment of commit records is damaged",
            where=url,
            expected=f"{PER_SEGMENT} records",
            got=str(len(records)),
            fix="remove it and resume",
        )
    return records


def merge_commits(record: Mapping[str, Any], commits: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Manifest of a job: outputs by logical name, counters and figures merged in order of shards.

    Commits are read one after the other and not kept: a job may have a hundred thousand.

    Args:
        record: content of job.yaml.
        commits: commit records in order of shards.

    Raises:
        StorageError: two shards wrote the same logical name.
    """
    counters, times, report = Counters(), Counters(), Report()
    outputs: list[dict[str, Any]] = []
    num_shards = 0
    for commit in commits:
        num_shards += 1
        times.merge({"seconds": commit["seconds"], "cpu_seconds": commit["cpu_seconds"]})
        times.merge({"started_min": commit["started"], "ended_max": commit["ended"]})
        outputs.extend(commit["outputs"])
        counters.merge(commit["counters"])
        report.merge(commit["figures"])
    outputs.sort(key=lambda output: output["name"])
    for left, right in itertools.pairwise(outputs):
        if left["name"] == right["name"]:
            raise StorageError(
                "two shards wrote an output of the same name",
                where=f"job {record['job']['name']}",
                got=left["name"],
                fix="put task.shard_name into the name",
            )
    return {
        "format": record["format"],
        "tokenmill": record["tokenmill"],
        "identity": record["identity"],
        "name": record["job"]["name"],
        "num_shards": num_shards,
        "outputs": outputs,
        "counters": counters.values,
        "figures": report.figures,
        "seconds": times.values.get("seconds", 0.0),
        "cpu_seconds": times.values.get("cpu_seconds", 0.0),
        "started": times.values.get("started_min", 0.0),
        "ended": times.values.get("ended_max", 0.0),
    }
