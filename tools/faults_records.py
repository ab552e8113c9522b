"""Faults of drivers and storage: deaths between two writes, full disks, damaged files; secrets; MPI."""

import functools
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from faults_harness import IMPORTS, TOOLS, Case, Outputs, Result, Shape, World, tally, wait_until

REFUSED_SECONDS = 30.0


def killed_driver(world: World, seed: int) -> Result:
    """Row 8: the driver dies at each of its writes; started again, it comes to the same manifest."""
    result = Result(row=8, fault="kill -9 of the driver at each of its writes")
    _die_everywhere(result, world, "before" if world.small else "both")
    if world.executor == "processes":  # there the driver's process does the tasks' writes as well
        result.fault += ", with those of tasks"
        local = World(executor="local", folder=world.folder, small=world.small, references=world.references)
        _die_everywhere(result, local, "before" if world.small else "both")
    result.number = f"same manifest after {result.injected} deaths"
    return result


def _die_everywhere(result: Result, world: World, sides: str) -> None:
    """Count what came of deaths at every write of a driver."""
    shape = Shape(shards=4, tasks=2)
    case = world.case("crash", shape)
    words = [sys.executable, str(TOOLS / "faults_crash.py"), "--recipe", str(case.recipe), "--sides", sides]
    words += ["--folder", str(case.folder / "runs"), "--at-once", "6" if world.executor == "slurm" else "2"]
    out = case.folder / "crash.out"
    with out.open("wb") as file:
        code = subprocess.run(
            [*words, "--", *case.placement()],
            env=case.environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=1800,
        ).returncode
    lines = out.read_text().splitlines()
    result.demand(not code and bool(lines), f"the crash program ended with {code}: {' '.join(lines[-3:])}")
    wanted = world.reference(shape)
    for point in json.loads(lines[-1]) if lines and not code else ():
        found: Outputs = {(job, name): digest for job, name, digest in point["outputs"]}
        result.injected += 1
        result.resumes += 1
        result.compared += len(wanted)
        result.identical += sum(found.get(key) == value for key, value in wanted.items())
        result.lost += len(set(wanted) - set(found))
        result.doubled += max(0, point["lines"] - point["wanted_lines"])
        where = f"{world.executor}, death {point['side']} write {point['write']}"
        result.demand(found == wanted, f"{where}: {point['words']}")
        result.demand(point["lines"] == point["wanted_lines"], f"{where}: {point['lines']} lines counted")
    result.seconds += case.seconds


FULL = {"data": ("data",), "commits": ("done",), "attempts": ("attempts",), "logs": ("logs",)}
"""What is on the full disk -> folders of the job."""


def full_disks(world: World, seed: int) -> Result:
    """Row 9: a disk of 64 kB for data, commit records, attempt records, logs; resumed when there is space."""
    result = Result(row=9, fault=f"disk full for {', '.join(FULL)}")
    if os.geteuid() != 0:
        result.skipped = "only root may mount a small disk"
        return result
    for what in FULL:
        world.reference(_full_shape(what))
    with ThreadPoolExecutor(len(FULL)) as pool:  # they wait more than they work
        for what, one in zip(FULL, pool.map(functools.partial(_full_disk, world), FULL), strict=True):
            result.add(one, what)
    result.seconds /= len(FULL)
    result.number = f"{result.injected - len(result.problems)} of {result.injected} resumed"
    return result


def _full_shape(what: str) -> Shape:
    return Shape(shards=24, tasks=2, pad_bytes=1000 if what == "data" else 0)


def _full_disk(world: World, what: str) -> Result:
    """The records or files of one kind lie on a disk that is too small."""
    result = Result(row=9, fault=what, resumes=1)
    case = world.case(f"full-{what}", _full_shape(what))
    folder = Path(case.job().at(*FULL[what]))
    with _small_disk(folder):
        code = case.end(case.start())
        said = f"{case.words()} {_errors(case)}"
        done = case.num_done()
        refused = code == 1 and "No space left" in said and done < case.shape.shards
        spared = what == "logs" and code == 0  # logs are for people: shards are done without them, or not
        result.demand(refused or spared, f"ended with {code}, {done} done: {said[-200:]}")
        subprocess.run(["mount", "-o", "remount,size=16m", str(folder)], check=True)
        code = 0 if case.is_complete() else case.tokenmill("resume")
        result.demand(code == 0, f"resume ended with {code}: {case.words()}")
        return tally(result, case)


