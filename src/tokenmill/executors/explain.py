"""Why a job or a shard is where it is, in plain sentences, from the run's folder and the queue.

>>> print(reason_in_words("QOSMaxJobsPerUserLimit"))
QOSMaxJobsPerUserLimit: as many of your jobs run as the quality of service (qos) allows
"""

import shlex
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenmill import storage
from tokenmill.executors.launch import Executor, launches_of
from tokenmill.executors.leases import start_time
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.status import driver_of, find_shard, folders_of, read_run
from tokenmill.executors.units import duration, moment

_MOST = 5
"""Sentences of one kind about a job."""
REASONS: Mapping[str, str] = {
    "None": "SLURM has not looked at it yet",
    "Resources": "it is next, and waits until enough cores, memory or GPUs are free",
    "Priority": "jobs of a higher priority stand before it in the queue",
    "Dependency": "jobs that it depends on have not ended",
    "DependencyNeverSatisfied": "a job that it depends on has failed, so it will never start",
    "JobArrayTaskLimit": "as many tasks of its array run as may run at once",
    "BeginTime": "the time at which it may start has not come",
    "JobHeldUser": "you hold it; `scontrol release` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved, perhaps for maintenance",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition starts no jobs now",
    "PartitionTimeLimit": "it asks for more time than its partition allows; lower the job's time_seconds",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows",
    "QOSMaxJobsPerUserLimit": "as many of your jobs run as the quality of service (qos) allows",
    "QOSMaxCpuPerUserLimit": "your jobs use as many cores as the quality of service (qos) allows",
    "QOSMaxGRESPerUser": "your jobs use as many GPUs as the quality of service (qos) allows",
    "AssocMaxJobsLimit": "as many jobs of your account run as may run at once",
    "AssocGrpCpuLimit": "your account uses as many cores as it may",
    "AssocGrpCPUMinutesLimit": "your account has used up its core-hours",
    "Reservation": "it waits for its reservation",
    "Licenses": "it waits for a licence",
    "BadConstraints": "no node can ever give what it asks for; mend the site or the job's resources",
}
"""Reasons that ``squeue`` gives for a pending job, in words (squeue(1), JOB REASON CODES)."""
_FAMILIES = {
    "QOS": "a limit of its quality of service (qos) is reached",
    "Assoc": "a limit of your account is reached",
}


