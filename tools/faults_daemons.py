"""Faults of SLURM itself: its nodes, its controller, its database."""

import os
import random
import shutil
import signal
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults_cluster import MESSAGE_TIMEOUT, SLURMD_TIMEOUT
from faults_harness import (
    Case,
    Result,
    Shape,
    World,
    heal,
    kill,
    kill_one,
    moments,
    tally,
    wait_for_moment,
    wait_until,
)

REQUEUE_SECONDS = 2 * SLURMD_TIMEOUT
"""From the last word of a node to its jobs' end at SLURM: it looks at nodes once per timeout."""
VERDICT_SECONDS = 60.0


def lost_nodes(world: World, seed: int) -> Result:
    """Row 4: a node dies with its tasks; another goes silent while its tasks live on beside their reruns."""
    seconds = 4.0
    result = Result(row=4, fault="a node lost, a zombie node", injected=2)
    case = world.case("nodes", Shape(shards=24, tasks=24, seconds=seconds, lease_seconds=3.0))
    driver = case.start()
    wait_until(lambda: {"n1", "n2"} <= {worker.node for worker in case.workers()})
    wait_until(lambda: len(case.attempts()) > 4)
    world.lab.kill("slurmd.n1")
    for pid in world.lab.node_processes("n1"):
        kill(pid)
    zombies = [worker.pid for worker in case.workers() if worker.node == "n2"]
    for pid in zombies:  # cut off in the middle of a shard, to go on when everything is over
        kill(pid, signal.SIGSTOP)
    world.lab.kill("slurmd.n2")
    if not world.small:  # a zombie that works on all the while
        world.lab.kill("slurmd.n3")
        result.injected, result.fault = 3, f"{result.fault}, a living zombie"
    began = time.monotonic()
    heal(result, case, driver)
    took = time.monotonic() - began
    limit = SLURMD_TIMEOUT + REQUEUE_SECONDS + 30
    result.demand(took <= limit, f"{took:.0f} s after the loss, {limit} allowed")
    before = case.committed_files()
    result.demand(any(map(_is_alive, zombies)), "no zombie was left to wake")
    for pid in zombies:
        kill(pid, signal.SIGCONT)
    wait_until(lambda: not any(map(_is_alive, zombies)), 60)
    after = case.committed_files()
    changed = sum(before.get(path) != after.get(path) for path in set(before) | set(after))
    result.demand(changed == 0, f"{changed} committed files changed by the zombie")
    result.number = f"{changed} files changed, {took:.0f} of {limit} s"
    problem = world.lab.start()
    result.demand(not problem, f"the cluster did not mend: {problem}")
    return tally(result, case)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def killed_controller(world: World, seed: int) -> Result:
    """Row 5: kill -9 of the controller at random moments, once with the loss of all that it remembers."""
    rng = random.Random(seed)
    shards = 40 if world.small else 60  # more tasks than CPUs, so that some wait in the queue
    result = Result(row=5, fault="kill -9 slurmctld 4 times, its state wiped once", seed=seed)
    case = world.case("controller", Shape(shards=shards, seconds=2.0, lease_seconds=3.0))
    driver = case.start()
    wiped = rng.randrange(4)
    for number, moment in enumerate(moments(rng, 4)):
        wait_for_moment(case, rng, moment)
        result.injected += world.lab.kill("slurmctld")
        if number == wiped:
            world.lab.wipe_state()
        time.sleep(rng.uniform(0.2, 2.0))
        problem = world.lab.start()  # as an administrator would; resumes nodes that it drained
        result.demand(not problem, f"the controller did not come back: {problem}")
    heal(result, case, driver)
    tally(result, case)
    result.number = f"{result.lost} lost, {result.doubled} doubled, {result.resumes} manual steps"
    return result


