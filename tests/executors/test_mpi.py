"""MPI worlds: how they are started, what is refused, and what happens when one dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from entries import HERE, make_recipe

from tokenmill.errors import GangError, JobError, MissingExtraError, SubmissionError
from tokenmill.executors import mpi_rank, mpi_start, mpi_world
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.job import Job, Resources
from tokenmill.executors.launch import launches_of
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.mpi import MpiExecutor
from tokenmill.executors.mpi_start import Starter
from tokenmill.executors.status import recipe_status

GOLDEN = HERE / "golden" / "mpi_commands.txt"
JOB = Job(name="filter", entry="x.y", resources=Resources(cpus=2))
STARTERS = {
    "MPICH here": Starter(program="/opt/bin/mpiexec", library="MPICH"),
    "Open MPI here": Starter(program="/opt/bin/mpiexec", library="Open MPI"),
    "MPICH in an allocation": Starter(program="srun", library="MPICH", pmi="pmi2"),
    "Open MPI in an allocation": Starter(program="srun", library="Open MPI", pmi="pmix"),
}
LIST_22_05 = """MPI plugin types are...
\tpmix
\tnone
\tcray_shasta
\tpmi2
specific pmix plugin versions available: pmix_v4
"""


def folder_of(run: Path, job: str) -> JobFolder:
    return JobFolder(next(status.folder for status in recipe_status(str(run)) if status.name == job))


def outputs(run: Path) -> dict[str, str]:
    manifests = {status.name: JobFolder(status.folder).manifest() for status in recipe_status(str(run))}
    return {
        f"{name}/{output['name']}": output["sha256"]
        for name, manifest in manifests.items()
        if manifest
        for output in manifest["outputs"]
    }


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def ranks_at_work(run: Path) -> dict[int, int]:
    """Rank -> process id of the ranks that are in an attempt at a shard of ``upper``."""
    if not (run / "run.json").exists():
        return {}
    found = {}
    for record in folder_of(run, "upper").attempts():
        output = Path(f"/proc/{record['pid']}/fd/1")
        if record["outcome"] == "running" and output.is_symlink():
            found[int(output.readlink().stem.partition("-")[2])] = record["pid"]
    return found


def fake_mpiexec(tmp_path: Path, text: str) -> MpiExecutor:
    program = tmp_path / "mpiexec"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    executor = MpiExecutor(3)
    executor.__dict__["starter"] = Starter(program=str(program), library="MPICH")
    return executor


def test_commands_equal_their_golden_file() -> None:
    words = ["python", "-m", "tokenmill.executors.mpi_rank"]
    lines = [
        f"{name}: {' '.join(mpi_start.start_command(starter, JOB, 4, words))}\n"
        for name, starter in STARTERS.items()
    ]
    if os.environ.get("TOKENMILL_ACCEPT"):
        GOLDEN.write_text("".join(lines))
    assert "".join(lines) == GOLDEN.read_text(), (
        f"a command changed; if that is meant: TOKENMILL_ACCEPT=1 pytest {__file__}, then read the diff"
    )


def test_what_srun_must_speak_depends_on_the_library() -> None:
    assert mpi_start.library_of("MPICH Version:      5.0.2\nMPICH Release date: ...") == "MPICH"
    assert mpi_start.library_of("Open MPI v5.0.11, package: ...") == "Open MPI"
    with pytest.raises(SubmissionError, match="got: Intel MPI"):
        mpi_start.library_of("Intel MPI 2021\n")
    assert mpi_start.pmi_of("MPICH", LIST_22_05) == "pmi2"
    assert mpi_start.pmi_of("Open MPI", LIST_22_05) == "pmix"
    assert mpi_start.pmi_of("MPICH", "srun: MPI types are...\nsrun: none\nsrun: pmi2\n") == "pmi2"
    with pytest.raises(SubmissionError, match=r"expected: pmix\n.*\n  fix: .* pmi2: MPICH"):
        mpi_start.pmi_of("Open MPI", "srun: MPI types are...\nsrun: pmi2\n")
    with pytest.raises(SubmissionError, match="ask for SLURM's plugin"):
        mpi_start.pmi_of("MPICH", "MPI plugin types are...\n\tnone\n\tpmi2_of_another_kind\n")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(MissingExtraError, match=r"mpi4py is not installed(.|\n)*tokenmill\[mpi\]"):
        MpiExecutor(2).check()


@pytest.mark.usefixtures("mpi")
def test_a_missing_mpiexec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi_start.shutil, "which", lambda *_, **__: None)
    with pytest.raises(SubmissionError, match="mpiexec is not on PATH"):
        MpiExecutor(2).check()


@pytest.mark.usefixtures("mpi")
def test_inside_an_allocation_ranks_are_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text(f"#!/bin/sh\nprintf '{LIST_22_05}'\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "6")
    executor = MpiExecutor()
    assert executor.workers == 6
    assert executor.starter.program == "srun"
    assert executor.starter.pmi == mpi_start.PMI[executor.starter.library]
    srun.write_text("#!/bin/sh\necho 'no such option' >&2; exit 1\n")
    with pytest.raises(SubmissionError, match="no such option"):
        MpiExecutor().check()


@pytest.mark.parametrize(
    ("ranks", "total", "threads", "words"),
    [
        ([0], 1, True, ["a world of its own", "rank 0 of 1, 4 times", "mpiexec of MPICH", "--mpi=pmi2"]),
        ([0, 1], 2, True, ["not the MPI world", "ranks [0, 1], and 2 as the sum"]),
        ([0, 1, 2, 2], 4, True, ["not the MPI world", "ranks [0, 1, 2, 2]"]),
        ([0, 1, 2, 3], 3, True, ["not the MPI world", "and 3 as the sum"]),
        ([0, 1, 2, 3, 4], 5, True, ["not the MPI world"]),
        ([0, 1, 2, 3], 4, False, ["cannot be called from threads", "MPI_THREAD_MULTIPLE"]),
    ],
)
def test_other_worlds_are_refused(ranks: list[int], total: int, threads: bool, words: list[str]) -> None:
    with pytest.raises(GangError) as caught:
        mpi_world.check_world(4, ranks, total, threads=threads, library="MPICH Version: 5", where="job j")
    assert [word for word in words if word not in str(caught.value).replace("an MPI world", "a world")] == []


def test_the_world_that_was_asked_for_is_not_refused() -> None:
    mpi_world.check_world(4, [3, 0, 2, 1], 4, threads=True, library="MPICH Version: 5", where="job j")
    mpi_world.check_world(1, [0], 1, threads=True, library="MPICH Version: 5", where="job j")


@pytest.mark.usefixtures("mpi")
def test_singletons_are_refused_with_the_fix(text_folder: Path, tmp_path: Path) -> None:
    # an mpiexec of another library: it starts processes, but they do not find each other
    executor = fake_mpiexec(tmp_path, 'n=$2; shift 2; for i in $(seq $n); do "$@" & done; wait')
    with pytest.raises(GangError, match=r"a?n? ?MPI world of its own(.|\n)*fix: .*mpiexec of MPICH"):
        run_recipe(make_recipe(text_folder), str(tmp_path / "run"), executor)
    assert len(folder_of(tmp_path / "run", "upper").launch_order()) == 1
    assert folder_of(tmp_path / "run", "upper").attempts() == []


@pytest.mark.usefixtures("mpi")
def test_ranks_that_never_begin_are_refused(text_folder: Path, tmp_path: Path) -> None:
    executor = fake_mpiexec(tmp_path, "exec sleep 600")
    executor.start_seconds = 0.3
    with pytest.raises(GangError, match="did not find each other"):
        run_recipe(make_recipe(text_folder), str(tmp_path / "run"), executor)
    assert executor.free_slots() == 3  # it was ended


@pytest.mark.usefixtures("mpi")
def test_the_words_of_an_mpiexec_that_fails_are_shown(text_folder: Path, tmp_path: Path) -> None:
    executor = fake_mpiexec(tmp_path, "echo 'unrecognized argument'; exit 1")
    with pytest.raises(JobError, match=r"3 launches in a row ended .*unrecognized argument"):
        run_recipe(make_recipe(text_folder), str(tmp_path / "run"), executor)


@pytest.mark.usefixtures("mpi")
@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_rank_ends_its_world_and_nothing_is_lost(
    rank: int, text_folder: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(text_folder, shards=24, seconds=0.2)
    run_recipe(recipe, str(tmp_path / "reference"), LocalExecutor())
    run, shot = tmp_path / "run", list[int]()

    def shoot() -> None:
        until(lambda: run.exists() and len(list(run.glob("jobs/upper-*/done/*/*"))) >= 6, "no shard is done")
        until(
            lambda: shot.extend(pid for at, pid in ranks_at_work(run).items() if at == rank) or bool(shot),
            "idle",
        )
        os.kill(shot[0], signal.SIGKILL)

    thread = threading.Thread(target=shoot)
    thread.start()
    run_recipe(recipe, str(run), MpiExecutor(3))
    thread.join()
    assert outputs(run) == outputs(tmp_path / "reference")
    upper = folder_of(run, "upper")
    assert len(launches_of(upper)) == 2
    records = upper.attempts()
    assert {record["pid"] for record in records if record["outcome"] == "lost"} >= set(shot)
    assert len(records) <= 24 + 3  # at most one attempt per rank was cut off


@pytest.mark.usefixtures("mpi")
def test_ranks_end_with_their_driver(text_folder: Path, tmp_path: Path) -> None:
    values = {"shards": 12, "seconds": 0.3}
    recipe = make_recipe(text_folder, shards=12, seconds=0.3)
    run_recipe(recipe, str(tmp_path / "reference"), LocalExecutor())
    run = tmp_path / "run"
    words = [sys.executable, str(HERE / "drive.py"), str(text_folder), str(run), "mpi", json.dumps(values)]
    driver = subprocess.Popen(words)
    until(lambda: len(ranks_at_work(run)) >= 2, "the ranks did not start")
    pids = ranks_at_work(run).values()
    driver.kill()
    driver.wait()
    until(
        lambda: not any(Path(f"/proc/{pid}/fd/1").is_symlink() for pid in pids), "ranks outlive their driver"
    )
    run_recipe(recipe, str(run), MpiExecutor(2))
    assert outputs(run) == outputs(tmp_path / "reference")


@pytest.mark.usefixtures("mpi")
def test_cancelled_ranks_finish_the_shard_they_are_at(text_folder: Path, tmp_path: Path) -> None:
    run, executor = tmp_path / "run", MpiExecutor(2)
    recipe = make_recipe(text_folder, shards=12, seconds=0.3)

    def on_change(_: object) -> None:
        if len(ranks_at_work(run)) == 2:
            raise KeyboardInterrupt  # the driver cancels

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, str(run), executor, on_change=on_change)
    assert executor.free_slots() == 2
    assert {record["outcome"] for record in folder_of(run, "upper").attempts()} == {"done"}
    assert 2 <= len(folder_of(run, "upper").done()) < 12


def test_a_silent_rank_0_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def send(self, *_: object, **__: object) -> None: ...

        def iprobe(self, **_: object) -> bool:
            return False

    world = object.__new__(mpi_rank.Connection)
    world.__dict__.update(_comm=Silent(), rank=1, world_size=2)
    monkeypatch.setattr(mpi_rank, "_ANSWER_SECONDS", 0.05)
    with pytest.raises(GangError, match="rank 0 does not hand out"):
        world.ask()


@pytest.mark.slurm
@pytest.mark.usefixtures("mpi", "real_slurm")
def test_ranks_on_two_nodes_of_an_allocation(text_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(text_folder, shards=20)
    run_recipe(recipe, str(tmp_path / "reference"), LocalExecutor())
    run, output = tmp_path / "run", tmp_path / "driver.out"
    words = [sys.executable, HERE / "drive.py", text_folder, run, "mpi", json.dumps({"shards": 20})]
    script = f"#!/bin/sh\nexport PYTHONPATH='{HERE}'\nexec " + " ".join(f"'{word}'" for word in words) + "\n"
    sbatch = ["sbatch", "--wait", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--time=5"]
    done = subprocess.run(
        [*sbatch, f"--output={output}"],
        input=script,
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr + (output.read_text() if output.exists() else "")
    assert outputs(run) == outputs(tmp_path / "reference")
    started = [json.loads(path.read_text()) for path in run.glob("jobs/upper-*/submissions/*/started.json")]
    assert [record["world_size"] for record in started] == [4]
