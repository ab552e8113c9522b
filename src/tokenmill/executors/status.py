"""What a run is doing, read from its folder alone.

<run>/
run.json             recipe, version, and the folder of every job
driver.json          the driver that works on it, if one does; drivers/ counts those that did
jobs/<name>-<identity>/   see ``tokenmill.executors.ledger``
report.json, report.html
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenmill import storage
from tokenmill.config import unknown
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors.leases import machine_id, start_time
from tokenmill.executors.ledger import JobFolder
from tokenmill.telemetry import Number

State = Literal["waiting", "planned", "running", "complete", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """State of one job of a run."""

    name: str
    """Name of the job."""
    state: State
    """waiting: for parents; planned: shards known; running: shards taken now; failed: shards set aside."""
    num_shards: int | None
    """Shards of the plan; None before there is one."""
    done: int
    """Shards with a commit record."""
    failed: int
    """Shards in quarantine."""
    running: int
    """Shards leased in the newest launch and not done."""
    folder: str
    """The job's folder."""
    counters: Mapping[str, Number] = field(default_factory=dict)
    """Counters of the manifest; empty before the job is complete."""
    seconds: float = 0.0
    """Task seconds spent in committed attempts."""
    message: str = ""
    """Why the job failed, what a running attempt says of itself, or what became of its submission."""


def read_run(run_url: str) -> dict[str, Any]:
    """Content of run.json.

    Raises:
        InputError: the folder is not a run.
    """
    url = storage.join(run_url, "run.json")
    if not storage.exists(url):
        raise InputError(
            "no run in this folder",
            where=run_url,
            expected="run.json",
            fix="check the path, or start one with tokenmill run RECIPE --run-dir FOLDER",
        )
    return dict(storage.read_json(url))


def folders_of(run_url: str, job: str = "") -> dict[str, JobFolder]:
    """Folders of a run's jobs by name, in order of the graph; of one job if it is named.

    Raises:
        InputError: the folder is not a run.
        ConfigError: no such job.
    """
    rows = {row["name"]: row["folder"] for row in read_run(run_url)["jobs"]}
    if job and job not in rows:
        raise unknown("job", job, rows, run_url)
    base = storage.absolute(run_url)
    return {name: JobFolder(storage.join(base, rows[name])) for name in rows if name == (job or name)}


def find_shard(run_url: str, target: str) -> tuple[str, int | None]:
    """Name of a job, and number of a shard if there is one, from ``JOB`` or ``JOB/SHARD``.

    Raises:
        InputError: the folder is not a run.
        ConfigError: no such job or shard.
    """
    job, slash, shard = target.partition("/")
    folders = folders_of(run_url, job)
    if not slash:
        return job, None
    num_shards = folders[job].num_shards() or 0 if job else 0
    if not (shard.isdigit() and int(shard) < num_shards):
        raise ConfigError(
            "no such shard",
            where=f"job {job}",
            expected=f"a number below {num_shards}",
            got=shard or "nothing",
        )
    return job, int(shard)


def driver_of(run_url: str) -> dict[str, Any] | None:
    """The driver that works on a run, from driver.json; None if there is none or its process is gone.

    A driver on another machine counts as alive: its process cannot be seen from here.
    """
    url = storage.join(run_url, "driver.json")
    if not storage.exists(url):
        return None
    driver = dict(storage.read_json(url))
    elsewhere = driver["host"] != socket.gethostname() or driver.get("machine") not in (None, machine_id())
    return driver if elsewhere or start_time(driver["pid"]) == driver["started"] else None


def recipe_status(run_url: str) -> list[JobStatus]:
    """State of every job of a run, in order of the graph.

    Raises:
        InputError: the folder is not a run.
    """
    driven = driver_of(run_url) is not None
    rows = read_run(run_url)["jobs"]
    return [job_status(JobFolder(storage.join(run_url, row["folder"])), driven=driven) for row in rows]


def job_status(folder: JobFolder, *, driven: bool = True) -> JobStatus:
    """State of a job.

    Args:
        folder: the job's folder.
        driven: whether a driver works on the run; without one only SLURM tasks can still run.

    """
    name = str(folder.record["job"]["name"])
    manifest = folder.manifest()
    if manifest is not None:
        return JobStatus(
            name=name,
            state="complete",
            num_shards=manifest["num_shards"],
            done=manifest["num_shards"],
            failed=0,
            running=0,
            folder=folder.url,
            counters=manifest["counters"],
            seconds=manifest["seconds"],
        )
    num_shards, done, quarantined = folder.num_shards(), folder.done(), folder.quarantined()
    leased = _leased_newest(folder, driven) - done - set(quarantined)
    state: State = "waiting" if num_shards is None else "planned"
    if quarantined:
        state = "failed"
    elif storage.exists(folder.at("cancelled.json")):
        state = "cancelled"
    elif leased:
        state = "running"
    message = "; ".join(f"shard {shard}: {reason}" for shard, reason in sorted(quarantined.items())[:3])
    if state == "running":
        message = _words(folder, leased)
    elif state in ("waiting", "planned"):
        message = _submitted(folder)
    return JobStatus(
        name=name,
        state=state,
        num_shards=num_shards,
        done=len(done),
        failed=len(quarantined),
        running=len(leased),
        folder=folder.url,
        message=message,
    )


def _words(folder: JobFolder, leased: set[int]) -> str:
    """What the attempt that spoke last said, if its shard is still worked on."""
    url = folder.at("now.json")
    said = storage.read_json(url) if storage.exists(url) else {"shard": -1}
    return str(said["text"]) if said["shard"] in leased else ""


def _submitted(folder: JobFolder) -> str:
    """What is known of the newest submission of a job on which no task works."""
    order = folder.launch_order()
    if not order:
        return ""
    if words := folder.last_words(order[-1]):
        return f"no task works on it now; the last words of its tasks: {words}"
    names = storage.list_names(folder.at("submissions", order[-1]))
    receipts = [name for name in names if name.startswith("receipt")]
    ids = [storage.read_json(folder.at("submissions", order[-1], name))["job_id"] for name in receipts]
    return f"submitted to SLURM as {', '.join(ids)}; no task has begun" if ids else ""


def _leased_newest(folder: JobFolder, driven: bool) -> set[int]:
    """Shards leased in the launch that was recorded last, if its tasks may still run."""
    order = folder.launch_order()
    if not order:
        return set()
    executor = storage.read_json(folder.at("submissions", order[-1], "intent.json"))["executor"]
    return set(folder.leased(order[-1])) if driven or executor == "slurm" else set()
