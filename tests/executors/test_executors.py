"""One contract for every executor: the same recipe, the same files, the same failures, the same resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from entries import HERE, lab_site, make_recipe

from tokenmill.errors import ConfigError, IdentityError, InputError, JobError
from tokenmill.executors.attempt import Place
from tokenmill.executors.cancel import cancel
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.graph import lay_out, write_run
from tokenmill.executors.job import Job, Recipe, Resources
from tokenmill.executors.launch import Executor, Launch, record_intent
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.mpi import MpiExecutor
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.status import recipe_status
from tokenmill.executors.stop import Stop
from tokenmill.executors.worker import EXIT_DONE, EXIT_STOPPED, work


def outputs(run: Path) -> dict[str, str]:
    """Logical name -> checksum of every output of a run, by job."""
    found: dict[str, str] = {}
    for status in recipe_status(str(run)):
        manifest = JobFolder(status.folder).manifest()
        assert manifest is not None, status
        found |= {f"{status.name}/{output['name']}": output["sha256"] for output in manifest["outputs"]}
    return found


def attempts(run: Path, job: str) -> list[dict[str, object]]:
    folder = next(status.folder for status in recipe_status(str(run)) if status.name == job)
    return JobFolder(folder).attempts()


class Contract:
    """Inherited by the tests of each executor."""

    @pytest.fixture
    def executor(self) -> Executor:
        raise NotImplementedError

    def test_outputs_equal_those_of_the_local_executor(
        self, executor: Executor, text_folder: Path, tmp_path: Path
    ) -> None:
        recipe = make_recipe(text_folder, shards=20, tasks=16)
        run_recipe(recipe, str(tmp_path / "reference"), LocalExecutor())
        statuses = run_recipe(recipe, str(tmp_path / "run é"), executor)
        assert [(status.name, status.state) for status in statuses] == [
            ("upper", "complete"),
            ("count", "complete"),
            ("gang", "complete"),
        ]
        found = outputs(tmp_path / "run é")
        assert found == outputs(tmp_path / "reference")
        assert len(found) == 20 + 1 + 2
        assert statuses[0].counters == {"lines": 600}
        assert statuses[2].counters == {"ranks": 2}
        for status in statuses:  # so each shard was shown as running, the gang's too
            folder = JobFolder(status.folder)
            assert set(folder.leased(folder.launch_order()[-1])) == folder.done()

    def test_a_second_run_does_nothing(self, executor: Executor, text_folder: Path, tmp_path: Path) -> None:
        recipe = make_recipe(text_folder)
        run_recipe(recipe, str(tmp_path / "run"), executor)
        before = len(attempts(tmp_path / "run", "upper"))
        run_recipe(recipe, str(tmp_path / "run"), executor)
        assert len(attempts(tmp_path / "run", "upper")) == before

    def test_one_failing_shard_stops_no_other_and_starts_no_child(
        self, executor: Executor, text_folder: Path, tmp_path: Path
    ) -> None:
        flag = tmp_path / "flag"
        flag.touch()
        # 100 shards in 16 tasks, MaxArraySize 11: the shard that fails is the first of the first array
        recipe = make_recipe(text_folder, shards=100, tasks=16, fail_on="line 0 000", fail_flag=str(flag))
        run = tmp_path / "run"
        with pytest.raises(
            JobError, match="upper: 1 of 100 shards failed: shard 0: ValueError: line 'line 0 000'"
        ):
            run_recipe(recipe, str(run), executor)
        states = {status.name: status for status in recipe_status(str(run))}
        assert (states["upper"].state, states["upper"].done, states["upper"].failed) == ("failed", 99, 1)
        assert not attempts(run, "count")
        assert not attempts(run, "gang")
        with pytest.raises(JobError, match="1 of 100 shards failed"):  # run again: it is not tried again
            run_recipe(recipe, str(run), executor)
        tried = attempts(run, "upper")
        before = len(tried)
        assert {record["shard"] for record in tried} == set(range(100))
        failed = [record for record in tried if record["outcome"] == "error"]
        assert [record["shard"] for record in failed] == [0] * recipe.jobs[0].resources.max_attempts
        flag.unlink()
        run_recipe(recipe, str(run), executor, retry_failed=True)
        tried = attempts(run, "upper")
        assert len(tried) == before + 1
        assert [record["shard"] for record in tried if record["outcome"] == "error"] == []
        assert len(outputs(run)) == 100 + 1 + 2

    def test_a_rank_that_fails_fails_the_gang(
        self, executor: Executor, text_folder: Path, tmp_path: Path
    ) -> None:
        gang = Job(
            name="gang",
            entry="entries.gang",
            config={"fail_rank": 1},
            inputs={"lines": "text"},
            layout="gang",
            resources=Resources(tasks=2, max_attempts=1, memory_bytes=200_000_000),
        )
        recipe = Recipe(name="lines", inputs={"text": (str(text_folder),)}, jobs=(gang,))
        started = time.monotonic()
        with pytest.raises(JobError, match="this rank cannot go on"):
            run_recipe(recipe, str(tmp_path / "run"), executor)
        assert time.monotonic() - started < 60  # the other rank would wait that long for its peer


class TestLocal(Contract):
    @pytest.fixture
    def executor(self) -> Executor:
        return LocalExecutor()


class TestProcesses(Contract):
    @pytest.fixture
    def executor(self) -> Executor:
        return ProcessesExecutor(2)


@pytest.mark.usefixtures("mpi")
class TestMpi(Contract):
    @pytest.fixture
    def executor(self) -> Executor:
        return MpiExecutor(3)


class TestFakeSlurm(Contract):
    @pytest.fixture
    def executor(self, fake_slurm: Any) -> Executor:
        fake_slurm.configure(max_array_size=11)
        return SlurmExecutor(lab_site())


@pytest.mark.slurm
class TestRealSlurm(Contract):
    @pytest.fixture
    def executor(self, real_slurm: str) -> Executor:
        executor = SlurmExecutor(lab_site())
        assert executor.max_array_size == 11, "start the cluster with --max-array-size 11"
        return executor

    @pytest.mark.usefixtures("real_slurm")
    def test_driver_and_tasks_killed_then_resumed(self, text_folder: Path, tmp_path: Path) -> None:
        recipe = make_recipe(text_folder, shards=60, tasks=12, seconds=0.3)
        run_recipe(recipe, str(tmp_path / "reference"), ProcessesExecutor(8))
        run = tmp_path / "run"
        driver = start_driver(text_folder, run, "slurm", shards=60, tasks=12, seconds=0.3)
        pids = wait_for_workers(run, 6)
        driver.kill()
        driver.wait()
        for pid in pids[:5]:
            os.kill(pid, signal.SIGKILL)
        run_recipe(recipe, str(run), SlurmExecutor(lab_site()))
        assert outputs(run) == outputs(tmp_path / "reference")
        assert sum(record["outcome"] == "running" for record in attempts(run, "upper")) >= 5


def start_driver(folder: Path, run: Path, executor: str, **recipe: object) -> subprocess.Popen[bytes]:
    """A driver in a process of its own, so that it can be killed."""
    words = [sys.executable, str(HERE / "drive.py"), str(folder), str(run), executor, json.dumps(recipe)]
    return subprocess.Popen(words)


def wait_for_workers(run: Path, count: int) -> list[int]:
    """Process ids of attempts that run, once there are enough."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.05)
        if (run / "run.json").exists():
            running = [record for record in attempts(run, "upper") if record["outcome"] == "running"]
            if len(running) >= count:
                return [int(str(record["pid"])) for record in running]
    raise AssertionError("the workers did not start")


