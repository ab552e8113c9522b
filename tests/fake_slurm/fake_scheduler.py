"""The fake's scheduler: a process that sbatch starts and that ends when nothing is left to run.

PENDING ──dependency met, slot free──> RUNNING ──exit──> COMPLETED / FAILED
   └──dependency can never be met, kill-on-invalid-dep──> CANCELLED
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from fake_queue import FINAL, Entry, FakeError, Queue, Settings, Submission, opened, settings, state_folder

TICK_SECONDS = 0.02


def ensure_running(queue: Queue) -> None:
    """Start the scheduler unless it lives or has nothing to do; the caller holds the lock."""
    idle = all(entry.state in FINAL and not entry.pid for entry in queue.entries)
    if idle or (queue.scheduler and is_alive(queue.scheduler)):
        return
    process = subprocess.Popen(
        [sys.executable, "-S", __file__],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(state_folder() / "scheduler.log").open("a"),
    )
    queue.scheduler = process.pid
    process.returncode = 0  # it is meant to outlive this program: no warning about that


def verdict(queue: Queue, entry: Entry) -> str:
    """What an entry's dependencies say: ``met``, ``wait`` or ``never``."""
    verdicts = [_clause(queue, entry, clause) for clause in queue.of(entry).dependency.split(",") if clause]
    if "never" in verdicts:
        return "never"
    return "wait" if "wait" in verdicts else "met"


def _clause(queue: Queue, entry: Entry, clause: str) -> str:
    kind, *ids = clause.split(":")
    if kind == "singleton":
        mine = queue.of(entry)
        earlier = [e for e in queue.entries if e.submission < mine.job_id and queue.of(e).name == mine.name]
        return "met" if all(e.state in FINAL and not e.pid for e in earlier) else "wait"
    parents = [parent for text in ids for parent in queue.find(text)]  # a forgotten job counts as ended well
    if kind == "after":
        return "met" if all(e.state != "PENDING" for e in parents) else "wait"
    done = [e.state in FINAL and not e.pid for e in parents]
    if kind == "afterok" and any(d and e.state != "COMPLETED" for d, e in zip(done, parents, strict=True)):
        return "never"
    if not all(done):
        return "wait"
    failed = any(e.state != "COMPLETED" for e in parents)
    return "never" if kind == "afternotok" and not failed else "met"


def check_dependency(text: str) -> None:
    """Refuse what the controller would refuse, and what the fake does not know.

    Raises:
        FakeError: with the controller's words.
    """
    for clause in text.split(",") if text else []:
        if not re.fullmatch(r"singleton|(after|afterok|afterany|afternotok)(:\d+(_\d+)?)+", clause):
            raise FakeError("sbatch: error: Batch job submission failed: Job dependency problem")


def clock(text: str, minute_seconds: float) -> float:
    """Seconds of a time limit such as ``5``, ``1:30``, ``2:00:00`` or ``1-12``; 0 for UNLIMITED."""
    if text.upper() in ("", "UNLIMITED", "INFINITE"):
        return 0.0
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if len(parts) > 3 or not all(part.isdigit() for part in [*parts, *([days] if dash else [])]):
        raise FakeError("sbatch: error: Invalid --time specification", 255)
    numbers = [int(part) for part in parts]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    else:  # minutes, minutes:seconds or hours:minutes:seconds
        hours, minutes, seconds = [0, *numbers, 0][:3] if len(numbers) < 3 else numbers
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) + seconds / 60
    return total * minute_seconds


def batch_environment(job: Submission, entry: Entry) -> dict[str, str]:
    """Variables of a batch script, as the real programs set them."""
    nodes = "n1" if job.num_nodes == 1 else f"n[1-{job.num_nodes}]"
    values: dict[str, object] = {
        "SLURM_JOB_ID": entry.job_id,
        "SLURM_JOBID": entry.job_id,
        "SLURM_JOB_NAME": job.name,
        "SLURM_JOB_PARTITION": job.partition,
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_NODELIST": nodes,
        "SLURM_JOB_NUM_NODES": job.num_nodes,
        "SLURM_NNODES": job.num_nodes,
        "SLURM_SUBMIT_DIR": job.folder,
        "SLURM_CPUS_ON_NODE": max(1, job.cpus),
        "SLURM_CLUSTER_NAME": "fake",
        "SLURMD_NODENAME": "n1",
        "SLURM_PROCID": 0,
        "SLURM_LOCALID": 0,
        "SLURM_NODEID": 0,
        "ENVIRONMENT": "BATCH",
    }
    if job.num_tasks:
        values |= {"SLURM_NTASKS": job.num_tasks, "SLURM_NPROCS": job.num_tasks}
    if job.cpus:
        values["SLURM_CPUS_PER_TASK"] = job.cpus
    if entry.restarts:
        values["SLURM_RESTART_COUNT"] = entry.restarts
    if entry.index is not None:
        values |= {"SLURM_ARRAY_JOB_ID": job.job_id, "SLURM_ARRAY_TASK_ID": entry.index}
        values |= {"SLURM_ARRAY_TASK_COUNT": len(job.indices)}
        values |= {"SLURM_ARRAY_TASK_MIN": job.indices[0], "SLURM_ARRAY_TASK_MAX": job.indices[-1]}
    return job.environment | {key: str(value) for key, value in values.items()}


def log_path(pattern: str, job: Submission, entry: Entry) -> Path:
    """Path of a log file: the letters after % as in sbatch(1)."""
    values = {"A": job.job_id, "a": entry.index, "j": entry.job_id, "x": job.name, "u": job.user}
    values |= {"N": "n1", "t": 0, "n": 0, "%": "%"}
    name = re.sub(r"%(.)", lambda found: str(values.get(found[1], found[0])), pattern)
    return Path(job.folder) / name


