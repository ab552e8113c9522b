"""A run that is to be disturbed, what is counted of it, and what is demanded.

    World (executor, folder, cluster) ── case(name, Shape) ──> Case (recipe, run folder, driver)
    Case ── start, disturb, end, resume ──> tally ──> Result (one line of the table)

Everything goes through the command tokenmill, as a user's run does; a run that is not complete is resumed
with ``tokenmill resume``. Outputs are compared, by checksum, with those of a run without faults.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from faults_cluster import Cluster, environment_of

import tokenmill
from tokenmill import recipes
from tokenmill.errors import TokenmillError
from tokenmill.executors.graph import lay_out
from tokenmill.executors.job import Resources
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.status import folders_of

TOOLS = Path(__file__).resolve().parent
IMPORTS = f"{TOOLS}:{Path(tokenmill.__file__).parents[1]}"
"""Where drivers and workers find the entries, and the tokenmill that this program has."""
LINES = 10
"""Lines of a shard."""
END_SECONDS = 240.0
"""A driver that has not ended by then hangs."""
MARK = "FAULTS_CASE"
"""Variable that marks the processes of a case."""
Outputs = dict[tuple[str, str], str]
"""Job and logical name -> checksum of the bytes on disk."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large a run is."""

    shards: int
    """Shards of the job that is disturbed."""
    tasks: int = 0
    """Its tasks; 0: one per shard."""
    seconds: float = 0.0
    """Sleep per shard in seconds."""
    pad_bytes: int = 0
    """Bytes put behind every line of the output."""
    lease_seconds: float = 5.0
    """Silence after which another task may take a shard, in seconds."""


