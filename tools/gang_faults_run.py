"""A run whose training is disturbed at the steps at which it waits, and what is counted of it."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from faults_cluster import Cluster

import tokenmill
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.status import recipe_status

TOOLS = Path(__file__).resolve().parent
SOURCE = Path(tokenmill.__file__).parents[1]
END_SECONDS = 600.0
"""A driver that has not ended by then hangs."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is done when training waits at a step."""

    step: int
    """Where."""
    act: "Callable[[GangRun, Mapping[str, Any]], None]"
    """What; gets what rank 0 said when it began to wait."""


@dataclass(kw_only=True)
class GangRun:
    """One run with one driver."""

    name: str
    """For people, and its folder's name."""
    folder: Path
    """Its run folder."""
    executor: Sequence[str]
    """Words of the command line that choose the executor."""
    cluster: Cluster | None = None
    """The cluster; None if it is not on SLURM."""
    seconds: float = field(default=0.0, init=False)
    """Wall time."""
    said: str = field(default="", init=False)
    """What the driver printed."""
    code: int = field(default=0, init=False)
    """The driver's exit code."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the driver."""
        base = self.cluster.environment if self.cluster else dict(os.environ)
        return base | {"PYTHONPATH": f"{TOOLS}:{SOURCE}", "OMP_NUM_THREADS": "1"}

    def go(self, recipe: Path, faults: Sequence[Fault] = ()) -> "GangRun":
        """Run a recipe to its end, disturbing it on the way."""
        shutil.rmtree(self.folder, ignore_errors=True)
        words = [sys.executable, "-m", "tokenmill.cli", "run", str(recipe), "--run-dir", str(self.folder)]
        began = time.monotonic()
        output = self.folder.parent / f"{self.name}.out"
        with output.open("wb") as file:
            driver = subprocess.Popen(
                [*words, "--quiet", *self.executor], env=self.environment, stdout=file, stderr=file
            )
            try:
                self._disturb(driver, faults)
                self.code = driver.wait(END_SECONDS)
            finally:
                driver.kill()
                driver.wait()
        self.seconds, self.said = time.monotonic() - began, output.read_text(errors="replace")
        print(f"{self.name}: driver ended with {self.code} after {self.seconds:.0f} s", flush=True)
        return self

    def _disturb(self, driver: "subprocess.Popen[bytes]", faults: Sequence[Fault]) -> None:
        for fault in faults:
            held = self._held(fault.step, driver)
            if held is not None:
                fault.act(self, held)

    def _held(self, step: int, driver: "subprocess.Popen[bytes]") -> dict[str, Any] | None:
        """What rank 0 said when it began to wait; None if the driver ended first."""
        while driver.poll() is None:
            for path in self.folder.glob(f"jobs/train-*/holds/{step}.json"):
                value: dict[str, Any] = json.loads(path.read_text())
                return value
            time.sleep(0.02)
        return None

    # what is counted

    @property
    def train(self) -> JobFolder:
        """Folder of the training job."""
        return JobFolder(
            next(status.folder for status in recipe_status(str(self.folder)) if status.name == "train")
        )

    def outputs(self, job: str = "") -> dict[str, str]:
        """Job and logical name -> checksum; metrics hold times and are left out."""
        found: dict[str, str] = {}
        for status in recipe_status(str(self.folder)):
            manifest = JobFolder(status.folder).manifest() or {"outputs": []}
            if job in ("", status.name):
                found |= {
                    f"{status.name}/{output['name']}": output["sha256"]
                    for output in manifest["outputs"]
                    if not output["name"].startswith("metrics/")
                }
        return found

    def num_launches(self) -> int:
        """How often training was launched."""
        return len(self.train.launch_order())

    def requeues(self) -> int:
        """How often SLURM itself started jobs of training again."""
        assert self.cluster is not None
        total = 0
        for path in self.folder.glob("jobs/train-*/submissions/*/receipt*.json"):
            told = self.cluster.client("scontrol", "show", "job", json.loads(path.read_text())["job_id"])
            total += sum(int(number) for number in re.findall(r"Restarts=(\d+)", told)[:1])
        return total

    def steps_redone(self, num_steps: int) -> int:
        """Steps that were done more than once; steps that stand in no trace count as redone."""
        traces = [json.loads(path.read_text()) for path in self.folder.glob("jobs/train-*/trace/*.json")]
        return sum(map(len, traces)) - num_steps

    def attempts(self) -> list[str]:
        """Names and outcomes of rank 0's attempts, oldest first."""
        records = [record for record in self.train.attempts() if record["rank"] == 0]
        return [f"{record['attempt'].partition('-')[2]} {record['outcome']}" for record in records]


