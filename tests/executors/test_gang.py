"""Gangs on SLURM: segments, requeues and launches, each event with one actor."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from entries import HERE
from test_executors import attempts, outputs

from tokenmill.errors import JobError
from tokenmill.executors.attempt import Place, attempt_name
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.gang import close_predecessors
from tokenmill.executors.job import Job, Recipe, Resources
from tokenmill.executors.launch import Executor
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.site import Site
from tokenmill.executors.slurm import SlurmExecutor


def recipe_of(folder: Path, holds: Sequence[int], **resources: Any) -> Recipe:
    """A gang of two that counts, and a child that reads what it wrote."""
    gang = Job(
        name="gang",
        entry="gang_entries.counting",
        config={"holds": list(holds)},
        inputs={"lines": "text"},
        layout="gang",
        resources=Resources(tasks=2, memory_bytes=200_000_000, **resources),
    )
    child = Job(
        name="child",
        entry="entries.count",
        inputs={"lines": "gang.count"},
        resources=Resources(memory_bytes=200_000_000),
    )
    return Recipe(name="gangs", inputs={"text": (str(folder),)}, jobs=(gang, child))


def site(partition: str = "", **values: Any) -> Site:
    return Site(
        name="lab",
        partition=partition,
        poll_seconds=0.2,
        settle_seconds=0.5,
        variables={"PYTHONPATH": str(HERE)},
        **values,
    )


def disturb(run: Path, actions: dict[int, Callable[[list[str]], None]]) -> threading.Thread:
    """In a thread: at each hold call an action with the ids of the gang's jobs, oldest first."""

    def wait() -> None:
        deadline = time.monotonic() + 120
        for step, action in actions.items():
            while not list(run.glob(f"jobs/gang-*/holds/{step}.json")):
                assert time.monotonic() < deadline, "the gang does not come to its hold"
                time.sleep(0.02)
            receipts = sorted(
                run.glob("jobs/gang-*/submissions/*/receipt*.json"), key=lambda p: p.stat().st_mtime
            )
            action([json.loads(path.read_text())["job_id"] for path in receipts])

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def notice(place: int) -> Callable[[list[str]], None]:
    """Send the notice that comes before a time limit to one of the gang's jobs."""
    return lambda ids: client("scancel", "--signal=USR1", ids[place])


def requeue(ids: list[str]) -> None:
    client("scontrol", "requeue", ids[-1])


def client(*words: str) -> None:
    subprocess.run(words, check=True, timeout=60)


def names(run: Path) -> list[tuple[str, str]]:
    """Segment and restart, and outcome, of rank 0's attempts."""
    found = [record for record in attempts(run, "gang") if record["rank"] == 0]
    return [(str(record["attempt"]).partition("-")[2], str(record["outcome"])) for record in found]


def launches(run: Path) -> int:
    return len(list(run.glob("jobs/gang-*/submissions/*/intent.json")))