def reason_in_words(reason: str) -> str:
    """What a reason of SLURM means; the reason itself comes first."""
    word = reason.strip("()").partition(",")[0].partition(" ")[0]
    family = next((text for start, text in _FAMILIES.items() if word.startswith(start)), "")
    return f"{reason}: {REASONS.get(word) or family or 'see JOB REASON CODES in `man squeue`'}"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why something is where it is."""

    target: str
    """The job, or job/shard."""
    state: str
    """One word."""
    sentences: tuple[str, ...]
    """Why, the most important first."""


def explain(run_url: str, target: str, executor: Executor) -> Explanation:
    """Say why a job or a shard is where it is.

    Args:
        run_url: folder of the run.
        target: ``JOB`` or ``JOB/SHARD``.
        executor: the one that started the tasks.

    Raises:
        InputError: the folder is not a run.
        ConfigError: no such job or shard.
    """
    job, shard = find_shard(run_url, target)
    facts = _Facts(run_url, job, executor)
    state, sentences = _job(facts) if shard is None else _shard(facts, shard)
    return Explanation(target=target, state=state, sentences=tuple(sentences))


class _Facts:
    """What is known of a job.

    Args:
        run_url: folder of the run.
        job: name of the job.
        executor: the one that started the tasks.
    """

    def __init__(self, run_url: str, job: str, executor: Executor) -> None:
        self.job, self.executor, self.run_url = job, executor, run_url
        self.folders = folders_of(run_url)
        self.folder = self.folders[job]
        self.launches = launches_of(self.folder)
        self.done, self.quarantined = self.folder.done(), self.folder.quarantined()
        self.num_shards = self.folder.num_shards()
        self.is_driven = driver_of(run_url) is not None
        self.resume = f"`tokenmill resume {shlex.quote(run_url)}`"

    @cached_property
    def parents(self) -> list[JobFolder]:
        """Folders of the parents that are not complete, in the order of the recipe."""
        [row] = [row for row in read_run(self.run_url)["jobs"] if row["name"] == self.job]
        folders = [self.folders[name] for name in row["parents"]]
        return [folder for folder in folders if folder.manifest() is None]

    @cached_property
    def live(self) -> set[str] | None:
        """Launches of which a task may still run; None if the scheduler does not answer."""
        if self.executor.queues:
            return self.executor.live(self.launches)
        # processes end with their driver, and a job has one launch at a time
        return {launch.token for launch in self.launches[-1:]} if self.is_driven else set()

    @cached_property
    def attempts(self) -> list[dict[str, Any]]:
        """Records of attempts by shard and start; of a gang the rank that failed, or else rank 0."""
        found: dict[str, dict[str, Any]] = {}
        for record in self.folder.attempts():
            known = found.setdefault(record["attempt"], record)
            if record["outcome"] == "error" != known["outcome"]:
                found[record["attempt"]] = record
        return list(found.values())

    def of(self, shard: int) -> list[dict[str, Any]]:
        """Attempts at a shard, oldest first."""
        return [record for record in self.attempts if record["shard"] == shard]

    def outcome(self, record: Mapping[str, Any]) -> str:
        """Outcome of an attempt; what is recorded as running may be lost, or unknown."""
        if record["outcome"] != "running":
            return str(record["outcome"])
        if self.live is None:
            return "unknown"
        is_gone = record["host"] == socket.gethostname() and not start_time(record["pid"])
        return "running" if record["launch"] in self.live and not is_gone else "lost"

    def log(self, record: Mapping[str, Any]) -> str:
        """Where the log of an attempt lies."""
        return self.folder.log_url(record["shard"], record["attempt"], record["rank"])

    def words(self, shard: int) -> str:
        """What the running attempt at a shard said last, as the end of a sentence."""
        url = self.folder.at("now.json")
        said = storage.read_json(url) if storage.exists(url) else {"shard": -1}
        return f"; it says: {said['text']}" if said["shard"] == shard else ""


# Attempts


def _attempt(facts: _Facts, record: Mapping[str, Any], winner: str) -> str:
    """One sentence about an attempt."""
    name, host, began = f"attempt {record['attempt']}", record["host"], moment(record["started"])
    outcome, log = facts.outcome(record), f"; log: {facts.log(record)}"
    if outcome == "running":
        passed = duration(time.time() - record["started"])
        return f"{name} runs since {began} ({passed}) on {host}{facts.words(record['shard'])}{log}"
    if record["outcome"] == "running" and record["attempt"] == winner:
        return f"{name} committed the shard and died before it could say so{log}"
    if outcome == "lost":
        launch = f"its launch {record['launch']} lives no longer, or its process is gone"
        return f"{name} was lost: it began at {began} on {host}, but {launch}{log}"
    if outcome == "unknown":
        return f"{name} began at {began} on {host}; whether it runs only the scheduler knows{log}"
    took = duration(record["seconds"])
    return f"{name} {_ENDS[outcome].format(host=host, took=took, winner=winner, **_texts(record))}{log}"


_ENDS = {
    "error": "failed after {took} on {host}: {error}",
    "forgiven": "failed after {took} on {host}, which a resume has forgiven: {error}",
    "stopped": "stopped after {took} on {host}, as it was asked to, with its progress saved",
    "late": "was late: attempt {winner} had committed the shard before it",
    "done": "was done after {took} on {host}, but its commit record was withdrawn",
}


def _texts(record: Mapping[str, Any]) -> dict[str, str]:
    return {"error": " ".join(str(record.get("error", "")).split())}


# A shard


def _shard(facts: _Facts, shard: int) -> tuple[str, list[str]]:
    """State and sentences of a shard: the verdict, then its attempts, oldest first."""
    attempts = facts.of(shard)
    target = f"{facts.job}/{shard}"
    if shard in facts.done:
        commit = facts.folder.committed(shard)
        winner = str(commit["attempt"])
        others = [
            record for record in attempts if record["attempt"] != winner or record["outcome"] == "running"
        ]
        return "done", [_done(facts, commit, target), *(_attempt(facts, other, winner) for other in others)]
    history = [_attempt(facts, record, "") for record in attempts]
    outcomes = [facts.outcome(record) for record in attempts]
    failures = outcomes.count("error")
    if shard in facts.quarantined:
        reason = facts.quarantined[shard]
        verdict = f"{target} is set aside after {_times(failures, 'failed attempt')}: {reason}"
        return "failed", [verdict, f"{facts.resume} tries it again", *history]
    if "running" in outcomes:
        return "running", [f"{target} is worked on", *history]
    verdict = (
        f"{target} {'is not done and nobody works on it' if attempts else 'was not taken by a task yet'}"
    )
    if failures:
        most = facts.folder.job.resources.max_attempts
        verdict += f"; it failed {_times(failures, 'time')} and is set aside after {most}"
    return "waiting", [verdict, *history, *_waits(facts)]


def _done(facts: _Facts, commit: Mapping[str, Any], target: str) -> str:
    times = [float(other["seconds"]) for other in facts.folder.commits()]
    median, seconds = statistics.median(times), float(commit["seconds"])
    ratio = f", {seconds / median:.1f} times the median" if median else "; the median is"
    return (
        f"{target} is done, by attempt {commit['attempt']} on {commit['host']} at {moment(commit['ended'])}; "
        f"it took {duration(seconds)}{ratio} {'of ' * bool(median)}{duration(median)} "
        f"over {_times(len(times), 'done shard')}"
    )


# A job


def _job(facts: _Facts) -> tuple[str, list[str]]:
    """State and sentences of a job."""
    if manifest := facts.folder.manifest():
        return "complete", [_complete(facts, manifest)]
    running = [record for record in facts.attempts if facts.outcome(record) == "running"]
    lost = [
        record
        for record in facts.attempts
        if facts.outcome(record) == "lost" and record["shard"] not in facts.done
    ]
    sentences = [f"{facts.job} is not planned yet: its shards depend on what its parents write"]
    if facts.num_shards is not None:
        sentences = [f"{facts.job} is not complete: {_count(facts.folder)}"]
    for shard, reason in _first(facts.quarantined.items()):
        records = facts.of(shard)
        log = f"; log: {facts.log(records[-1])}" if records else ""
        sentences.append(f"shard {shard} is set aside: {reason}{log}")
    if facts.quarantined:
        sentences.append(f"{facts.resume} tries {_times(len(facts.quarantined), 'shard')} again")
    sentences += [f"shard {record['shard']}: {_attempt(facts, record, '')}" for record in _first(running)]
    sentences += [f"shard {record['shard']}: {_attempt(facts, record, '')}" for record in _first(lost)]
    sentences += _queue(facts) if running else _waits(facts)
    if storage.exists(facts.folder.at("cancelled.json")):
        return "cancelled", sentences
    return "failed" if facts.quarantined else "running" if running else "waiting", sentences


def _complete(facts: _Facts, manifest: Mapping[str, Any]) -> str:
    commits = [(float(commit["seconds"]), int(commit["shard"])) for commit in facts.folder.commits()]
    text = f"{facts.job} is complete since {moment(manifest['ended'])}: {_times(len(commits), 'shard')}"
    if len(commits) > 1:
        slowest, shard = max(commits)
        median = statistics.median(seconds for seconds, _ in commits)
        text += f" of {duration(median)} in the median; the slowest, shard {shard}, took {duration(slowest)}"
    return text


def _count(folder: JobFolder) -> str:
    num_shards = folder.num_shards()
    if num_shards is None:
        return "it is not planned yet"
    return f"{len(folder.done())} of {num_shards} shards are done"


# Waiting


def _waits(facts: _Facts) -> list[str]:
    """Why what is not done is not worked on."""
    url = facts.folder.at("cancelled.json")
    if storage.exists(url):
        when = moment(storage.read_json(url)["cancelled"])
        return [f"the job was cancelled at {when}; {facts.resume} goes on"]
    sentences = [_parent(facts, folder) for folder in facts.parents] + _queue(facts)
    if sentences or facts.quarantined:
        return sentences
    if facts.live is None:
        return ["SLURM does not answer, so what is queued is not known"]
    if facts.live:
        return [f"launch {', '.join(sorted(facts.live))} takes the job's shards one after the other"]
    if facts.is_driven:
        return ["the driver has not launched it yet: it waits for a free slot, or for its next look"]
    return [f"nothing works on the run; {facts.resume} goes on"]


def _parent(facts: _Facts, parent: JobFolder) -> str:
    name = str(parent.record["job"]["name"])
    aside = len(parent.quarantined())
    failed = f", {aside} set aside, so it will not come by itself" if aside else ""
    asked = f"`tokenmill explain {shlex.quote(facts.run_url)} {name}` says why"
    return f"it waits for {name}: {_count(parent)}{failed}; {asked}"


def _queue(facts: _Facts) -> list[str]:
    """What is queued at SLURM and why it does not start."""
    if not isinstance(facts.executor, SlurmExecutor):
        return []
    pending = facts.executor.pending(facts.launches) or {}
    return [
        f"{_times(count, 'task')} of launch {token} queued at SLURM: {reason_in_words(reason)}"
        for (token, reason), count in sorted(pending.items())
    ]


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _first(values: Any) -> Sequence[Any]:
    return list(values)[:_MOST]