def hung_controller(world: World, seed: int) -> Result:
    """Row 6: the controller hangs in the middle of sbatch, which fails; the array runs all the same."""
    rng = random.Random(seed)
    case = world.case("hung", Shape(shards=24, tasks=24, seconds=0.5))
    call, seconds = rng.randrange(1, 5), MESSAGE_TIMEOUT + rng.uniform(-1.0, 5.0)
    fault = f"slurmctld hangs {seconds:.0f} s in sbatch {call} of 4"
    result = Result(row=6, fault=fault, seed=seed, injected=1)
    folder, calls, pid = case.folder / "bin", case.folder / "calls", world.lab.pid("slurmctld")
    folder.mkdir()
    hang = f"kill -STOP {pid}; (sleep {seconds:.1f}; kill -CONT {pid}) >/dev/null 2>&1 </dev/null &"
    count = f"echo >>{calls}\nif [ $(wc -l <{calls}) = {call} ]; then {hang}\nfi"
    (folder / "sbatch").write_text(f'#!/bin/sh\n{count}\nexec {shutil.which("sbatch")} "$@"\n')
    (folder / "sbatch").chmod(0o755)
    case.driver_variables = {"PATH": f"{folder}:{world.lab.environment['PATH']}"}
    heal(result, case, case.start())
    num_calls = len(calls.read_text().splitlines()) if calls.exists() else 0
    result.demand(num_calls >= call, f"sbatch was called {num_calls} times")
    arrays = defaultdict(set)
    listing = world.lab.client("squeue", "--states=all", "--noheader", "--array", "--format=%j|%F")
    for line in listing.splitlines():
        name, _, array = line.partition("|")
        arrays[name].add(array)
    tokens = {launch for name in ("upper", "count") for launch in case.job(name).launch_order()}
    found = {name: ids for name, ids in arrays.items() if name.split("-")[-2] in tokens}
    most = max(map(len, found.values()), default=0)
    result.demand(most == 1, f"{most} arrays for one token")
    tally(result, case)
    result.number = f"at most {most} array per token, {num_calls} calls of sbatch for 4"
    return result


def lying_accounting(world: World, seed: int) -> Result:
    """Row 7: accounting is dead, absent, empty or lies; every shard gets its verdict in time."""
    kinds = ["absent", "empty", "lying"] + (["dead"] if world.lab.accounting else [])
    total = Result(row=7, fault=f"accounting {', '.join(kinds)}")
    world.reference(_UNACCOUNTED)
    with ThreadPoolExecutor(len(kinds)) as pool:  # a dead slurmdbd changes nothing for the other three
        found = list(pool.map(lambda kind: _unaccounted(world, kind, random.Random(seed)), kinds))
    for kind, one in zip(kinds, found, strict=True):
        total.add(one, kind)
    slowest = max(one.seconds for one in found)
    total.seconds = slowest
    total.number = f"verdicts in {slowest:.0f} s"
    return total


_UNACCOUNTED = Shape(shards=12, tasks=6, seconds=2.0)


def _unaccounted(world: World, kind: str, rng: random.Random) -> Result:
    result = Result(row=7, fault=kind, resumes=1)
    case = world.case(f"sacct-{kind}", _UNACCOUNTED, fail_on="line 0002 07")
    case.flag.touch()
    if kind == "dead":
        world.lab.kill("slurmdbd")
    else:
        case.driver_variables = {"PATH": _path(case, kind)}
    driver = case.start()
    result.demand(kill_one(case, rng, 3) == 1, "no task was killed")
    code = case.end(driver)
    result.seconds = case.seconds
    verdicts = case.num_done() + len(case.job().quarantined())
    result.demand(code == 1, f"the driver ended with {code}: {case.words()}")
    result.demand(verdicts == 12, f"{verdicts} of 12 shards have a verdict")
    result.demand(result.seconds < VERDICT_SECONDS, f"it took {result.seconds:.0f} s")
    case.flag.unlink()
    code = case.tokenmill("resume")
    result.demand(code == 0, f"resume ended with {code}: {case.words()}")
    if kind == "dead":
        problem = world.lab.start()
        result.demand(not problem, f"slurmdbd did not come back: {problem}")
    return tally(result, case)


LIAR = """#!/bin/sh
# every task was preempted, whatever became of it
for word in "$@"; do case "$word" in --jobs=*) ids=${word#--jobs=};; esac; done
exec squeue --noheader --states=all --array --jobs="$ids" --format='%F_%K|%j|PREEMPTED|0:0'
"""


def _path(case: Case, kind: str) -> str:
    """A PATH on which sacct is missing, or is a program that says nothing or lies."""
    folder, path = case.folder / "bin", case.world.lab.environment["PATH"]
    folder.mkdir()
    if kind == "absent":  # sacct lies beside all others, so all others are linked
        for source in reversed(path.split(os.pathsep)):
            for program in Path(source).glob("*"):
                link = folder / program.name
                link.unlink(missing_ok=True)
                link.symlink_to(program)
        (folder / "sacct").unlink(missing_ok=True)
        return str(folder)
    (folder / "sacct").write_text(LIAR if kind == "lying" else "#!/bin/sh\nexit 0\n")
    (folder / "sacct").chmod(0o755)
    return f"{folder}{os.pathsep}{path}"