class Contract:
    """The same on the fake and on the real SLURM."""

    @pytest.fixture
    def executor(self) -> Executor:
        raise NotImplementedError

    def test_segments_go_on_from_each_other(
        self, executor: Executor, text_folder: Path, tmp_path: Path
    ) -> None:
        thread = disturb(tmp_path / "run", {2: notice(0), 4: notice(1)})
        run_recipe(recipe_of(text_folder, [2, 4], segments=3), str(tmp_path / "run"), executor)
        thread.join()
        assert names(tmp_path / "run") == [("s0r0", "stopped"), ("s1r0", "stopped"), ("s2r0", "done")]
        assert launches(tmp_path / "run") == 1

    def test_segments_that_are_not_needed_end_at_once(
        self, executor: Executor, text_folder: Path, tmp_path: Path
    ) -> None:
        run_recipe(recipe_of(text_folder, [], segments=3), str(tmp_path / "run"), executor)
        assert names(tmp_path / "run") == [("s0r0", "done")]
        assert len(outputs(tmp_path / "run")) == 2 + 1

    def test_a_requeue_is_the_scheduler_s_alone(
        self, executor: Executor, text_folder: Path, tmp_path: Path
    ) -> None:
        thread = disturb(tmp_path / "run", {2: requeue})
        run_recipe(recipe_of(text_folder, [2]), str(tmp_path / "run"), executor)
        thread.join()
        assert [name for name, _ in names(tmp_path / "run")] == ["s0r0", "s0r1"]
        assert names(tmp_path / "run")[-1] == ("s0r1", "done")
        assert launches(tmp_path / "run") == 1

    def test_a_stop_without_another_segment_is_launched_again(
        self, executor: Executor, text_folder: Path, tmp_path: Path
    ) -> None:
        thread = disturb(tmp_path / "run", {2: notice(0)})
        run_recipe(recipe_of(text_folder, [2]), str(tmp_path / "run"), executor)
        thread.join()
        assert names(tmp_path / "run") == [("s0r0", "stopped"), ("s0r0", "done")]
        assert launches(tmp_path / "run") == 2


class TestFakeSlurm(Contract):
    @pytest.fixture
    def executor(self, fake_slurm: Any) -> Executor:
        return SlurmExecutor(site())

    def test_ranks_of_another_world_are_refused_with_the_fix(
        self, fake_slurm: Any, text_folder: Path, tmp_path: Path
    ) -> None:
        executor = SlurmExecutor(site(srun_args=("--ntasks=1",)))
        with pytest.raises(
            JobError, match=r"WorldError: every process is a world of its own(.|\n)*single srun"
        ):
            run_recipe(recipe_of(text_folder, []), str(tmp_path / "run"), executor)
        assert launches(tmp_path / "run") == 1  # another would only do the same


@pytest.mark.slurm
@pytest.mark.usefixtures("real_slurm")
class TestRealSlurm(Contract):
    @pytest.fixture
    def executor(self) -> Executor:
        return SlurmExecutor(site())

    def test_a_preempted_gang_saves_and_is_launched_again(self, text_folder: Path, tmp_path: Path) -> None:
        def preempt(ids: list[str]) -> None:
            words = ["squeue", "--noheader", "--format=%N", f"--jobs={ids[-1]}"]
            node = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
            flags = [f"--nodelist={node}", "--exclusive", "--time=1", "--output=/dev/null"]
            client("sbatch", "--partition=high", *flags, "--wrap=sleep 1")

        thread = disturb(tmp_path / "run", {2: preempt})
        run_recipe(recipe_of(text_folder, [2]), str(tmp_path / "run"), SlurmExecutor(site("low")))
        thread.join()
        assert names(tmp_path / "run") == [("s0r0", "stopped"), ("s0r0", "done")]
        assert launches(tmp_path / "run") == 2


def test_other_executors_have_no_use_for_segments(text_folder: Path, tmp_path: Path) -> None:
    run_recipe(recipe_of(text_folder, [], segments=3), str(tmp_path / "run"), LocalExecutor())
    assert names(tmp_path / "run") == [("s0r0", "done")]


def test_attempts_that_the_scheduler_killed_are_said_to_be_lost(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path))
    places = [Place(launch="0a", restart=0), Place(launch="0a", restart=1), Place(launch="0b")]
    for place in places:
        name = attempt_name(place, "gang")
        record = {
            "shard": 0,
            "attempt": name,
            "rank": 0,
            "launch": place.launch,
            "host": "n1",
            "started": 0.0,
        }
        folder.write_attempt(record | {"outcome": "running"})
    close_predecessors(folder, places[1])
    found = {record["attempt"]: (record["outcome"], record.get("class")) for record in folder.attempts()}
    assert found == {
        "0a-s0r0": ("lost", "lost"),
        "0a-s0r1": ("running", None),
        "0b-s0r0": ("running", None),  # another launch: its end is for the driver to judge
    }
