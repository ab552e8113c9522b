"""One contract, two clusters: what the project relies on, asked of the fake and of a real SLURM.

The real one runs where a cluster does, with MaxArraySize 11; see tools/test.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CLUSTERS = [
    pytest.param("fake_slurm", id="fake"),
    pytest.param("real_slurm", id="real", marks=pytest.mark.slurm),
]


@pytest.fixture(params=CLUSTERS)
def slurm(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    found: Any = request.getfixturevalue(request.param)
    if request.param == "fake_slurm":
        found.configure(max_array_size=11, max_running=4)
    monkeypatch.chdir(tmp_path)
    yield
    call("scancel", "--me", "--name=contract")


def call(*words: str, code: int = 0) -> str:
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == code, result
    return result.stdout + result.stderr


def submit(*options: str, body: str = "true") -> str:
    script = Path("job.sh")
    script.write_text(f"#!/bin/bash\n#SBATCH --job-name=contract\n#SBATCH --output=log.%A.%a.%j\n{body}\n")
    return call("sbatch", "--parsable", *options, str(script)).strip()


def states(job: str) -> list[str]:
    listing = call("squeue", "--me", "-h", "-r", "-t", "all", "-j", job, "-o", "%i|%j|%K|%T|%r|%F")
    return sorted(listing.splitlines())


def wait_for(check: Callable[[], bool], job: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, states(job)
        time.sleep(0.1)


def wait(job: str) -> list[str]:
    """Lines of squeue once the job has ended."""
    live = r"\|(PENDING|RUNNING|COMPLETING|CONFIGURING)\|"
    wait_for(lambda: not any(re.search(live, line) for line in states(job)), job)
    return states(job)


def logs(job: str) -> list[str]:
    return sorted(line for path in Path().glob(f"log.{job}.*") for line in path.read_text().splitlines())


pytestmark = pytest.mark.usefixtures("slurm")


def test_the_limit_of_arrays_is_told_and_kept() -> None:
    found = re.search(r"^MaxArraySize\s*= (\d+)$", call("scontrol", "show", "config"), re.MULTILINE)
    assert found is not None
    assert found[1] == "11"
    Path("a.sh").write_text("#!/bin/sh\n")
    text = call("sbatch", "--array=0-11", "a.sh", code=1)
    assert text == "sbatch: error: Batch job submission failed: Invalid job array specification\n"
    assert len(wait(submit("--array=0-10"))) == 11


def test_array_tasks_know_who_they_are() -> None:
    body = 'echo "$SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_COUNT ${SLURM_NTASKS:-none}"'
    job = submit("--array=0-3", body=body)
    assert wait(job) == [f"{job}_{i}|contract|{i}|COMPLETED|None|{job}" for i in range(4)]
    assert logs(job) == [f"{job} {i} 4 none" for i in range(4)]


def test_the_last_words_of_sbatch_name_the_job() -> None:
    assert re.fullmatch(
        r"Submitted batch job \d+\n", call("sbatch", "-J", "contract", "-o", "/dev/null", "--wrap", "true")
    )


def test_a_failed_task_fails_alone() -> None:
    job = submit("--array=0-2", body="exit $((SLURM_ARRAY_TASK_ID == 1 ? 7 : 0))")
    lines = [line.split("|")[3:5] for line in wait(job)]
    assert lines == [["COMPLETED", "None"], ["FAILED", "NonZeroExitCode"], ["COMPLETED", "None"]]
    assert "ExitCode=7:0" in call("scontrol", "show", "job", f"{job}_1")


def test_a_child_starts_after_every_task_of_its_parent() -> None:
    parent = submit("--array=0-5", body="sleep 0.3; touch done.$SLURM_ARRAY_TASK_ID")
    child = submit(f"--dependency=afterok:{parent}", "--kill-on-invalid-dep=yes", body="ls done.* | wc -l")
    assert wait(child) == [f"{child}|contract|N/A|COMPLETED|None|{child}"]
    assert logs(child) == ["6"]


def test_a_child_of_a_failed_parent_never_starts() -> None:
    first = submit("--array=0-3", body="sleep 0.5; exit $((SLURM_ARRAY_TASK_ID == 0))")
    second = submit("--array=0-3", body="sleep 0.5")
    needs = f"--dependency=afterok:{first}:{second}"
    killed = submit(needs, "--kill-on-invalid-dep=yes", body="touch started")
    stuck = submit(needs, "--kill-on-invalid-dep=no", body="touch started")
    after = submit(f"--dependency=afterany:{first}", body="echo ran")
    assert wait(after)[0].split("|")[3] == "COMPLETED"
    assert wait(killed)[0].split("|")[3:5] == ["CANCELLED", "DependencyNeverSatisfied"]
    never = ["PENDING", "DependencyNeverSatisfied"]
    wait_for(lambda: states(stuck)[0].split("|")[3:5] == never, stuck)
    assert not Path("started").exists()


def test_a_waiting_child_says_dependency() -> None:
    parent = submit("--hold")
    child = submit(f"--dependency=afterany:{parent}")
    assert states(parent) == [f"{parent}|contract|N/A|PENDING|JobHeldUser|{parent}"]
    assert states(child) == [f"{child}|contract|N/A|PENDING|Dependency|{child}"]
    call("scontrol", "release", parent)
    wait(child)


def test_a_gang_has_ranks() -> None:
    body = "srun -n 2 sh -c 'echo \"$SLURM_PROCID $SLURM_LOCALID $SLURM_NODEID $SLURM_NTASKS $SLURM_JOB_ID\"'"
    job = submit("--ntasks=2", "--nodes=2", body=body)
    wait(job)
    assert logs(job) == [f"0 0 0 2 {job}", f"1 0 1 2 {job}"]


def test_a_bad_rank_ends_its_gang() -> None:
    rank = "test $SLURM_PROCID = 0 && exit 3; sleep 60"
    body = f"srun -n 2 --kill-on-bad-exit=1 sh -c '{rank}' 2>/dev/null; echo $?"
    job = submit("--ntasks=2", body=body)
    wait(job)
    assert logs(job) == ["143"]


def test_host_names_are_expanded() -> None:
    assert call("scontrol", "show", "hostnames", "n[1-3]").split() == ["n1", "n2", "n3"]


def test_a_requeued_job_starts_again_under_its_id() -> None:
    body = 'echo "start ${SLURM_RESTART_COUNT:-0}"; [ "${SLURM_RESTART_COUNT:-0}" = 0 ] && sleep 60; exit 0'
    job = submit("--requeue", "--open-mode=append", body=body)
    wait_for(lambda: logs(job) == ["start 0"], job)
    call("scontrol", "requeue", job)
    assert wait(job) == [f"{job}|contract|N/A|COMPLETED|None|{job}"]
    assert [line for line in logs(job) if line.startswith("start")] == ["start 0", "start 1"]


def test_one_task_can_be_cancelled() -> None:
    job = submit("--array=0-2", body="echo ready; sleep 60")
    wait_for(lambda: logs(job) == ["ready"] * 3, job)
    call("scancel", f"{job}_1")
    wait_for(lambda: states(f"{job}_1") == [f"{job}_1|contract|1|CANCELLED|None|{job}"], job)
    assert [line.split("|")[3] for line in states(job)] == ["RUNNING", "CANCELLED", "RUNNING"]
    call("scancel", "--me", "--name=contract")
    assert {line.split("|")[3] for line in wait(job)} == {"CANCELLED"}


def test_a_task_cancelled_before_its_start_is_forgotten() -> None:
    job = submit("--array=0-2", "--hold")
    call("scancel", f"{job}_1")
    left = [f"{job}_{i}|contract|{i}|PENDING|JobHeldUser|{job}" for i in (0, 2)]
    wait_for(lambda: states(job) == left, job)


def test_a_signal_reaches_the_batch_shell() -> None:
    body = "trap 'echo caught; exit 0' USR1; echo ready; for i in $(seq 600); do sleep 0.1; done"
    job = submit(body=body)
    wait_for(lambda: logs(job) == ["ready"], job)
    call("scancel", "--batch", "--signal=USR1", job)
    assert wait(job)[0].split("|")[3] == "COMPLETED"
    assert logs(job) == ["caught", "ready"]


def test_the_environment_is_an_allow_list() -> None:
    os.environ["CONTRACT_SECRET"] = "s3cret"
    try:
        job = submit(
            "--export=HOME,CONTRACT_GIVEN=yes", body='echo "${CONTRACT_SECRET:-none} $CONTRACT_GIVEN"'
        )
    finally:
        del os.environ["CONTRACT_SECRET"]
    wait(job)
    assert logs(job) == ["none yes"]


@pytest.mark.parametrize(
    ("words", "text", "code"),
    [
        (["squeue", "-h", "-j", "99999"], "slurm_load_jobs error: Invalid job id specified\n", 1),
        (["scontrol", "requeue", "99999"], "Invalid job id specified for job 99999\n", 1),
        (["scancel", "99999"], "", 0),
        (["sbatch", "/nonexistent"], "sbatch: error: Unable to open file /nonexistent\n", 1),
        (["sbatch", "-d", "afterok:abc", "--wrap", "true"], "Job dependency problem\n", 1),
        (["sbatch", "-p", "nope", "--wrap", "true"], "Invalid partition name specified\n", 1),
        (["sbatch", "-t", "soon", "--wrap", "true"], "sbatch: error: Invalid --time specification\n", 255),
        (["sacct"], "Slurm accounting storage is disabled\n", 1),
    ],
)
def test_refusals_have_the_same_words(words: list[str], text: str, code: int) -> None:
    assert call(*words, code=code).endswith(text)
