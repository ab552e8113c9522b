"""Tasks as SLURM jobs: arrays of independent tasks, or one job of many ranks for a gang.

submitit writes the ``#SBATCH`` header and reads the answer of ``sbatch``; nothing is pickled: a batch script
runs ``python -m tokenmill.executors.worker`` on a job folder.

What SLURM says is a hint. Launches are found by the token in the job's name, never by id alone, because a
restarted controller may forget jobs and give their ids to others.
"""

import logging
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string as make_sbatch_string

from tokenmill import storage
from tokenmill.errors import ConfigError, SubmissionError
from tokenmill.executors.failures import state_class
from tokenmill.executors.hetjob import memory_per_cpu, parts_of, size_flags, srun_words, with_components
from tokenmill.executors.launch import Launch, record_intent
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.site import Site
from tokenmill.executors.slurm_client import run_client, submit

ALLOWED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "SHELL", "TMPDIR")
"""Variables that every job may see; a site allows more. Never ALL: secrets would enter SLURM's database."""
NAME_PREFIX = "tokenmill"
_log = logging.getLogger("tokenmill.slurm")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One ``sbatch`` call of a launch."""

    number: int
    """Number of the chunk in its launch."""
    first_task: int
    """Number of its first task in the launch."""
    num_tasks: int
    """Array tasks (array), or ranks (gang)."""
    segment: int = 0
    """Which of a gang's submissions that follow each other."""


def chunks_of(launch: Launch, max_array_size: int) -> list[Chunk]:
    """Cut a launch into arrays of at most ``max_array_size`` tasks with indices from 0, or into segments."""
    if launch.folder.job.layout == "gang":
        segments = range(launch.folder.job.resources.segments)
        return [Chunk(number=k, first_task=0, num_tasks=launch.num_tasks, segment=k) for k in segments]
    starts = range(0, launch.num_tasks, max_array_size)
    return [
        Chunk(number=number, first_task=start, num_tasks=min(max_array_size, launch.num_tasks - start))
        for number, start in enumerate(starts)
    ]


def job_name(launch: Launch, chunk: Chunk) -> str:
    """Name of a chunk at the scheduler: holds the launch's token."""
    return f"{NAME_PREFIX}-{launch.folder.job.name}-{launch.token}-c{chunk.number}"


