"""A driver that is itself a job, so that nobody has to stay logged in.

    process   the driver runs where it was started (default)
    job       the driver is a SLURM job; shortly before its time limit it submits its successor and ends
    gate      no driver runs: a short job waits for the end, good or bad, of all that is queued; it then looks
              at the records, submits what is left and the next gate, or finds the run complete or failed

Either kind applies the same rule to the same records as a driver in a terminal, which may be started at any
time beside them: only one drives.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tokenmill import storage
from tokenmill.config import unknown
from tokenmill.errors import ConfigError
from tokenmill.executors.launch import Executor, launches_of
from tokenmill.executors.slurm import ALLOWED, NAME_PREFIX, SlurmExecutor, escaped
from tokenmill.executors.slurm_client import run_client, submit
from tokenmill.executors.status import folders_of

KINDS = ("process", "job", "gate")
NOTICE_SECONDS = 120
"""Notice before the time limit: enough to submit the successor while the scheduler is slow."""


@dataclass(frozen=True, kw_only=True)
class Controller:
    """A driver that runs as a job."""

    run_url: str
    """Folder of the run."""
    kind: str
    """job or gate."""
    token: str
    """Unique name: eight hexadecimal digits."""

    @property
    def name(self) -> str:
        """Name at the scheduler."""
        return f"{NAME_PREFIX}-{self.kind}-{self.token}-c0"

    @property
    def url(self) -> str:
        """Folder of its records."""
        return storage.join(self.run_url, "controllers", self.token)


def controller_script(controller: Controller, executor: SlurmExecutor, after: Sequence[str]) -> str:
    """The batch script: a pure function of its arguments.

    Args:
        controller: what to start.
        executor: its site says where.
        after: ids of jobs that must have ended, well or not.
    """
    site = executor.site
    flags = {
        "job-name": controller.name,
        "comment": f"{NAME_PREFIX}:{controller.token}",
        "output": f"{escaped(controller.url)}/%j.out",
        "open-mode": "append",
        "time": str(max(1, site.controller_seconds // 60)),
        "ntasks": "1",
        "cpus-per-task": "1",
        "mem": "1000M",
        "export": ",".join(dict.fromkeys((*ALLOWED, *site.environment))),
        "signal": f"B:USR1@{NOTICE_SECONDS}",
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "dependency": f"afterany:{':'.join(after)}" if after else "",
        **site.flags,
    }
    header = [f"#SBATCH --{key}={shlex.quote(value)}" for key, value in flags.items() if value]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(site.variables.items())]
    words = [site.python or sys.executable, "-u", "-m", "tokenmill.cli", "drive", controller.run_url]
    # a node that fails takes its driver with it: SLURM starts that again
    lines = ["#!/bin/bash", *header, "#SBATCH --requeue", *site.setup, *exports]
    return "\n".join([*lines, "exec " + shlex.join([*words, "--controller", controller.kind]), ""])


def start_controller(run_url: str, kind: str, executor: SlurmExecutor, after: Sequence[str] = ()) -> str:
    """Submit a controller; returns its job id.

    Args:
        run_url: folder of the run, which exists.
        kind: job or gate.
        executor: where to.
        after: ids of jobs that must have ended first.

    Raises:
        ConfigError: the folder is out of reach of compute nodes.
        SubmissionError: SLURM refused.
    """
    if not storage.is_local(run_url):
        raise ConfigError("a controller needs a run folder on a shared file system", got=run_url)
    controller = Controller(run_url=storage.absolute(run_url), kind=kind, token=os.urandom(4).hex())
    path = storage.join(controller.url, "controller.sbatch")
    intent = {"kind": kind, "name": controller.name, "after": list(after)}
    storage.write_atomic(storage.join(controller.url, "intent.json"), storage.dump_json(intent))
    storage.write_atomic(path, controller_script(controller, executor, after).encode())
    job_id = submit(controller.name, str(storage.local_path(path)), f"{kind} controller")
    receipt = {"job_id": job_id, "name": controller.name}
    storage.write_atomic(storage.join(controller.url, "receipt.json"), storage.dump_json(receipt))
    return job_id


def check_kind(kind: str, executor: Executor) -> None:
    """Refuse a kind of controller that is not there.

    Raises:
        ConfigError: it is unknown, or not one for this executor.
    """
    if kind not in KINDS:
        raise unknown("controller", kind, KINDS, "--controller")
    if kind != "process" and not isinstance(executor, SlurmExecutor):
        raise ConfigError(
            "only on SLURM can a job drive a run",
            where=f"--controller {kind}",
            got=f"--executor {executor.name}",
        )


def hand_over(run_url: str, kind: str, executor: Executor) -> str:
    """Submit the next controller of a run; returns its job id, or nothing if the run is complete.

    Raises:
        SubmissionError: SLURM refused, or does not answer.
    """
    assert isinstance(executor, SlurmExecutor), "check_kind has refused others"
    folders = [folder for folder in folders_of(run_url).values() if folder.manifest() is None]
    if not folders:
        return ""
    launches = [launch for folder in folders for launch in launches_of(folder)]
    live = executor.live(launches)
    waited = [launch for launch in launches if live is None or launch.token in live]
    ids = [job_id for launch in waited for job_id in executor.job_ids(launch)] if kind == "gate" else []
    return start_controller(run_url, kind, executor, ids)


def controller_names(run_url: str) -> list[str]:
    """Names of all controllers that were ever submitted for a run."""
    folder = storage.join(run_url, "controllers")
    urls = [storage.join(folder, token, "intent.json") for token in storage.list_names(folder)]
    return [str(storage.read_json(url)["name"]) for url in urls if storage.exists(url)]


def cancel_controllers(run_url: str) -> None:
    """Cancel the controllers of a run, if it has any.

    Raises:
        SubmissionError: the scheduler does not answer.
    """
    if names := controller_names(run_url):
        run_client(["scancel", "--me", f"--name={','.join(names)}"])