def _errors(case: Case) -> str:
    """Errors of attempts, and what tasks printed."""
    errors = [str(record.get("error", "")) for record in case.attempts()]
    printed = [case.job().last_words(launch) for launch in case.job().launch_order()]
    return " ".join([*filter(None, errors), *printed])


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def damaged_files(world: World, seed: int) -> Result:
    """Row 11: a committed file loses a byte, one is deleted, a byte of a third flips; verify finds all."""
    rng = random.Random(seed)
    result = Result(row=11, fault="a byte cut off, a file deleted, a byte changed", injected=3, resumes=1)
    case = world.case("damage", Shape(shards=12, tasks=3))
    code = case.end(case.start())
    result.demand(code == 0, f"the driver ended with {code}: {case.words()}")
    if world.cluster:
        world.cluster.wait_until_idle()
    commits = rng.sample(list(case.job().commits()), 3)
    cut, gone, changed = (Path(case.job().at(commit["outputs"][0]["path"])) for commit in commits)
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    data = bytearray(changed.read_bytes())
    data[rng.randrange(len(data))] ^= 1
    changed.write_bytes(bytes(data))
    before = {record["attempt"] for record in case.attempts()}
    code = case.end(case.command("verify", str(case.run_dir), "--json"))
    text = (case.folder / f"driver-{case.num_drivers}.out").read_text()
    found = {damage["shard"] for damage in json.loads(text)["damages"] if damage["job"] == "upper"}
    wanted = {commit["shard"] for commit in commits}
    result.demand(code == 1 and found == wanted, f"verify ended with {code} and found {sorted(found)}")
    for words in (("verify", "--repair"), ("resume",), ("verify",)):
        code = case.tokenmill(*words)
        result.demand(code == 0, f"{' '.join(words)} ended with {code}: {case.words()}")
    again = {record["shard"] for record in case.attempts() if record["attempt"] not in before}
    result.demand(again == wanted, f"made again: {sorted(again)}, damaged: {sorted(wanted)}")
    result.number = f"{len(found)} of 3 found, {len(again)} made again"
    return tally(result, case)


def secrets_seen(world: World, seed: int) -> Result:
    """Row 18: a secret of the environment, and one that an entry tells, are in no file and no database."""
    result = Result(row=18, fault="a secret in the environment, a secret told by an entry", injected=2)
    in_environment, told = (f"canary{uuid.uuid4().hex}" for _ in range(2))
    file = world.folder / f"secret{uuid.uuid4().hex[:6]}"
    file.touch(mode=0o600)
    file.write_text(told)
    shape = Shape(shards=4, tasks=2, seconds=0.5)
    case = world.case("secrets", shape, tell="FAULTS_TOKEN", fail_on="line 0002 07")
    case.flag.touch()
    case.secrets = {"FAULTS_TOKEN": str(file)}
    case.driver_variables = {"FAULTS_API_KEY": in_environment, "AWS_SECRET_ACCESS_KEY": in_environment}
    driver = case.start()
    wait_until(lambda: bool(case.workers()))
    at_slurm = _told_by_slurm(world)
    code = case.end(driver)
    result.demand(code == 1, f"the driver ended with {code}: {case.words()}")
    result.demand(any("cannot be done" in record.get("error", "") for record in case.attempts()), "no error")
    case.flag.unlink()
    result.resumes = 1
    code = case.tokenmill("resume")
    result.demand(code == 0, f"resume ended with {code}: {case.words()}")
    at_slurm += _told_by_slurm(world)
    folders = [case.folder] + ([world.cluster.folder] if world.cluster else [])
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts = {str(path): path.read_bytes() for path in files}
    texts["what SLURM tells"] = at_slurm.encode()
    spoken = [text for text in texts.values() if b"the value is" in text]
    result.demand(len(spoken) > 3, "the entry told nothing")
    secrets = (in_environment.encode(), told.encode())
    leaks = [name for name, text in texts.items() if any(secret in text for secret in secrets)]
    result.demand(not leaks, f"a secret is in {', '.join(leaks[:3])}")
    result.number = f"in {len(leaks)} of {len(texts)} files"
    return tally(result, case)


