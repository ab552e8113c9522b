"""Drivers that are jobs: scripts, gates on real and fake clusters, a driver that hands over to the next."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from entries import HERE, make_recipe
from test_executors import attempts, outputs
from typer.testing import CliRunner

from tokenmill import storage
from tokenmill.cli import app
from tokenmill.errors import ConfigError
from tokenmill.executors.controller import (
    Controller,
    check_kind,
    controller_names,
    controller_script,
)
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.graph import lay_out, write_run
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.site import Site
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.status import recipe_status

SITE = "poll_seconds: 0.2\nsettle_seconds: 0.5\ncontroller_seconds: 3600\nvariables: {PYTHONPATH: %s}\n"


def invoke(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def prepare(folder: Path, run: Path, **recipe: Any) -> Path:
    """A run that is written down, and a site."""
    lines = make_recipe(folder, **recipe)
    write_run(lines, str(run), lay_out(lines, str(run)))
    site = run.parent / "lab.yaml"
    site.write_text(SITE % HERE)
    return site


def wait_for(run: Path, state: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while {status.state for status in recipe_status(str(run))} != {state}:
        assert time.monotonic() < deadline, [vars(status) for status in recipe_status(str(run))]
        time.sleep(0.2)


def test_the_script_is_a_pure_function(tmp_path: Path) -> None:
    site = Site(name="s", partition="cpu", account="lab", environment=("X",), python="/p/python")
    controller = Controller(run_url="/runs/a b", kind="gate", token="0123abcd")
    script = controller_script(controller, SlurmExecutor(site), ["7", "8"])
    assert script == controller_script(controller, SlurmExecutor(site), ["7", "8"])
    lines = script.splitlines()
    assert "#SBATCH --dependency=afterany:7:8" in lines
    assert "#SBATCH --job-name=tokenmill-gate-0123abcd-c0" in lines
    assert "#SBATCH --signal=B:USR1@120" in lines
    assert "#SBATCH --requeue" in lines
    assert not [line for line in lines if line.startswith("#SBATCH --export") and "ALL" in line.split(",")]
    assert lines[-1] == "exec /p/python -u -m tokenmill.cli drive '/runs/a b' --controller gate"


def test_kinds_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gate'"):
        check_kind("gat", SlurmExecutor(Site(name="s")))
    with pytest.raises(ConfigError, match="only on SLURM"):
        check_kind("job", LocalExecutor())
    check_kind("process", LocalExecutor())


class Gates:
    """Inherited by the tests on the fake cluster and on the real one."""

    def test_a_run_is_completed_by_gates_alone(self, text_folder: Path, tmp_path: Path) -> None:
        recipe: dict[str, Any] = {"shards": 12, "tasks": 4, "kill_flag": str(tmp_path / "flag")}
        run_recipe(make_recipe(text_folder, shards=12, tasks=4), str(tmp_path / "reference"), LocalExecutor())
        run = tmp_path / "run"
        site = prepare(text_folder, run, **recipe)
        Path(recipe["kill_flag"]).touch()  # one task dies, so the jobs that wait for its array never start
        invoke("resume", str(run), "--executor", "slurm", "--site", str(site), "--controller", "gate")
        wait_for(run, "complete")
        assert outputs(run) == outputs(tmp_path / "reference")
        assert len(controller_names(str(run))) >= 2
        assert sum(record["outcome"] != "done" for record in attempts(run, "upper")) >= 1

    def test_a_failed_run_ends_its_gates(self, text_folder: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        site = prepare(text_folder, run, shards=6, tasks=2, fail_on="line 0 000")
        invoke("resume", str(run), "--executor", "slurm", "--site", str(site), "--controller", "gate")
        deadline = time.monotonic() + 60
        while not list(run.glob("controllers/*/*.out")) or not (run / "report.html").exists():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        wanted = "upper: 1 of 6 shards failed"
        while not any(wanted in path.read_text() for path in run.glob("controllers/*/*.out")):
            assert time.monotonic() < deadline, [p.read_text() for p in run.glob("controllers/*/*.out")]
            time.sleep(0.2)
        assert len(controller_names(str(run))) <= 2


class TestFakeSlurm(Gates):
    @pytest.fixture(autouse=True)
    def _cluster(self, fake_slurm: Any) -> None:
        fake_slurm.configure(max_array_size=11)


@pytest.mark.slurm
@pytest.mark.usefixtures("real_slurm")
class TestRealSlurm(Gates):
    def test_a_driver_near_its_limit_hands_over(self, text_folder: Path, tmp_path: Path) -> None:
        run_recipe(make_recipe(text_folder, shards=20, tasks=2), str(tmp_path / "reference"), LocalExecutor())
        run = tmp_path / "run"
        site = prepare(text_folder, run, shards=20, tasks=2, seconds=1.0)
        invoke("resume", str(run), "--executor", "slurm", "--site", str(site), "--controller", "job")
        deadline = time.monotonic() + 60
        while not (run / "driver.json").exists():
            assert time.monotonic() < deadline, "the controller job did not start"
            time.sleep(0.1)
        first = storage.read_json(str(run / "driver.json"))
        assert first["pid"] != os.getpid()
        os.kill(first["pid"], 10)  # USR1: as SLURM does before the time limit
        wait_for(run, "complete")
        assert outputs(run) == outputs(tmp_path / "reference")
        assert len(controller_names(str(run))) == 2