@dataclass(frozen=True, kw_only=True)
class Starts:
    """By whom training must have been started, and how often: each event has one actor."""

    launches: int
    """By the driver."""
    requeues: int = 0
    """By SLURM."""
    either: int = 0
    """Events after which it depends on how long the processes take to end after their notice."""

    def rows(self, run: GangRun) -> list[dict[str, Any]]:
        """Rows of a run on SLURM."""
        launches, requeues = run.num_launches(), run.requeues()
        print(f"{run.name}: {launches} launches by the driver, {requeues} requeues by SLURM", flush=True)
        total = self.launches + self.requeues + self.either
        rows = [row(f"{run.name}: starts by driver or SLURM", launches + requeues, "starts", exactly=total)]
        rows.append(
            row(f"{run.name}: of them by SLURM", requeues, "requeues", at_most=self.requeues + self.either)
        )
        if not self.either:
            rows[-1] = row(f"{run.name}: of them by SLURM", requeues, "requeues", exactly=self.requeues)
        return rows


# what is done


def preempt(run: GangRun, held: Mapping[str, Any]) -> None:
    """Submit a job of a partition that may take the place of the gang's."""
    assert run.cluster is not None
    words = ["sbatch", "--partition=high", f"--nodelist={held['node']}", "--exclusive", "--time=1"]
    answer = run.cluster.client(*words, "--output=/dev/null", "--wrap=sleep 3")
    assert answer, "the job that preempts was refused"


def kill_rank(rank: int) -> Callable[[GangRun, Mapping[str, Any]], None]:
    """Kill one rank with signal 9."""

    def act(run: GangRun, held: Mapping[str, Any]) -> None:
        mine = [record for record in run.train.attempts() if record["attempt"] == held["attempt"]]
        os.kill(next(int(record["pid"]) for record in mine if record["rank"] == rank), signal.SIGKILL)

    return act


def lose_node(*, zombie: bool) -> Callable[[GangRun, Mapping[str, Any]], None]:
    """Take rank 0's node away: its daemon, and the ranks too unless they live on as zombies."""

    def act(run: GangRun, held: Mapping[str, Any]) -> None:
        assert run.cluster is not None
        mine = [] if zombie else run.cluster.node_processes(held["node"])
        run.cluster.kill(f"slurmd.{held['node']}")
        for pid in mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return act


def wait(run: GangRun, held: Mapping[str, Any]) -> None:
    """Do nothing: the time limit will come."""


def write_yaml(path: Path, value: Any) -> Path:
    """Write a recipe or a site."""
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def site(path: Path, **values: Any) -> Path:
    """A site whose jobs may be preempted, with this program's entries importable."""
    base = {"partition": "low", "environment": ["PATH", "HOME", "LANG"], "poll_seconds": 0.5}
    base |= {"variables": {"PYTHONPATH": f"{TOOLS}:{SOURCE}", "OMP_NUM_THREADS": "1"}, "signal_seconds": 30}
    return write_yaml(path, base | values)


def row(
    work: str, value: float, unit: str, *, exactly: float | None = None, at_most: float = 0
) -> dict[str, Any]:
    """One line of the table."""
    good = value == exactly if exactly is not None else value <= at_most
    limit = {"at_least": exactly, "at_most": exactly} if exactly is not None else {"at_most": at_most}
    return {"work": work, "value": value, "unit": unit, "peer": None, "ratio": None, **limit, "ok": good}
