"""All faults of tasks, driver and daemons in one run, in random order at random moments."""

import random
import signal
import subprocess
import time

from faults_cluster import MESSAGE_TIMEOUT
from faults_harness import Case, Result, Shape, World, heal, kill, moments, tally, wait_for_moment, wait_until

ON_PROCESSES = ("task", "task", "task", "freeze", "driver", "driver")
ON_SLURM = (*ON_PROCESSES, "task", "controller", "controller", "hang", "node")


def everything(world: World, seed: int) -> Result:
    """Row 21: tasks, driver, controller and a node's daemon die or hang during one run."""
    rng = random.Random(seed)
    slurm = world.executor == "slurm"
    events = list(ON_SLURM if slurm else ON_PROCESSES) * (1 if world.small else 2)
    rng.shuffle(events)
    result = Result(row=21, fault="tasks, drivers, daemons, in one run", seed=seed)
    shards = 60 if world.small else 120
    seconds = 2.0 if slurm else 0.8
    shape = Shape(shards=shards, tasks=16 if slurm else 4, seconds=seconds, lease_seconds=3.0)
    case = world.case("together", shape)
    driver = case.start()
    frozen: list[int] = []
    in_flight = 0
    for event, moment in zip(events, moments(rng, len(events)), strict=True):
        wait_for_moment(case, rng, moment)
        if driver.poll() is None:
            in_flight += len(case.workers()) if event in ("driver", "controller", "node") else 1
            driver = _inject(case, event, rng, driver, frozen)
            result.injected += 1
            result.resumes += event == "driver"
    heal(result, case, driver)
    half = len(events) // 2  # the run goes on meanwhile, and may end before the last of them
    result.demand(result.injected >= half, f"only {result.injected} faults: the driver ended early")
    for pid in frozen:
        kill(pid, signal.SIGCONT)
    before = case.committed_files()
    wait_until(lambda: not set(frozen) & {worker.pid for worker in case.workers()}, 30)
    result.demand(case.committed_files() == before, "committed files changed by a task that woke up")
    result.allowed = in_flight
    tally(result, case)
    result.number = f"{result.lost} lost, {result.doubled} doubled"
    return result


def _inject(
    case: Case, event: str, rng: random.Random, driver: "subprocess.Popen[bytes]", frozen: list[int]
) -> "subprocess.Popen[bytes]":
    """Do one of them; returns the driver that works now."""
    workers = [worker.pid for worker in case.workers() if worker.pid not in frozen]
    if event == "driver":
        driver.kill()
        driver.wait()
        return case.command("resume", str(case.run_dir))
    if event == "task" and workers:
        kill(rng.choice(workers))
    if event == "freeze" and workers:
        frozen.append(rng.choice(workers))
        kill(frozen[-1], signal.SIGSTOP)
    if event == "controller":
        case.world.lab.kill("slurmctld")
        time.sleep(rng.uniform(0.2, 2.0))
        case.world.lab.start()
    if event == "hang":
        case.world.lab.signal("slurmctld", signal.SIGSTOP)
        time.sleep(MESSAGE_TIMEOUT + 2)
        case.world.lab.signal("slurmctld", signal.SIGCONT)
    if event == "node":
        case.world.lab.kill("slurmd.n3")
        time.sleep(rng.uniform(0.2, 2.0))
        case.world.lab.start()
    return driver