@dataclass(kw_only=True)
class Result:
    """One line of the table."""

    row: int
    """Number of the fault in the table of faults."""
    fault: str
    """What was done."""
    seed: int | None = None
    """Seed of random moments."""
    injected: int = 0
    """Faults."""
    lost: int = 0
    """Shards without a commit record at the end."""
    doubled: int = 0
    """Shards that count more than once."""
    identical: int = 0
    """Outputs equal to those of the run without faults."""
    compared: int = 0
    """Outputs compared."""
    extra: int | None = None
    """Attempts beyond one per shard."""
    allowed: int | None = None
    """Most extra attempts: kills, and what was in flight."""
    resumes: int = 0
    """Times that `tokenmill resume` was called."""
    seconds: float = 0.0
    """Wall time."""
    number: str = ""
    """The number that is demanded, as found."""
    problems: list[str] = field(default_factory=list)
    """Demands that were not met."""
    skipped: str = ""
    """Why nothing was done."""

    @property
    def ok(self) -> bool:
        """True if every demand was met."""
        return not self.problems

    @property
    def survived(self) -> int:
        """Faults after which the run was whole, and as demanded."""
        return self.injected if self.ok else 0

    def add(self, other: "Result", what: str) -> None:
        """Count what came of a part of this row."""
        self.injected += 1
        for name in ("lost", "doubled", "identical", "compared", "resumes", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.extra = (self.extra or 0) + (other.extra or 0)
        self.problems += [f"{what}: {problem}" for problem in other.problems]

    def demand(self, is_met: bool, problem: str) -> None:
        """Note a problem unless a demand is met."""
        if not is_met:
            self.problems.append(problem)


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A living task of a case."""

    pid: int
    """Its process."""
    node: str
    """Its node; empty outside of SLURM."""
    array: str
    """Id of its SLURM array; empty outside of SLURM."""
    index: str
    """Its index in the array."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Where cases run."""

    executor: str
    """slurm or processes."""
    folder: Path
    """Folder of everything."""
    cluster: Cluster | None = None
    """The cluster; None for processes."""
    small: bool = True
    """Few and short runs."""
    references: dict[tuple[int, int], Outputs] = field(default_factory=dict)
    """Outputs without faults, by shards and padding."""

    @property
    def lab(self) -> Cluster:
        """The cluster, for rows that need one."""
        assert self.cluster is not None, "this row needs a cluster"
        return self.cluster

    def case(self, name: str, shape: Shape, **config: object) -> "Case":
        """A new run."""
        folder = self.folder / f"{name}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(parents=True)
        return Case(world=self, folder=folder, shape=shape, config=config)

    def input_of(self, shards: int) -> Path:
        """Folder of text that is cut into so many shards."""
        folder = self.folder / f"input-{shards}"
        if not folder.exists():
            folder.mkdir(parents=True)
            lines = [f"line {shard:04d} {line:02d}\n" for shard in range(shards) for line in range(LINES)]
            (folder / "text.jsonl").write_text("".join(lines))
        return folder

    def processes(self) -> list[int]:
        """Living processes of all cases."""
        living = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        mine = {path.name for path in self.folder.glob("*-*")}
        return [pid for pid in living if environment_of(pid).get(MARK) in mine]

    def reference(self, shape: Shape) -> Outputs:
        """Outputs of a run of this shape without faults, by processes of this machine."""
        key = (shape.shards, shape.pad_bytes)
        if key not in self.references:
            quiet = World(executor="processes", folder=self.folder, small=self.small)
            case = quiet.case("reference", Shape(shards=shape.shards, tasks=2, pad_bytes=shape.pad_bytes))
            case.end(case.start())
            self.references[key] = case.outputs()
            assert len(self.references[key]) == shape.shards + 1, case.words()
        return self.references[key]


@dataclass(kw_only=True)
class Case:
    """One run: its recipe, its folder, its drivers."""

    world: World
    folder: Path
    shape: Shape
    config: Mapping[str, object]
    variables: dict[str, str] = field(default_factory=dict)
    """Further variables of drivers and workers."""
    driver_variables: dict[str, str] = field(default_factory=dict)
    """Further variables of drivers alone."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Secrets of the recipe: variables and files."""
    num_drivers: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.folder / "run"

    @property
    def flag(self) -> Path:
        """A file that entries look at."""
        return self.folder / "flag"

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.monotonic() - self.began

    @cached_property
    def recipe(self) -> Path:
        """The recipe's file."""
        shape, source = self.shape, self.world.input_of(self.shape.shards)
        num_bytes = sum(path.stat().st_size for path in source.iterdir())
        asked: dict[str, object] = {"memory_bytes": 200_000_000, "time_seconds": 600}
        if "lease_seconds" in {item.name for item in fields(Resources)}:
            asked["lease_seconds"] = shape.lease_seconds
        config = {"seconds": shape.seconds, "pad_bytes": shape.pad_bytes, "flag": str(self.flag)}
        upper = {
            "entry": "faults_entries.upper",
            "config": config | dict(self.config),
            "inputs": {"lines": "text"},
            "sharding": {"target_bytes": -(-num_bytes // shape.shards)},
            "resources": asked | {"tasks": shape.tasks},
        }
        count = {"entry": "faults_entries.count", "inputs": {"lines": "upper.lines"}, "resources": asked}
        count["sharding"] = {"mode": "whole"}
        value: dict[str, object]
        value = {"name": "faults", "inputs": {"text": str(source)}, "jobs": {"upper": upper, "count": count}}
        if self.secrets:
            value["secrets"] = self.secrets
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(value))
        return path

    @cached_property
    def site(self) -> Path:
        """The site's file."""
        path = self.folder / "lab.yaml"
        own = {MARK: self.folder.name, "PYTHONPATH": self.environment()["PYTHONPATH"], **self.variables}
        value = {"poll_seconds": 0.3, "max_tasks": 64, "signal_seconds": 30, "variables": own}
        path.write_text(yaml.safe_dump(value))
        return path

    def environment(self) -> dict[str, str]:
        """Environment of a driver."""
        base = self.world.cluster.environment if self.world.cluster else dict(os.environ)
        own = {"PYTHONPATH": IMPORTS, MARK: self.folder.name}
        return base | own | self.variables | self.driver_variables

    def placement(self) -> list[str]:
        """Options of the executor."""
        if self.world.executor == "slurm":
            return ["--executor", "slurm", "--site", str(self.site)]
        if self.world.executor == "local":
            return ["--executor", "local"]
        return ["--executor", self.world.executor, "--workers", str(self.shape.tasks or 4)]

    # drivers

    def command(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start tokenmill; what it prints goes to a file of the case."""
        self.num_drivers += 1
        program = Path(sys.executable).parent / "tokenmill"
        with (self.folder / f"driver-{self.num_drivers}.out").open("wb") as out:
            return subprocess.Popen(
                [str(program), *words],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the run."""
        self.began = time.monotonic()
        return self.command("run", str(self.recipe), "--run-dir", str(self.run_dir), *self.placement())

    def end(self, driver: "subprocess.Popen[bytes]", seconds: float = END_SECONDS) -> int:
        """Wait until a driver ends; its exit code, or 124 if it had to be killed."""
        try:
            return driver.wait(seconds)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
            return 124

    def tokenmill(self, *words: str) -> int:
        """Run a command on the run's folder to its end."""
        return self.end(self.command(words[0], str(self.run_dir), *words[1:]))

    def words(self) -> str:
        """The last words of the last driver."""
        path = self.folder / f"driver-{self.num_drivers}.out"
        lines = path.read_text(errors="replace").split("error:")[-1].split() if path.exists() else []
        return " ".join(lines)[-400:]

    # what is there

    def job(self, name: str = "upper") -> JobFolder:
        """Folder of a job; known before there is one."""
        if (self.run_dir / "run.json").exists():
            return folders_of(str(self.run_dir), name)[name]
        return lay_out(recipes.load_recipe(str(self.recipe)), str(self.run_dir))[name].folder

    def has_begun(self) -> bool:
        """True once there is a run."""
        return (self.run_dir / "run.json").exists()

    def num_done(self) -> int:
        """Shards of the disturbed job that are done."""
        return len(self.job().done()) if self.has_begun() else 0

    def attempts(self) -> list[dict[str, Any]]:
        """Attempts of the disturbed job."""
        return self.job().attempts() if self.has_begun() else []

    def is_complete(self) -> bool:
        """True if every job has a manifest."""
        return self.has_begun() and all(
            folder.manifest() is not None for folder in folders_of(str(self.run_dir)).values()
        )

    def outputs(self) -> Outputs:
        """Checksums of all outputs that manifests name, by what lies on disk."""
        found: Outputs = {}
        for name, folder in folders_of(str(self.run_dir)).items() if self.has_begun() else ():
            for output in (folder.manifest() or {"outputs": []})["outputs"]:
                path = Path(folder.at(output["path"]))
                data = path.read_bytes() if path.exists() else b"missing"
                found[name, output["name"]] = hashlib.sha256(data).hexdigest()
        return found

    def committed_files(self) -> dict[str, str]:
        """Checksums of every committed file and commit record, by path."""
        found = {}
        for folder in folders_of(str(self.run_dir)).values():
            outputs = [output["path"] for commit in folder.commits() for output in commit["outputs"]]
            records = [str(path) for path in Path(folder.at("done")).rglob("*") if path.is_file()]
            for path in [Path(folder.at(name)) for name in outputs] + [Path(record) for record in records]:
                data = path.read_bytes() if path.exists() else b"missing"
                found[str(path)] = hashlib.sha256(data).hexdigest()
        return found

    def processes(self) -> list[int]:
        """Living processes of this case."""
        living = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [pid for pid in living if environment_of(pid).get(MARK) == self.folder.name]

    def workers(self) -> list[Worker]:
        """Living tasks of this case."""
        found = []
        for pid in self.processes():
            line = _read(Path(f"/proc/{pid}/cmdline"))
            if "tokenmill.executors.worker" in line or "spawn_main" in line:
                env = environment_of(pid)
                array, index = env.get("SLURM_ARRAY_JOB_ID", ""), env.get("SLURM_ARRAY_TASK_ID", "")
                node = env.get("SLURMD_NODENAME", "")
                found.append(Worker(pid=pid, node=node, array=array, index=index))
        return sorted(found, key=lambda worker: worker.pid)

    def end_processes(self) -> None:
        """Kill what is left of the case."""
        for pid in self.processes():
            kill(pid)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def kill(pid: int, signum: int = signal.SIGKILL) -> bool:
    """Send a signal to a process; False if it is gone."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def wait_until(check: Callable[[], bool], seconds: float = 60.0, step: float = 0.05) -> bool:
    """Whether a check came true in time; records that vanish while they are read are read again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if check():
                return True
        except (TokenmillError, OSError, json.JSONDecodeError):
            pass  # a record was being replaced
        time.sleep(step)
    return False


def tally(result: Result, case: Case) -> Result:
    """Fill in what came of a run, and note where it is not whole."""
    wanted = case.world.reference(case.shape)
    found = case.outputs()
    result.seconds = result.seconds or case.seconds
    result.identical = sum(found.get(key) == value for key, value in wanted.items())
    result.compared = len(set(wanted) | set(found))
    result.lost, result.doubled = case.shape.shards, 0
    if case.has_begun():
        commits = [commit["shard"] for commit in case.job().commits()]
        result.lost = case.shape.shards - len(set(commits))
        lines = ((case.job().manifest() or {}).get("counters") or {}).get("lines", 0)
        result.doubled = len(commits) - len(set(commits)) + max(0, -(-lines // LINES) - case.shape.shards)
        result.extra = len(case.attempts()) - case.shape.shards
    result.demand(result.lost == 0, f"{result.lost} shards lost")
    result.demand(result.doubled == 0, f"{result.doubled} shards count twice")
    result.demand(
        result.identical == result.compared, f"{result.identical} of {result.compared} outputs identical"
    )
    if result.allowed is not None and result.extra is not None:
        result.demand(
            result.extra <= result.allowed, f"{result.extra} extra attempts, {result.allowed} allowed"
        )
    return result


def heal(result: Result, case: Case, driver: "subprocess.Popen[bytes]", most_resumes: int = 0) -> None:
    """Wait for the driver; resume as a user would while the run is not complete."""
    code = case.end(driver)
    while code and code != 124 and result.resumes < most_resumes:
        result.resumes += 1
        code = case.tokenmill("resume")
    result.demand(code == 0, f"the driver ended with {code}: {case.words()}")


def kill_one(case: Case, rng: random.Random, least_attempts: int = 1) -> int:
    """Kill -9 a random living task once some attempts have begun; how many were killed."""
    wait_until(lambda: len(case.attempts()) >= least_attempts and bool(case.workers()))
    workers = case.workers()
    return int(bool(workers) and kill(rng.choice(workers).pid))


def moments(rng: random.Random, count: int) -> Sequence[float]:
    """Random moments of a run, as shares of its shards that are done, in order."""
    return sorted(rng.uniform(0.0, 0.8) for _ in range(count))


def wait_for_moment(case: Case, rng: random.Random, moment: float) -> None:
    """Wait until a share of the shards is done, and a little longer; not for ever, if nothing gets done."""
    wait_until(lambda: case.num_done() >= moment * case.shape.shards, 30)
    time.sleep(rng.uniform(0.0, 0.5))
