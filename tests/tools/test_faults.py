"""tools/faults itself: what it accepts, how it judges, and one fault from end to end."""

import json
import os
import random
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools/faults"))


@pytest.fixture(scope="module")
def harness() -> Any:
    import faults_harness

    return faults_harness


def test_all_rows_are_the_default_and_have_one_seed(program: dict[str, Any]) -> None:
    options = program["parse"]([])
    assert options.rows == [2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 17, 18, 19, 20, 21]
    assert [options.executor, options.seeds, options.all] == ["processes", 1, False]
    assert program["parse"](["--all"]).seeds == 5
    assert program["parse"](["--rows", "3,11", "--seeds", "2"]).rows == [3, 11]


@pytest.mark.parametrize(
    "words", [["--rows", "10"], ["--rows", "x"], ["--executor", "mpi"], ["--small", "--all"]]
)
def test_wrong_options_are_refused(program: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        program["parse"](words)
    assert error.value.code == 2


def test_every_row_says_what_it_does(program: dict[str, Any]) -> None:
    for row in program["ROWS"]:
        assert row.inject.__doc__.startswith(f"Row {row.number}: ")


def test_a_result_with_a_problem_is_not_ok(program: dict[str, Any], harness: Any) -> None:
    result = harness.Result(row=3, fault="kills", seed=4, injected=7, lost=0)
    result.demand(True, "met")
    good = program["line"](result, "slurm", True)
    assert [good["ok"], good["value"], good["at_least"]] == [True, 7, 7]
    assert good["work"] == "row 3, kills, seed 4, on slurm with accounting"
    result.demand(False, "1 shard lost")
    bad = program["line"](result, "slurm", False)
    assert [bad["ok"], bad["value"], bad["problems"]] == [False, 0, ["1 shard lost"]]


def test_what_a_row_did_not_foresee_is_a_problem(
    program: dict[str, Any], harness: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(world: Any, seed: int) -> Any:
        """Row 3: breaks."""
        raise RuntimeError("not foreseen")

    row = program["Row"](number=3, inject=breaks)
    result = program["inject"](row, harness.World(executor="processes", folder=tmp_path), 0)
    assert not result.ok
    assert "not foreseen" in result.problems[0]
    program["show"](result)
    assert "3  NOT" in capsys.readouterr().out


def test_moments_are_the_same_for_a_seed_and_in_order(harness: Any) -> None:
    first = harness.moments(random.Random(3), 5)
    assert list(first) == list(harness.moments(random.Random(3), 5)) == sorted(first)
    assert list(first) != list(harness.moments(random.Random(4), 5))


def test_a_clock_is_wrong_in_workers_alone() -> None:
    shim = ROOT / "tools/faults_clock"
    env = dict(os.environ) | {"PYTHONPATH": str(shim), "FAULTS_CLOCK_SECONDS": "600"}
    code = "import time; print(time.time())"
    for mark, off in (("tokenmill.executors.worker", 600), ("nothing", 0)):
        words = [sys.executable, "-c", code, mark]
        told = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
        assert abs(abs(float(told) - time.time()) - off) < 60


def test_deaths_come_before_or_after_the_write(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import faults_crash
from tokenmill import storage
faults_crash.Deaths(2, sys.argv[1]).patch()
for number in range(3):
    storage.write_atomic(f"{sys.argv[2]}/{number}", b"x")
"""
    env = dict(os.environ) | {"PYTHONPATH": str(ROOT / "tools")}
    for side, written in (("before", ["0"]), ("after", ["0", "1"])):
        folder = tmp_path / side
        words = [sys.executable, "-c", code, side, str(folder)]
        assert subprocess.run(words, env=env, check=False).returncode == -9
        assert sorted(path.name for path in folder.iterdir()) == written


def test_damaged_files_on_processes_end_to_end(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "tools/faults"), "--rows", "11", "--work", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    value = json.loads(done.stdout.splitlines()[-1])
    assert value["name"] == "faults"
    (row,) = value["rows"]
    assert [row["value"], row["identical"], row["extra"] >= 3] == [3, row["compared"], True]


def test_a_damaged_output_is_not_taken_for_an_identical_one(harness: Any, tmp_path: Path) -> None:
    world = harness.World(executor="processes", folder=tmp_path)
    case = world.case("one", harness.Shape(shards=3, tasks=1))
    assert case.end(case.start()) == 0, case.words()
    whole = harness.tally(harness.Result(row=3, fault="none"), case)
    assert [whole.ok, whole.identical, whole.compared, whole.lost, whole.doubled] == [True, 4, 4, 0, 0]
    commit = next(iter(case.job().commits()))
    Path(case.job().at(commit["outputs"][0]["path"])).write_bytes(b"other")
    result = harness.tally(harness.Result(row=3, fault="none"), case)
    assert [result.ok, result.identical, result.problems] == [False, 3, ["3 of 4 outputs identical"]]