class Scheduler:
    """Starts, watches and ends processes."""

    def __init__(self, limits: Settings) -> None:
        self.limits = limits
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def tick(self, queue: Queue) -> bool:
        """Advance everything by one step; returns whether there is anything left to do."""
        for entry in queue.entries:
            if entry.pid:
                self._watch(queue, entry)
        for entry in queue.entries:
            if entry.state == "PENDING" and not entry.pid:
                self._consider(queue, entry)
        # an entry that waits for its dependency moves only when another one does
        waiting = ("None", "Resources", "JobArrayTaskLimit", "BeginTime")
        active = any(entry.pid for entry in queue.entries)
        return active or any(
            e.state == "PENDING" and e.reason in waiting and not e.held for e in queue.entries
        )

    def _consider(self, queue: Queue, entry: Entry) -> None:
        job = queue.of(entry)
        says = verdict(queue, entry)
        same = [e for e in queue.entries if e.submission == entry.submission and e.pid]
        if says == "never" and job.kill_invalid:
            entry.state, entry.ended = "CANCELLED", time.time()
        reasons = {
            "DependencyNeverSatisfied": says == "never",
            "JobHeldUser": entry.held,
            "Dependency": says == "wait",
            "BeginTime": time.time() < entry.begin,
            "JobArrayTaskLimit": 0 < job.throttle <= len(same),
            "Resources": sum(bool(e.pid) for e in queue.entries) >= self.limits.max_running,
        }
        entry.reason = next((reason for reason, holds in reasons.items() if holds), "None")
        if entry.reason == "None":
            self._start(queue, entry)

    def _start(self, queue: Queue, entry: Entry) -> None:
        job = queue.of(entry)
        others = [
            e for e in queue.entries if e.submission == entry.submission and not e.job_id and e is not entry
        ]
        if (
            not entry.job_id
        ):  # the array's own id goes to the task that starts last, as with the real controller
            entry.job_id = queue.new_id() if others else job.job_id
        entry.started, entry.killed, entry.warned = time.time(), 0.0, False
        try:
            out = log_path(job.output, job, entry).open("ab" if job.append else "wb")
            err = log_path(job.error, job, entry).open("ab" if job.append else "wb") if job.error else out
            process = subprocess.Popen(
                [job.script, *job.arguments],
                cwd=job.folder,
                env=batch_environment(job, entry),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError:
            entry.state, entry.reason, entry.exit_code = "FAILED", "JobLaunchFailure", -53
            entry.ended = time.time()
            return
        entry.state, entry.pid, entry.reason = "RUNNING", process.pid, "None"
        self.processes[process.pid] = process

    def _watch(self, queue: Queue, entry: Entry) -> None:
        process = self.processes.get(entry.pid)
        code = process.poll() if process else (None if is_alive(entry.pid) else 1)
        if code is not None:
            self._finish(entry, code)
        elif entry.killed:
            if time.time() - entry.killed > self.limits.kill_wait_seconds:
                kill(entry.pid, signal.SIGKILL)
        else:
            self._limit(queue.of(entry), entry)

    def _finish(self, entry: Entry, code: int) -> None:
        kill(entry.pid, signal.SIGKILL)  # what a batch script leaves behind ends with it
        self.processes.pop(entry.pid, None)
        entry.pid, entry.ended = 0, time.time()
        if entry.state == "RUNNING":
            entry.exit_code = code
            entry.state = "FAILED" if code else "COMPLETED"
            entry.reason = "None" if not code else "NonZeroExitCode" if code > 0 else f"RaisedSignal:{-code}"

    def _limit(self, job: Submission, entry: Entry) -> None:
        if not job.time_seconds:
            return
        left = entry.started + job.time_seconds - time.time()
        name, _, early = job.signal.rpartition(":")[2].partition("@")
        if name and not entry.warned and left <= int(early or 60) * self.limits.minute_seconds / 60:
            entry.warned = True
            number = signal.Signals[f"SIG{name.removeprefix('SIG')}"]
            for pid in [entry.pid] if job.signal.startswith("B:") else step_pids(entry.job_id):
                kill(pid, number, group=False)
        if left <= 0:
            entry.state, entry.reason, entry.killed = "TIMEOUT", "TimeLimit", time.time()
            kill(entry.pid, signal.SIGTERM)


def step_pids(job_id: int) -> list[int]:
    """Running srun processes of a job."""
    return [int(path.name) for path in (state_folder() / f"steps/{job_id}").glob("*")]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def kill(pid: int, number: int, *, group: bool = True) -> None:
    """Send a signal to a process or its group; it may be gone already."""
    try:
        (os.killpg if group else os.kill)(pid, number)
    except ProcessLookupError:
        return


def schedule(scheduler: Scheduler) -> None:
    """Tick until nothing is left to do, or too long; FileNotFoundError once the folder has gone."""
    end = time.monotonic() + scheduler.limits.max_seconds
    busy = True
    while busy and time.monotonic() < end:
        # sbatch starts this process before it has written the queue: wait for the lock, then look
        with opened() as queue:
            busy = scheduler.tick(queue)
            queue.scheduler = queue.scheduler if busy else 0
        time.sleep(TICK_SECONDS)


def main() -> None:
    """Schedule, and leave no process."""
    scheduler = Scheduler(settings())
    try:
        schedule(scheduler)
    except FileNotFoundError:  # the test's folder was removed in the middle
        pass
    finally:
        for pid in scheduler.processes:
            kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
