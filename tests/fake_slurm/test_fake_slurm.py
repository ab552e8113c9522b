"""What only the fake can be asked: ordered failures, ends of processes, options that it does not know."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest


def call(*words: str, code: int = 0) -> str:
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == code, result
    return result.stdout + result.stderr


def processes(state: Path) -> list[str]:
    """Command lines of everything that the fake started."""
    mark = f"FAKE_SLURM_STATE={state}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if path.parent.name != str(os.getpid()) and mark in path.read_bytes():
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


def wait(job: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while call("squeue", "-h", "-j", job):
        assert time.monotonic() < end, call("squeue")
        time.sleep(0.05)


def test_a_refused_submission_starts_nothing(fake_slurm: Any) -> None:
    text = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy"
    fake_slurm.fail("sbatch", text, times=2)
    for _ in range(2):
        assert call("sbatch", "--wrap", "true", code=1).strip() == text
    assert call("squeue", "-h", "-t", "all") == ""
    assert call("sbatch", "-o", "/dev/null", "--wrap", "true") == "Submitted batch job 1\n"


def test_an_accepted_submission_may_lose_its_answer(fake_slurm: Any) -> None:
    text = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    fake_slurm.fail("sbatch", text, accepted=True)
    assert call("sbatch", "-J", "token", "-o", "/dev/null", "--wrap", "true", code=1).strip() == text
    assert call("squeue", "-h", "-t", "all", "-n", "token", "-o", "%j") == "token\n"


def test_squeue_fails_until_mended(fake_slurm: Any) -> None:
    fake_slurm.fail("squeue", "slurm_load_jobs error: Unable to contact slurm controller", times=-1)
    for _ in range(3):
        assert "Unable to contact" in call("squeue", code=1)
    fake_slurm.mend("squeue")
    assert call("squeue", "-h") == ""


def test_at_most_max_running_jobs_run_at_once(fake_slurm: Any, tmp_path: Path) -> None:
    fake_slurm.configure(max_running=2)
    script = f'echo + >>"{tmp_path}/log"; sleep 0.2; echo - >>"{tmp_path}/log"'
    job = call("sbatch", "--parsable", "-o", "/dev/null", "--array=0-5", "--wrap", script).strip()
    wait(job)
    running = highest = 0
    for line in (tmp_path / "log").read_text().split():
        running += 1 if line == "+" else -1
        highest = max(highest, running)
    assert highest == 2


def test_an_array_throttle_is_kept(fake_slurm: Any, tmp_path: Path) -> None:
    script = f'mkdir "{tmp_path}/alone" && sleep 0.1 && rmdir "{tmp_path}/alone"'
    job = call("sbatch", "--parsable", "-o", "/dev/null", "--array=0-3%1", "--wrap", script).strip()
    wait(job)
    states = call("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T").split()
    assert states == ["COMPLETED"] * 4


def test_the_scheduler_ends_by_itself_and_leaves_no_process(fake_slurm: Any) -> None:
    call("sbatch", "-o", "/dev/null", "--wrap", "sleep 300 & true")
    call("sbatch", "-o", "/dev/null", "--hold", "--wrap", "true")
    call("sbatch", "-o", "/dev/null", "-d", "afterok:2", "--wrap", "true")
    end = time.monotonic() + 20
    while (left := processes(fake_slurm.state)) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []
    assert fake_slurm.queue()["scheduler"] == 0
    assert call("squeue", "-h", "-o", "%T %r").splitlines() == ["PENDING JobHeldUser", "PENDING Dependency"]


def test_a_time_limit_warns_then_ends_the_job(fake_slurm: Any, tmp_path: Path) -> None:
    fake_slurm.configure(minute_seconds=1.0)
    log = tmp_path / "log"
    script = "trap 'echo warned' USR1; echo begun; for i in $(seq 100); do sleep 0.05; done"
    options = ["--time=1", "--signal=B:USR1@30", "-o", str(log)]
    job = call("sbatch", "--parsable", *options, "--wrap", script).strip()
    wait(job)
    assert log.read_text().splitlines() == ["begun", "warned"]
    assert call("squeue", "-h", "-t", "all", "-j", job, "-o", "%T %r") == "TIMEOUT TimeLimit\n"


def test_a_step_signal_reaches_only_steps(fake_slurm: Any, tmp_path: Path) -> None:
    fake_slurm.configure(minute_seconds=1.0)
    rank, script = tmp_path / "rank.sh", tmp_path / "job.sh"
    rank.write_text("trap 'echo rank warned; exit 0' USR1; for i in $(seq 100); do sleep 0.05; done")
    script.write_text(f'#!/bin/bash\ntrap "echo shell warned" USR1\nsrun -n 2 bash "{rank}"\n')
    log = tmp_path / "log"
    job = call("sbatch", "--parsable", "--time=1", "--signal=USR1@30", "-o", str(log), str(script)).strip()
    wait(job)
    assert log.read_text().splitlines() == ["rank warned"] * 2


def test_sacct_answers_only_with_accounting(fake_slurm: Any) -> None:
    job = call("sbatch", "--parsable", "-o", "/dev/null", "-a", "0-1", "--wrap", "kill -9 $$").strip()
    wait(job)
    assert "Slurm accounting storage is disabled" in call("sacct", "-j", job, code=1)
    fake_slurm.configure(accounting=True)
    lines = call("sacct", "-j", job, "-n", "-X", "-P", "-o", "JobID,State,ExitCode").splitlines()
    assert lines == [f"{job}_0|FAILED|0:9", f"{job}_1|FAILED|0:9"]
    assert f"{job}_0.batch|FAILED" in call("sacct", "-j", job, "-P", "-o", "JobID,State")
    assert "Invalid field" in call("sacct", "-o", "Beauty", code=1)


def test_a_log_folder_that_is_missing_fails_the_job(fake_slurm: Any) -> None:
    job = call("sbatch", "--parsable", "-o", "/nowhere/log", "--wrap", "true").strip()
    wait(job)
    assert call("squeue", "-h", "-t", "all", "-j", job, "-o", "%T %r") == "FAILED JobLaunchFailure\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sbatch", "--bogus"], "sbatch: unrecognized option '--bogus'"),
        (["sbatch", "--array=a-b", "--wrap", "true"], "Invalid job array specification"),
        (["sbatch", "--ntasks=many", "--wrap", "true"], "Invalid numeric value"),
        (["sbatch", "--array"], "requires an argument"),
        (["squeue", "-o", "%Q"], "does not know %Q"),
        (["scancel"], "No job identification provided"),
        (["scontrol", "reboot"], "does not know 'reboot'"),
        (["srun"], "No command given"),
        (["srun", "/no/program"], "execve(): /no/program"),
    ],
)
def test_what_it_does_not_know_it_refuses(fake_slurm: Any, words: list[str], message: str) -> None:
    result = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_state_folder_it_says_so(fake_slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAKE_SLURM_STATE")
    assert "FAKE_SLURM_STATE" in call("squeue", code=1)