def batch_script(
    launch: Launch, chunk: Chunk, site: Site, parent_ids: Sequence[str], previous: str = ""
) -> str:
    """The batch script of a chunk: a pure function of its arguments.

    Args:
        launch: what to start.
        chunk: which tasks of it.
        site: the cluster.
        parent_ids: ids of all arrays of all parents; the chunk waits until every one has succeeded.
        previous: id of the gang's segment before this one, which must have ended, well or not.

    """
    job = launch.folder.job
    gang = job.layout == "gang"
    first, *others = parts_of(launch.asked)
    minutes = max(1, -(-launch.asked.time_seconds // 60))
    flags = _flags(launch, chunk, site, parent_ids, previous)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(site.variables.items())]
    unset: Any = None  # else the header would say --wckey=submitit and, for a gang, --nodes=1
    script = make_sbatch_string(
        command=_command(launch, chunk, site, gang),
        folder="unused",
        wckey=unset,
        nodes=unset if gang else 1,
        job_name=job_name(launch, chunk),
        time=minutes,
        ntasks_per_node=None,
        cpus_per_task=first.cpus,
        mem_per_cpu=memory_per_cpu(first),
        gpus_per_task=first.gpus or None,
        signal_delay_s=site.signal_seconds,
        stderr_to_stdout=True,
        array_parallelism=chunk.num_tasks,
        map_count=None if gang else chunk.num_tasks,
        setup=[*site.setup, *exports] or None,
        use_srun=False,
        additional_parameters=flags,
    )
    return with_components(script, flags, [first, *others], site, minutes)


def _flags(
    launch: Launch, chunk: Chunk, site: Site, parent_ids: Sequence[str], previous: str
) -> dict[str, Any]:
    job = launch.folder.job
    gang = job.layout == "gang"
    output = f"chunk{chunk.number}.{'%j' if gang else '%A_%a'}.out"
    flags: dict[str, Any] = {
        "comment": f"{NAME_PREFIX}:{launch.token}",
        "export": ",".join(dict.fromkeys((*ALLOWED, *site.environment))),
        "open-mode": "append",
        "output": f"{escaped(launch.url)}/{output}",
        # the batch shell of an array task becomes the worker; a gang's srun passes step signals on
        "signal": f"{'' if gang else 'B:'}USR1@{site.signal_seconds}",
        # One actor per event: a gang that SLURM kills, for another job or with its node, keeps its place in
        # the queue, and one that ended by itself is launched by the driver. What is lost of an array is
        # always launched: a requeue by SLURM as well would do the work twice.
        "requeue" if gang else "no-requeue": True,
        "account": site.account,
        "qos": site.qos,
        "exclude": ",".join(launch.exclude),
        **size_flags(parts_of(launch.asked)[0], site),
    }
    if not gang:
        flags["ntasks"] = "1"
    # a segment waits for the parents as well: the one before it may never have run
    waits = [f"afterany:{previous}"] if previous else []
    if parent_ids:
        waits.append("afterok:" + ":".join(parent_ids))
        flags["kill-on-invalid-dep"] = "yes"  # else a child of a failed parent waits for ever
    flags["dependency"] = ",".join(waits)
    return {key: value for key, value in (flags | dict(site.flags)).items() if value}


def escaped(path: str) -> str:
    """A path of which SLURM replaces no part."""
    return path.replace("\\", "\\\\").replace("%", "%%")


def _command(launch: Launch, chunk: Chunk, site: Site, gang: bool) -> str:
    words = [
        *(site.python or sys.executable, "-u", "-m", "tokenmill.executors.worker"),
        *("--job-folder", launch.folder.url, "--launch", launch.token),
        *("--first-task", str(chunk.first_task), "--num-tasks", str(launch.num_tasks)),
        *("--signal-seconds", str(site.signal_seconds)),
    ]
    if not gang:
        return "exec " + shlex.join(words)
    words += ["--segment", str(chunk.segment)]
    return "exec " + shlex.join(srun_words(parts_of(launch.asked), site, words))


class SlurmExecutor:
    """Tasks as SLURM jobs.

    Args:
        site: the cluster.

    """

    name = "slurm"
    queues = True

    def __init__(self, site: Site) -> None:
        self.site = site
        self.poll_seconds = site.poll_seconds
        self.settle_seconds = site.settle_seconds

    @cached_property
    def max_array_size(self) -> int:
        """Tasks in the largest array: the site's value, or the cluster's own.

        Raises:
            SubmissionError: the cluster does not say.
        """
        if self.site.max_array_size:
            return self.site.max_array_size
        answer = run_client(["scontrol", "show", "config"])
        match = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
        if match is None:
            raise SubmissionError(
                "the cluster does not say its MaxArraySize",
                where="scontrol show config",
                fix=f"set max_array_size in site {self.site.name}",
            )
        return int(match.group(1))

    def num_tasks(self, wanted: int) -> int:
        """At most the site's limit."""
        return min(wanted, self.site.max_tasks)

    def free_slots(self) -> int:
        """As many as the site allows: SLURM queues what cannot start."""
        return self.site.max_tasks

    def scripts(self, launch: Launch) -> list[tuple[Chunk, str]]:
        """Every chunk with its batch script."""
        chunks = chunks_of(launch, self.max_array_size)
        return [(chunk, self.script(launch, chunk)) for chunk in chunks]

    def script(self, launch: Launch, chunk: Chunk, previous: str = "") -> str:
        """The batch script of a chunk; without the id of the segment before it, it holds that one's name."""
        parent_ids = [job_id for parent in launch.after for job_id in self.awaited_ids(parent)]
        if chunk.segment and not previous:
            previous = f"ID_OF_{job_name(launch, replace(chunk, number=chunk.number - 1))}"
        return batch_script(launch, chunk, self.site, parent_ids, previous)

    def preview(self, launch: Launch) -> list[str]:
        """The batch scripts, exactly as they would be submitted (parents' ids are known only then)."""
        return [script for _, script in self.scripts(launch)]

    def launch(self, launch: Launch) -> None:
        """Submit every chunk and record its id.

        Raises:
            SubmissionError: SLURM refused; chunks already submitted are cancelled.
        """
        check_folder(launch.folder)
        record_intent(launch, self.name)
        job_id = ""
        for chunk in chunks_of(launch, self.max_array_size):
            script = self.script(launch, chunk, previous=job_id if chunk.segment else "")
            path = storage.local_path(storage.join(launch.url, f"chunk{chunk.number}.sbatch"))
            storage.write_atomic(str(path), script.encode())
            try:
                job_id = submit(job_name(launch, chunk), str(path), launch.folder.job.name)
            except SubmissionError as error:
                self.cancel([launch])
                if launch.after and "dependency" in str(error).lower():
                    # what it waits for has ended, or was forgotten, since the last look: the next one decides
                    _log.warning("job %s is not queued now: %s", launch.folder.job.name, error.got)
                    return
                raise
            receipt = {"job_id": job_id, "num_tasks": chunk.num_tasks, "name": job_name(launch, chunk)}
            storage.write_atomic(
                storage.join(launch.url, f"receipt{chunk.number}.json"), storage.dump_json(receipt)
            )

    def awaited_ids(self, launch: Launch) -> list[str]:
        """Ids of the chunks that must succeed before a child may start; of a gang's segments the last."""
        ids = self.job_ids(launch)
        return ids[-1:] if launch.folder.job.layout == "gang" else ids

    def job_ids(self, launch: Launch) -> list[str]:
        """Ids of the chunks of a launch, as far as they were submitted."""
        names = [name for name in storage.list_names(launch.url) if name.startswith("receipt")]
        names.sort(key=lambda name: int(re.sub(r"\D", "", name)))
        return [storage.read_json(storage.join(launch.url, name))["job_id"] for name in names]

    def live(self, launches: Sequence[Launch]) -> set[str] | None:
        """Launches that ``squeue`` still knows; None while it does not answer."""
        if not launches:
            return set()
        try:
            answer = run_client(["squeue", "--me", "--noheader", "--format=%j|%T"])
        except SubmissionError:
            return None
        names = [line.split("|")[0].strip() for line in answer.splitlines()]
        found = {name.split("-")[-2] for name in names if name.startswith(NAME_PREFIX + "-")}
        return {launch.token for launch in launches if launch.token in found}

    def pending(self, launches: Sequence[Launch]) -> dict[tuple[str, str], int] | None:
        """Tasks that are queued, by launch and SLURM's reason; None while ``squeue`` does not answer."""
        try:
            command = ["squeue", "--me", "--noheader", "--array", "--states=PENDING", "--format=%j|%r"]
            answer = run_client(command)
        except SubmissionError:
            return None
        tokens = {launch.token for launch in launches}
        found: Counter[tuple[str, str]] = Counter()
        for line in answer.splitlines():
            name, _, reason = line.strip().partition("|")
            if name.startswith(NAME_PREFIX + "-") and name.split("-")[-2] in tokens:
                found[name.split("-")[-2], reason] += 1
        return dict(found)

    def ends(self, launch: Launch) -> dict[str, str]:
        """What sacct says of the tasks of a launch; empty where there is no accounting, or no answer."""
        ids = self.job_ids(launch)
        command = ["sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-30days"]
        command += ["--format=JobID,JobName%200,State,ExitCode", f"--jobs={','.join(ids)}"]
        try:
            answer = run_client(command) if ids else ""
        except SubmissionError:
            return {}
        found: dict[str, str] = {}
        for line in answer.splitlines():
            job_id, name, state, exit_code = [*line.split("|"), "", "", ""][:4]
            # ids are used again: only the name tells whose answer this is
            if launch.token in name and (kind := state_class(state, exit_code)):
                found[job_id] = kind
        return found

    def nudge(self, launches: Sequence[Launch]) -> None:
        """Nothing to do: tasks look up by themselves, and killing them would fail jobs that wait for them."""

    def cancel(self, launches: Sequence[Launch]) -> None:
        """Cancel by name: it holds the token, so no other job can be hit."""
        for launch in launches:
            chunks = chunks_of(launch, self.max_array_size)
            names = ",".join(job_name(launch, chunk) for chunk in chunks)
            run_client(["scancel", "--me", f"--name={names}"])


def check_folder(folder: JobFolder) -> None:
    """Refuse a run folder that compute nodes could not reach.

    Raises:
        ConfigError: scripts and SLURM's own logs need a path.
    """
    if not storage.is_local(folder.url):
        raise ConfigError(
            "the slurm executor needs a run folder on a shared file system",
            where=f"job {folder.job.name}",
            got=folder.url,
            fix="use a path; inputs may stay on s3://",
        )
