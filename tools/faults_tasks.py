"""Faults of tasks: shards that fail; tasks killed, doubled, slow or cancelled; tasks with a wrong clock."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from faults_harness import (
    IMPORTS,
    LINES,
    TOOLS,
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

from tokenmill import recipes
from tokenmill.executors.graph import lay_out, write_run

CLOCK_SECONDS = 600.0


def failing_shard(world: World, seed: int) -> Result:
    """Row 2: one shard fails in the first chunk; no child starts, and resuming runs that shard alone."""
    shards = 34 if world.small else 100
    result = Result(row=2, fault=f"1 of {shards} shards fails in the first chunk", injected=1)
    shape = Shape(shards=shards, tasks=0 if world.executor == "slurm" else 4)
    case = world.case("chunks", shape, fail_on="line 0003 07")
    case.flag.touch()
    code = case.end(case.start())
    result.demand(code == 1, f"the run ended with {code}")
    result.demand(case.num_done() == shards - 1, f"{case.num_done()} shards done before resuming")
    result.demand(set(case.job().quarantined()) == {3}, f"set aside: {sorted(case.job().quarantined())}")
    child = case.job("count")
    started = len(child.attempts()) + (child.manifest() is not None)
    result.demand(started == 0, "the child started on incomplete input")
    before = {(record["shard"], record["attempt"]) for record in case.attempts()}
    case.flag.unlink()
    result.resumes = 1
    code = case.tokenmill("resume")
    again = [
        record["shard"] for record in case.attempts() if (record["shard"], record["attempt"]) not in before
    ]
    result.demand(code == 0 and again == [3], f"resume ended with {code} and ran shards {again}")
    result.number = f"{started} children early, {len(again)} shard resumed"
    return tally(result, case)


def killed_tasks(world: World, seed: int) -> Result:
    """Row 3: kill -9 of tasks at random moments."""
    rng = random.Random(seed)
    shards = 40 if world.small else 100
    slurm = world.executor == "slurm"
    shape = Shape(shards=shards, tasks=0 if slurm else 4, seconds=1.5 if slurm else 0.3)
    result = Result(row=3, fault=f"kill -9 of {shards // 10} tasks of {shards} shards", seed=seed)
    case = world.case("kills", shape)
    driver = case.start()
    wait_until(lambda: len(case.workers()) > 1)
    most_alive = 0
    for moment in moments(rng, shards // 10):
        wait_for_moment(case, rng, moment)
        workers = case.workers()
        most_alive = max(most_alive, len(workers))
        if workers and not case.job().manifest():
            result.injected += kill(rng.choice(workers).pid)
    heal(result, case, driver)
    result.allowed = result.injected + most_alive
    result.demand(result.injected > 0, "no task was killed")
    tally(result, case)
    result.number = f"{result.extra} extra attempts for {result.injected} kills"
    return result


def doubled_tasks(world: World, seed: int) -> Result:
    """Row 12: every shard is started twice at once."""
    shards = 200
    case = world.case("twice", Shape(shards=shards, tasks=2, seconds=0.01))
    result = Result(row=12, fault=f"{shards} shards started twice at once", injected=shards, allowed=shards)
    recipe = recipes.load_recipe(str(case.recipe))
    nodes = lay_out(recipe, str(case.run_dir))
    write_run(recipe, str(case.run_dir), nodes)  # as a driver begins; but tasks are started by hand
    nodes["upper"].folder.ensure_plan()
    _start_twice(case)
    winners = _outcomes(case, ("done",))
    late = _outcomes(case, ("late", "interrupted"))
    result.demand(case.num_done() == shards, f"{case.num_done()} commits")
    result.demand(late == shards, f"{late} losers of {shards} doubled shards")
    result.resumes = 1
    code = case.end(case.start())
    result.demand(code == 0, f"the driver ended with {code}: {case.words()}")
    files = [path for path in Path(case.job().at("data")).rglob("*") if path.is_file()]
    result.demand(len(files) == shards, f"{len(files)} data files for {shards} shards")
    lines = (case.job().manifest() or {}).get("counters", {}).get("lines", 0)
    result.demand(lines == shards * LINES, f"{lines} lines counted, {shards * LINES} are there")
    result.number = f"{winners} commits, {late} losers, {len(files)} files"
    result.allowed = None
    return tally(result, case)


def _start_twice(case: Case) -> None:
    """Two tasks that both try every shard, each shard at the same moment."""
    words = [sys.executable, str(TOOLS / "faults_twice.py"), case.job().url, str(case.folder / "meet")]
    if case.world.executor == "slurm":
        script = case.folder / "twice.sh"
        exports = f"export PYTHONPATH={IMPORTS}\nexec {' '.join(words)} $SLURM_ARRAY_TASK_ID\n"
        script.write_text(f"#!/bin/sh\n{exports}")
        options = ["--wait", "--array=0-1", "--mem=200", f"--output={case.folder}/twice-%a.out", str(script)]
        case.world.lab.client("sbatch", *options, seconds=300)
        return
    pair = [
        subprocess.Popen([*words, str(number)], env=case.environment(), stdout=subprocess.DEVNULL)
        for number in range(2)
    ]
    for process in pair:
        process.wait(300)


def _outcomes(case: Case, names: Collection[str]) -> int:
    return sum(record["outcome"] in names for record in case.attempts())


def wrong_clocks(world: World, seed: int) -> Result:
    """Row 13: the clocks of half of the workers are ten minutes fast, of the others ten minutes slow."""
    result = Result(row=13, fault="clocks of workers 10 minutes fast or slow", allowed=1)
    seconds, tasks = (2.0, 4) if world.small else (6.0, 6)
    shape = Shape(shards=tasks * 2, tasks=tasks, seconds=seconds, lease_seconds=seconds / 2)
    case = world.case("clocks", shape)
    shim = TOOLS / "faults_clock"
    case.variables = {"PYTHONPATH": f"{IMPORTS}:{shim}", "FAULTS_CLOCK_SECONDS": str(CLOCK_SECONDS)}
    driver = case.start()
    kill_one(case, random.Random(seed), tasks)  # its shard must be taken over, and no other
    heal(result, case, driver)
    records = case.attempts()
    off = [record for record in records if abs(record["started"] - time.time()) > CLOCK_SECONDS / 2]
    result.injected = len({record["pid"] for record in off})
    result.demand(result.injected >= tasks, f"only {result.injected} clocks were wrong")
    early = len(records) - len({record["shard"] for record in records}) - 1
    result.demand(early <= 0, f"{early} shards were taken from living tasks")
    wrong = sum(record.get("ended", record["started"]) < record["started"] for record in records)
    result.demand(wrong == 0, f"{wrong} attempts ended before they began")
    result.number = f"{max(0, early)} early steals"
    return tally(result, case)


def straggler(world: World, seed: int) -> Result:
    """Row 17: one worker is twenty times slower."""
    tasks, seconds = 16, 0.5  # of few tasks one is so many that losing it alone costs the allowance
    shape = Shape(shards=tasks * (24 if world.small else 48), tasks=tasks, seconds=seconds)
    result = Result(row=17, fault="one worker 20 times slower", injected=1)
    walls = []
    for slow in (1.0, 20.0):
        case = world.case("slow", shape, slow_factor=slow)
        code = case.end(case.start())
        walls.append(case.seconds)
        result.demand(code == 0, f"the driver ended with {code}: {case.words()}")
        if world.cluster:
            world.cluster.wait_until_idle()
    ratio = walls[1] / walls[0]
    result.seconds = walls[1]
    result.number = f"{ratio:.2f} times {walls[0]:.1f} s"
    result.demand(ratio <= 1.3, f"{ratio:.2f} times the wall time, 1.3 allowed")
    return tally(result, case)


def cancelled_tasks(world: World, seed: int) -> Result:
    """Row 19: scancel of one index, of a chunk, of a whole launch; then Ctrl-C of the driver."""
    slurm = world.executor == "slurm"
    shape = Shape(shards=48, tasks=24 if slurm else 4, seconds=6.0 if slurm else 0.5)
    names = "scancel of an index and a chunk, of a launch; " if slurm else ""
    result = Result(row=19, fault=f"{names}Ctrl-C of the driver")
    case = world.case("cancel", shape)
    driver = case.start()
    named = beside = 0
    for num_arrays in (3, 1) if slurm else ():  # the second time the launch's other tasks still run
        counts = _scancel(case, num_arrays)
        result.injected += 2 if num_arrays > 1 else 1
        named, beside = named + counts[0], beside + counts[1]
    result.demand(beside == 0, f"{beside} attempts ended that were not named")
    wait_until(lambda: bool(_running(case)))
    running = len(_running(case))
    kill(driver.pid, signal.SIGINT)
    code = case.end(driver, 60)
    result.injected += 1
    result.demand(code == 130, f"Ctrl-C ended the driver with {code}")
    result.resumes = 1
    code = case.tokenmill("resume")
    result.demand(code == 0, f"resume ended with {code}: {case.words()}")
    result.allowed = named + running
    result.number = f"{named} attempts cut off by name, {beside} others"
    return tally(result, case)


def _running(case: Case) -> list[dict[str, Any]]:
    """Attempts of living tasks that have not ended."""
    pids = {worker.pid for worker in case.workers()}
    return [record for record in case.attempts() if record["outcome"] == "running" and record["pid"] in pids]


def _scancel(case: Case, num_arrays: int) -> tuple[int, int]:
    """Cancel an index of the first array and all of the second, or all; count what is cut off.

    Returns:
        Attempts of tasks that were named, and of others.
    """

    def arrays() -> list[str]:
        return sorted({worker.array for worker in case.workers()}, key=int)

    wait_until(lambda: len(arrays()) >= num_arrays and len(_running(case)) > num_arrays, 60)
    workers, found = case.workers(), arrays()
    chosen = found[1:2] if num_arrays > 1 else found
    index = next(worker for worker in workers if worker.array == found[0])
    hit = {worker.pid for worker in workers if worker.array in chosen} | {index.pid}
    before = {_key(record) for record in _running(case)}
    case.world.lab.client("scancel", f"{index.array}_{index.index}", *chosen)
    wait_until(lambda: not hit & {worker.pid for worker in case.workers()}, 30)
    wait_until(lambda: all(_is_over(case, key, hit) for key in before), 30)
    ended = [record for record in case.attempts() if _key(record) in before]
    cut = [record for record in ended if record["outcome"] not in ("done", "late")]
    named = sum(record["pid"] in hit for record in cut)
    return named, len(cut) - named


def _key(record: dict[str, Any]) -> tuple[int, str]:
    return record["shard"], record["attempt"]


def _is_over(case: Case, key: tuple[int, str], hit: Collection[int]) -> bool:
    record = next(record for record in case.attempts() if _key(record) == key)
    return record["outcome"] != "running" or record["pid"] in hit