def test_driver_of_processes_killed_then_resumed(text_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(text_folder, shards=12, seconds=0.3)
    run_recipe(recipe, str(tmp_path / "reference"), LocalExecutor())
    run = tmp_path / "run"
    driver = start_driver(text_folder, run, "processes", shards=12, seconds=0.3)
    pids = wait_for_workers(run, 2)
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.05)
    run_recipe(recipe, str(run), ProcessesExecutor(2))
    assert outputs(run) == outputs(tmp_path / "reference")


def test_a_changed_config_has_another_folder_and_spares_the_parents(
    text_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_recipe(make_recipe(text_folder), str(run), LocalExecutor())
    run_recipe(make_recipe(text_folder, suffix="?"), str(run), LocalExecutor())
    assert len(list((run / "jobs").glob("upper-*"))) == 2
    assert len(list((run / "jobs").glob("count-*"))) == 2
    fewer = make_recipe(text_folder, suffix="?", tasks=1)  # placement only: everything is done already
    before = len(attempts(run, "upper"))
    run_recipe(fewer, str(run), LocalExecutor())
    assert len(attempts(run, "upper")) == before


def test_folders_of_something_else_are_refused(text_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(text_folder)
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.txt").write_text("mine")
    with pytest.raises(IdentityError, match="holds no run"):
        run_recipe(recipe, str(run), LocalExecutor())
    assert sorted(path.name for path in run.iterdir()) == ["thesis.txt"]
    (run / "thesis.txt").unlink()
    run_recipe(recipe, str(run), LocalExecutor())
    other = Recipe(name="other", inputs=recipe.inputs, jobs=recipe.jobs)
    with pytest.raises(IdentityError, match="a run of another recipe"):
        run_recipe(other, str(run), LocalExecutor())
    upper = next((run / "jobs").glob("upper-*"))
    job = upper / "job.yaml"
    job.write_text(job.read_text().replace('"identity": "', '"identity": "0'))
    with pytest.raises(IdentityError, match="the folder holds another job"):
        run_recipe(recipe, str(run), LocalExecutor())


def test_a_second_driver_is_refused(text_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    driver = start_driver(text_folder, run, "processes", shards=20, seconds=0.3)
    try:
        wait_for_workers(run, 1)
        with pytest.raises(IdentityError, match=f"process {driver.pid} on"):
            run_recipe(make_recipe(text_folder, shards=20, seconds=0.3), str(run), LocalExecutor())
    finally:
        driver.kill()
        driver.wait()


def test_a_worker_of_another_version_is_refused(text_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_recipe(make_recipe(text_folder), str(run), LocalExecutor())
    upper = next((run / "jobs").glob("upper-*"))
    (upper / "job.yaml").write_text(
        (upper / "job.yaml").read_text().replace('"tokenmill": "0.1.0"', '"tokenmill": "9.9.9"')
    )
    words = ["-m", "tokenmill.executors.worker", "--job-folder", str(upper), "--launch", "00000000"]
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "0"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert "expected: tokenmill 9.9.9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_outside_slurm_says_so(text_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_recipe(make_recipe(text_folder), str(run), LocalExecutor())
    upper = next((run / "jobs").glob("upper-*"))
    words = ["-m", "tokenmill.executors.worker", "--job-folder", str(upper), "--launch", "00000000"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert "this process is not a SLURM task" in done.stderr


def test_missing_input_is_refused_before_anything_starts(text_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(text_folder)
    shutil.rmtree(text_folder)
    with pytest.raises(InputError, match="no such input"):
        run_recipe(recipe, str(tmp_path / "run"), ProcessesExecutor(2))
    assert not list((tmp_path / "run").glob("jobs/*/attempts/*"))


def test_only_a_queue_can_be_left_alone(text_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only the slurm executor"):
        run_recipe(make_recipe(text_folder), str(tmp_path / "run"), LocalExecutor(), detach=True)


def test_an_entry_that_is_not_there_fails_with_its_name(text_folder: Path, tmp_path: Path) -> None:
    job = Job(
        name="j", entry="entries.nothing", inputs={"lines": "text"}, resources=Resources(max_attempts=1)
    )
    recipe = Recipe(name="r", inputs={"text": (str(text_folder),)}, jobs=(job,))
    with pytest.raises(JobError, match=r"entries\.nothing"):
        run_recipe(recipe, str(tmp_path / "run"), LocalExecutor())


def test_a_lost_job_ends_with_the_last_words_of_its_tasks(text_folder: Path, tmp_path: Path) -> None:
    class Deaf(ProcessesExecutor):
        """Starts nothing, as a scheduler whose nodes kill every task at once."""

        def launch(self, launch: object) -> None:
            assert isinstance(launch, Launch)
            record_intent(launch, self.name)
            Path(launch.url, "task-0.out").write_text("Killed: out of memory\n")

    with pytest.raises(JobError, match=r"3 launches in a row ended .*Killed: out of memory"):
        run_recipe(make_recipe(text_folder), str(tmp_path / "run"), Deaf(1))


def test_one_job_is_cancelled_and_the_driver_goes_on_with_the_others(
    text_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    thread = threading.Thread(
        target=lambda: wait_for_workers(run, 1) and cancel(str(run), ProcessesExecutor(1), "upper")
    )
    base = make_recipe(text_folder, shards=20, seconds=0.2)
    other = Job(**(vars(base.jobs[0]) | {"name": "other", "config": {"seconds": 0.01}}))
    recipe = Recipe(name=base.name, inputs=base.inputs, jobs=(*base.jobs, other))
    thread.start()
    with pytest.raises(JobError, match="upper: cancelled"):
        run_recipe(recipe, str(run), ProcessesExecutor(2))
    thread.join()
    states = {status.name: status.state for status in recipe_status(str(run))}
    assert states == {"upper": "cancelled", "count": "waiting", "gang": "waiting", "other": "complete"}
    run_recipe(recipe, str(run), ProcessesExecutor(2))
    assert {status.state for status in recipe_status(str(run))} == {"complete"}


def test_a_task_whose_time_is_over_leaves_the_rest_to_the_next_launch(
    text_folder: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(text_folder, shards=6)
    nodes = lay_out(recipe, str(tmp_path))
    folder = nodes["upper"].folder
    folder.write_job(nodes["upper"].job, nodes["upper"].identity, nodes["upper"].sources)
    over = Stop()
    over.request()
    assert work(folder, Place(launch="one"), over) == EXIT_STOPPED
    assert work(folder, Place(launch="two"), Stop(seconds=60, margin=61)) == EXIT_STOPPED
    assert folder.done() == set()
    assert folder.attempts() == []
    assert work(folder, Place(launch="three"), Stop(seconds=60, margin=1)) == EXIT_DONE
    assert folder.done() == set(range(6))
    assert folder.manifest() is not None


def test_tasks_share_the_shards_of_a_launch(text_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(text_folder, shards=6)
    nodes = lay_out(recipe, str(tmp_path))
    folder = nodes["upper"].folder
    folder.write_job(nodes["upper"].job, nodes["upper"].identity, nodes["upper"].sources)
    assert folder.lease("one", 2, {})  # taken by a task that died: this launch leaves it alone
    assert work(folder, Place(launch="one"), Stop()) == EXIT_DONE
    assert folder.done() == {0, 1, 3, 4, 5}
    assert folder.manifest() is None
    assert work(folder, Place(launch="two"), Stop()) == EXIT_DONE
    assert folder.manifest() is not None


def test_people_hear_how_far_an_attempt_is(text_folder: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    recipe = make_recipe(text_folder, shards=4, seconds=0.2)
    run_recipe(
        recipe,
        str(tmp_path / "run"),
        ProcessesExecutor(1),
        on_change=lambda statuses: heard.extend(status.message for status in statuses),
    )
    assert "shard 3 of 4" in heard
    assert all(status.message == "" for status in recipe_status(str(tmp_path / "run")))


def test_a_port_that_is_not_there_is_refused_with_those_that_are(text_folder: Path, tmp_path: Path) -> None:
    base = make_recipe(text_folder)
    wrong = Job(**(vars(base.jobs[1]) | {"inputs": {"lines": "upper.documents"}}))
    recipe = Recipe(name=base.name, inputs=base.inputs, jobs=(base.jobs[0], wrong))
    with pytest.raises(InputError) as caught:
        run_recipe(recipe, str(tmp_path / "run"), LocalExecutor())
    assert (caught.value.where, caught.value.expected, caught.value.got) == (
        "job upper",
        "lines",
        "documents",
    )


def test_a_lost_submission_speaks_in_the_status(text_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(text_folder)
    nodes = lay_out(recipe, str(tmp_path / "run"))
    write_run(recipe, str(tmp_path / "run"), nodes)
    launch = Launch(token="0123abcd", folder=nodes["upper"].folder, num_tasks=1)
    record_intent(launch, "slurm")
    Path(launch.url, "receipt0.json").write_text('{"job_id": "77"}')
    upper = recipe_status(str(tmp_path / "run"))[0]
    assert upper.message == "submitted to SLURM as 77; no task has begun"
    Path(launch.url, "chunk0.77_0.out").write_text("module: command not found\n")
    upper = recipe_status(str(tmp_path / "run"))[0]
    assert upper.message.endswith("the last words of its tasks: module: command not found")


def test_an_error_that_would_repeat_is_not_tried_again(text_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(text_folder, shards=3, mistake=True)
    with pytest.raises(
        JobError, match="3 of 3 shards failed: shard 0: InputError: this input cannot be read"
    ):
        run_recipe(recipe, str(tmp_path / "run"), LocalExecutor())
    assert len(attempts(tmp_path / "run", "upper")) == 3


def test_a_driver_does_not_rest_for_the_work_of_a_launch(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr("tokenmill.executors.driver.time.sleep", rests.append)
    monkeypatch.setattr(LocalExecutor, "launch", _slowly(LocalExecutor.launch))
    run_recipe(make_recipe(text_folder, shards=2), str(tmp_path / "run"), LocalExecutor())
    assert rests
    assert max(rests) < 9.0  # looks take three times as long in rest, launches nothing


def _slowly(launch: Any) -> Any:
    def call(executor: LocalExecutor, what: Launch) -> None:
        launch(executor, what)
        threading.Event().wait(3.0)

    return call
