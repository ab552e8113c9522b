"""A job's folder of which the records of shards lie in memory, for rehearsals of a hundred thousand shards.

What belongs to launches (intents, receipts, the job itself) are real files in a temporary folder, so the
controller reads and writes them as it does in a run.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from tokenmill.executors.commits import PER_SEGMENT
from tokenmill.executors.ledger import FORMAT, JobFolder
from tokenmill.executors.plan_file import Plan
from tokenmill.executors.simulation.cluster import SimulatedTask
from tokenmill.executors.simulation.events import Events


class SimulatedFolder(JobFolder):
    """The records of one simulated job.

    Args:
        url: the job's folder: a temporary one.
        num_shards: shards of the plan, once it is made.
        events: the simulated clock.

    """

    def __init__(self, url: str, num_shards: int, events: Events) -> None:
        super().__init__(url)
        self.size = num_shards
        self.events = events
        self.finished: set[int] = set()
        self.tries: dict[str, Mapping[str, Any]] = {}
        self.by_shard: dict[int, list[Mapping[str, Any]]] = {}
        self.aside: dict[int, str] = {}
        self.taken: dict[str, dict[int, int]] = {}
        self.stops = 0
        self.reads = 0
        """Files and folders that the controller has read."""
        self.beat_seconds = 10.0
        self.pulses: dict[str, dict[int, SimulatedTask]] = {}
        """Tasks of a launch that have begun."""
        self.seconds = 0.0
        self._planned = False
        self._published = False

    # the plan

    @cached_property
    def _plan(self) -> Plan:
        rows = [b'{"shard":%d,"pieces":{}}' % shard for shard in range(self.size)]
        return Plan({"files": {}}, rows)

    def publish_plan(self) -> None:
        """Make the plan."""
        self._planned = True

    def ensure_plan(self) -> Plan:
        """The plan; made now if there is none."""
        self._planned = True
        return self._plan

    def plan(self) -> Plan:
        """The plan."""
        self.reads += 1
        return self._plan

    def num_shards(self) -> int | None:
        """Number of shards; None before the plan is made."""
        return self.size if self._planned else None

    # what tasks do

    def lease(self, launch: str, shard: int, holder: Mapping[str, Any], generation: int = 0) -> bool:
        """Take a shard within a launch; False if another task has it."""
        taken = self.taken.setdefault(launch, {})
        if generation <= taken.get(shard, -1):
            return False
        taken[shard] = generation
        return True

    def leased(self, launch: str) -> dict[int, int]:
        """Shards taken within a launch, with the newest generation of their leases."""
        self.reads += 1
        return dict(self.taken.get(launch, {}))

    def beats(self, launch: str) -> dict[int, dict[str, Any]]:
        """Last sign of life of every task of a launch that gave one, by its number."""
        tasks = self.pulses.get(launch, {})
        self.reads += 1 + len(tasks)
        return {number: self._beat_of(task) for number, task in tasks.items()}

    def beating(self, launch: str) -> list[int]:
        """Numbers of the tasks of a launch that gave a sign of life."""
        self.reads += 1
        return list(self.pulses.get(launch, {}))

    def beat(self, launch: str, task: int) -> dict[str, Any] | None:
        """Last sign of life of a task; None if it gave none."""
        self.reads += 1
        found = self.pulses.get(launch, {}).get(task)
        return None if found is None else self._beat_of(found)

    def _beat_of(self, task: SimulatedTask) -> dict[str, Any]:
        seen = self.events.now if task.alive else task.ended_at
        return {
            "task": task.index,
            "host": "simulated",
            "pid": 0,
            "process_started": "",
            "machine": "simulated",
            "number": 1 + int((seen - task.began_at) / self.beat_seconds),
            "state": "ended" if task.ended_well else "working" if task.shard >= 0 else "idle",
            "shard": task.shard if task.alive else task.last_shard,
            "seconds": max(0.0, seen - task.attempt_began),
            "uptime_seconds": seen - task.began_at,
            "rss_bytes": 0,
        }

    def write_attempt(self, record: Mapping[str, Any]) -> None:
        """Keep the record of an attempt; the controller rewrites those of dead tasks."""
        self.tries[record["attempt"]] = record
        same = self.by_shard.setdefault(record["shard"], [])
        same[:] = [old for old in same if old["attempt"] != record["attempt"]] + [record]

    def commit(self, record: Mapping[str, Any]) -> bool:
        """Publish a commit; False if another attempt was first."""
        shard = int(record["shard"])
        if shard in self.finished:
            return False
        self.finished.add(shard)
        self.seconds += record["seconds"]
        return True

    # what the controller asks

    def attempts(self, part: str = "") -> list[dict[str, Any]]:
        """Records of attempts, by shard and start.

        Args:
            part: only those with this in their name: ``00007.`` for a shard, the token of a launch.
        """
        self.reads += 1
        if part.endswith("."):
            tries = self.by_shard.get(int(part[:-1]), [])
        else:
            tries = [record for record in self.tries.values() if part in str(record["attempt"])]
        self.reads += len(tries)
        return sorted(map(dict, tries), key=lambda record: (record["shard"], record["started"]))

    def is_settled(self, shard: int) -> bool:
        """True if work on a shard is in vain: it is done, or set aside."""
        return shard in self.finished or shard in self.aside

    def num_idle_launches(self) -> int:
        """Newest launches, without a gap, in which no task began an attempt."""
        idle = 0
        for launch in reversed(self.launch_order()):
            if self.taken.get(launch):
                break
            idle += not self.intent(launch)["after"]
        return idle

    def num_stopped(self) -> int:
        """Number of attempts that stopped on request."""
        return self.stops

    def done(self) -> set[int]:
        """Shards that are done; a set of its own, as a listing is."""
        self.reads += 1 + self.size // PER_SEGMENT
        return set(self.finished)

    def fold_commits(self) -> int:
        """Nothing: records in memory need no folding."""
        return 0

    def commits(self) -> Iterator[dict[str, Any]]:
        """None: a simulated job writes no output."""
        return iter(())

    def quarantine(self, shard: int, reason: str) -> None:
        """Set a shard aside."""
        self.aside.setdefault(shard, reason)

    def quarantined(self) -> dict[int, str]:
        """Shards set aside, with the last error."""
        self.reads += 1 + len(self.aside)
        return dict(self.aside)

    def manifest(self) -> dict[str, Any] | None:
        """The manifest; None while the job is not complete."""
        if not self._published:
            return None
        return {
            "format": FORMAT,
            "name": self.record["job"]["name"],
            "num_shards": self.size,
            "outputs": [],
            "counters": {},
            "figures": [],
            "seconds": self.seconds,
        }

    def publish_manifest(self) -> bool:
        """Publish the manifest if every shard is done; True if it stands afterwards."""
        self._published = self._published or (self._planned and len(self.finished) == self.size)
        return self._published
