"""Training as a gang: stopped or killed in the middle, it goes on and ends with the same bits."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from entries import lab_site
from test_executors import attempts, outputs

from tokenmill import storage
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.job import Job, Recipe, Resources
from tokenmill.executors.launch import Executor
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.tokens.shards import ShardWriter

STEPS = 120


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    writer = ShardWriter(vocab_size=64, tokenizer_sha256="0" * 64, end_id=0)
    random = np.random.default_rng(0)
    for _ in range(40):
        writer.add([int(number) for number in random.integers(1, 64, 200)])
    with storage.create(str(tmp_path / "a.tokens")) as file:
        writer.write(file)
    train = Job(
        name="train",
        entry="tokenmill.training.trainer.run",
        inputs={"tokens": "tokens"},
        layout="gang",
        config={
            "preset": "test",
            "seq_len": 32,
            "batch_size": 8,
            "microbatch_size": 2,
            "num_steps": STEPS,
            "checkpoint_every_steps": 10,
            "log_every_steps": 10,
            "device": "cpu",
        },
        resources=Resources(tasks=2, memory_bytes=1_000_000_000),
    )
    return Recipe(name="train", inputs={"tokens": (str(tmp_path / "a.tokens"),)}, jobs=(train,))


def compared(run: Path) -> dict[str, str]:
    """Everything but metrics, which hold times."""
    return {name: digest for name, digest in outputs(run).items() if "/checkpoint/" in name}


def disturb(run: Path, disturbance: Callable[[list[int]], None]) -> threading.Thread:
    """In a thread: once two checkpoints stand, call ``disturbance`` with the process ids of the ranks."""

    def wait() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if len(list(run.glob("jobs/train-*/progress/step-*/index.json"))) >= 2:
                break
            time.sleep(0.01)
        running = [record for record in attempts(run, "train") if record["outcome"] == "running"]
        disturbance([int(str(record["pid"])) for record in running])

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def send(number: signal.Signals, most: int) -> Callable[[list[int]], None]:
    def call(pids: list[int]) -> None:
        for pid in pids[:most]:
            os.kill(pid, number)

    return call


def check(
    executor: Executor, recipe: Recipe, folder: Path, disturbance: Callable[[list[int]], None]
) -> list[str]:
    """Outcomes of rank 0's attempts in a disturbed run whose checkpoint equals that of a quiet one."""
    run_recipe(recipe, str(folder / "quiet"), ProcessesExecutor(2))
    thread = disturb(folder / "run", disturbance)
    try:
        run_recipe(recipe, str(folder / "run"), executor)
    finally:
        thread.join()
    assert compared(folder / "quiet")
    assert compared(folder / "run") == compared(folder / "quiet")
    return [str(record["outcome"]) for record in attempts(folder / "run", "train") if record["rank"] == 0]


def test_a_signal_saves_and_the_next_launch_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    outcomes = check(ProcessesExecutor(2), recipe, tmp_path, send(signal.SIGUSR1, 2))
    assert outcomes == ["stopped", "done"]


def test_a_rank_killed_in_the_middle_costs_steps_and_no_bit(recipe: Recipe, tmp_path: Path) -> None:
    outcomes = check(ProcessesExecutor(2), recipe, tmp_path, send(signal.SIGKILL, 1))
    assert outcomes[-1] == "done"
    assert len(outcomes) == 2


@pytest.mark.slurm
@pytest.mark.usefixtures("real_slurm")
class TestRealSlurm:
    def test_the_notice_before_the_limit_saves_and_the_next_launch_goes_on(
        self, recipe: Recipe, tmp_path: Path
    ) -> None:
        def notice(pids: list[int]) -> None:
            receipt = next((tmp_path / "run").glob("jobs/train-*/submissions/*/receipt0.json"))
            subprocess.run(
                ["scancel", "--signal=USR1", storage.read_json(str(receipt))["job_id"]], check=True
            )

        assert check(SlurmExecutor(lab_site()), recipe, tmp_path, notice) == ["stopped", "done"]

    def test_a_rank_killed_in_the_middle_costs_steps_and_no_bit(self, recipe: Recipe, tmp_path: Path) -> None:
        outcomes = check(SlurmExecutor(lab_site()), recipe, tmp_path, send(signal.SIGKILL, 1))
        assert outcomes[-1] == "done"
        assert len(outcomes) == 2