def _told_by_slurm(world: World) -> str:
    """What SLURM tells of jobs: their environment and scripts, if it keeps accounts."""
    if world.cluster is None:
        return ""
    lab = world.cluster
    ids = lab.client("squeue", "--noheader", "--states=all", "--format=%F").split()
    told = [lab.client("scontrol", "show", "job", "--details")]
    for job_id in sorted(set(ids))[-3:] if lab.accounting else ():
        told += [lab.client("sacct", flag, "--jobs", job_id) for flag in ("--env-vars", "--batch-script")]
    return "\n".join(told)


SRUN = """#!/bin/sh
# an srun that does not speak what the MPI library does: every process is a world of its own
case "$1" in --mpi=list) echo "MPI plugin types are... pmi2 pmix" >&2; exit 0;; esac
"""
ALONE = """for word in "$@"; do case "$word" in --ntasks=*) n=${word#--ntasks=};; esac; done
while case "$1" in --*) true;; *) false;; esac; do shift; done
for i in $(seq $n); do "$@" & done; wait
"""


def singletons(world: World, seed: int) -> Result:
    """Row 20: ranks of MPI do not find each other; they are refused, with what to do."""
    result = Result(row=20, fault="srun speaks another PMI than MPI", injected=1)
    mpi = World(executor="mpi", folder=world.folder, small=world.small)
    case = mpi.case("mpi", Shape(shards=4, tasks=3))
    if not _has_mpi():
        result.skipped = "no mpi4py: pip install 'tokenmill[mpi]'"
        return result
    folder = case.folder / "bin"
    folder.mkdir()
    real = f'exec {shutil.which("srun")} $(echo "$@" | sed s/--mpi=pmi./--mpi=none/)\n'
    (folder / "srun").write_text(SRUN + (real if world.cluster else ALONE))
    (folder / "srun").chmod(0o755)
    path = f"{folder}{os.pathsep}{case.environment()['PATH']}"
    began = time.monotonic()
    if world.cluster:
        said = _inside_allocation(world, case, path)
    else:
        case.driver_variables = {"PATH": path, "SLURM_JOB_ID": "1", "SLURM_NTASKS": "3"}
        code = case.end(case.start(), 60)
        said = case.words() if code == 1 else f"ended with {code}: {case.words()}"
    result.seconds = time.monotonic() - began
    result.demand(result.seconds < REFUSED_SECONDS, f"refused after {result.seconds:.0f} s")
    result.demand("MPI world of its own" in said and "fix:" in said, f"not refused: {said}")
    result.demand(case.num_done() == 0, f"{case.num_done()} shards were worked on all the same")
    result.number = f"refused in {result.seconds:.1f} s"
    return result


def _has_mpi() -> bool:
    code = "import mpi4py.MPI"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def _inside_allocation(world: World, case: Case, path: str) -> str:
    """Run the case's driver in an allocation of three tasks; returns what it printed."""
    out = case.folder / "driver-1.out"
    program = Path(sys.executable).parent / "tokenmill"
    words = [str(program), "run", str(case.recipe), "--run-dir", str(case.run_dir), "--executor", "mpi"]
    script = f"#!/bin/sh\nexport PYTHONPATH={IMPORTS} PATH={path}\nexec {shlex.join(words)}\n"
    (case.folder / "driver.sh").write_text(script)
    options = ["--wait", "--ntasks=3", "--mem-per-cpu=200", "--time=2", f"--output={out}"]
    world.lab.client("sbatch", *options, str(case.folder / "driver.sh"), seconds=120)
    return " ".join(out.read_text().split()) if out.exists() else "nothing was printed"
