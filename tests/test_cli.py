"""The command: verbs, outputs, overrides, errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tokenmill import cli

RECIPES = Path(__file__).parent / "recipes"
ROOT = Path(__file__).parents[1]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A working directory with a recipe, its input and its entries."""
    folder = tmp_path / "mein Ördner"
    folder.mkdir()
    lines = [f"zeile {number:03d} die maus und die katze\n" for number in range(60)] + ["\n"] * 3
    (folder / "lines ü.jsonl").write_text("".join(lines))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(RECIPES))
    return folder


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.app, list(words))


def run(*words: str, executor: str = "local") -> Result:
    inputs = ["--set", "inputs.lines=lines ü.jsonl", "--executor", executor]
    return invoke("run", str(RECIPES / "words.yaml"), "--run-dir", "run ü", *inputs, *words)


def test_run_status_logs_report(world):
    result = run()
    assert result.exit_code == 0, result.output
    assert "split  complete" in result.stdout
    assert "count: complete 1/1" in result.stderr
    page = (world / "run ü" / "report.html").read_text()
    assert "Most frequent &lt;words&gt;" in page
    [counts] = (world / "run ü").glob("jobs/count-*/data/counts/*.txt")
    assert counts.read_text().splitlines()[0] == "die 120"

    status = invoke("status", "run ü")
    assert "count  complete  1/1" in status.stdout
    assert invoke("status", "run ü", "--quiet").stdout == "complete\n"
    value = json.loads(invoke("status", "run ü", "--json").stdout)
    assert value["state"] == "complete"
    assert [job["name"] for job in value["jobs"]] == ["split", "count"]
    assert value["jobs"][0]["counters"]["split/documents_out"] == 60
    assert invoke("status", "run ü", "--watch").exit_code == 0

    attempts = json.loads(invoke("logs", "run ü", "--json").stdout)
    assert {attempt["outcome"] for attempt in attempts} == {"done"}
    assert "split" in invoke("logs", "run ü").stdout
    text = invoke("logs", "run ü", "split/1").stdout
    assert text.count("=== split/1 attempt") == 1
    assert "split is done" in text
    tail = invoke("logs", "run ü", "split/1", "--tail", "1").stdout
    assert "outcome: done" in tail
    assert "split is done" not in tail
    paths = invoke("logs", "run ü", "count", "--quiet").stdout.split("\n")
    assert Path(paths[0]).is_file()
    assert invoke("logs", "run ü", "--failed").stdout == "no attempt failed\n"

    assert invoke("report", "run ü").stdout == f"{world}/run ü/report.html\n"
    assert json.loads(invoke("report", "run ü", "--json").stdout)["totals"]["complete"] == 2


def test_explain_verify_and_gc(world):
    run()
    told = invoke("explain", "run ü", "split/1")
    assert told.stdout.startswith("split/1 is done, by attempt ")
    assert invoke("explain", "run ü", "count", "--quiet").stdout == "complete\n"
    assert json.loads(invoke("explain", "run ü", "split/1", "--json").stdout)["state"] == "done"
    whole = invoke("verify", "run ü")
    assert (whole.exit_code, whole.stderr) == (0, "")
    assert whole.stdout.startswith("6 files, ")
    assert whole.stdout.endswith(", 0 damaged\n")
    checksums = sorted(path.read_bytes() for path in world.glob("run ü/jobs/*/data/*/*"))

    [path] = world.glob("run ü/jobs/split-*/data/words/00002.*")
    path.write_bytes(path.read_bytes()[:-1])
    damaged = invoke("verify", "run ü")
    assert damaged.exit_code == 1
    assert f"split/2 data/words/{path.name} has the wrong size: " in damaged.stdout
    assert invoke("verify", "run ü", "--quiet").stdout == f"split/2 data/words/{path.name}\n"
    assert invoke("verify", "run ü", "count").exit_code == 0
    [damage] = json.loads(invoke("verify", "run ü", "--json").stdout)["damages"]
    assert (damage["job"], damage["shard"]) == ("split", 2)
    mended = invoke("verify", "run ü", "--repair")
    assert mended.exit_code == 0
    assert "split: commit of shard 2 withdrawn" in mended.stdout
    assert "`tokenmill resume 'run ü'` makes it again" in mended.stdout
    assert "commit record was withdrawn" in invoke("explain", "run ü", "split/2").stdout
    assert invoke("explain", "run ü", "count", "--quiet").stdout == "waiting\n"
    assert invoke("resume", "run ü").exit_code == 0
    assert sorted(path.read_bytes() for path in world.glob("run ü/jobs/*/data/*/*")) == checksums

    orphan = path.with_name("00002.dead-1.jsonl")
    orphan.write_bytes(b"12345")
    before = invoke("gc", "run ü", "--dry-run")
    assert "data              1      5 B" in before.stdout
    assert "would be removed" in before.stdout
    assert orphan.exists()
    value = json.loads(invoke("gc", "run ü", "--json").stdout)
    assert str(orphan) in [entry["url"] for entry in value["orphans"]]
    assert not orphan.exists()
    assert invoke("gc", "run ü", "--quiet").stdout == ""
    assert invoke("verify", "run ü").exit_code == 0
    for words in (("gc", "nowhere"), ("verify", "nowhere"), ("explain", "nowhere", "split")):
        assert "no run in this folder" in invoke(*words).stderr
    assert "did you mean 'split'" in invoke("explain", "run ü", "splt").stderr


def test_a_second_run_changes_nothing(world):
    run()
    before = sorted(path for path in (world / "run ü").rglob("attempts/*"))
    result = run("--json")
    assert [job["state"] for job in json.loads(result.stdout)["jobs"]] == ["complete", "complete"]
    assert sorted(path for path in (world / "run ü").rglob("attempts/*")) == before


def test_a_failed_shard_is_named_and_resume_tries_again(world):
    (world / "lines ü.jsonl").write_text("gut\n" * 200 + "schlecht\n" + "gut\n" * 200)
    result = run("--set", "jobs.split.config.fail_on=schlecht")
    assert result.exit_code == 1
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.output
    assert "schlecht" in result.stderr
    assert "split  failed" in result.stdout
    assert "a forbidden word &lt;b&gt;" in (world / "run ü" / "report.html").read_text()
    assert invoke("status", "run ü", "--quiet").stdout == "failed\n"
    logs = invoke("logs", "run ü", "--failed").stdout
    assert "StorageError: a forbidden word" in logs
    assert logs.count("=== split/") == 2  # max_attempts

    failed = len(json.loads(invoke("logs", "run ü", "--failed", "--json").stdout))
    assert invoke("resume", "run ü", "--quiet").exit_code == 1
    assert len(json.loads(invoke("logs", "run ü", "--failed", "--json").stdout)) == 2 * failed


def test_plan_and_dry_run_write_nothing(world):
    words = (str(RECIPES / "words.yaml"), "--run-dir", "run ü", "--set", "inputs.lines=lines ü.jsonl")
    plan = invoke("plan", *words)
    assert plan.exit_code == 0
    assert "nothing was written" in plan.stdout
    assert invoke("run", *words, "--dry-run").stdout == plan.stdout
    value = json.loads(invoke("plan", *words, "--json").stdout)
    assert value["jobs"][0]["shards"] == 5
    assert value["jobs"][1]["shards"] is None
    assert value["core_hours"] == sum(job["core_hours"] for job in value["jobs"])
    assert invoke("plan", *words, "--quiet").stdout == "split to do\ncount to do\n"
    assert not (world / "run ü").exists()


def test_plan_shows_the_batch_scripts(world, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # a laptop without SLURM
    Path("slurm").mkdir()
    Path("slurm/kleiner.yaml").write_text(
        "partition: short\nmax_array_size: 4\nmax_tasks: 100\ncore_hour_cost: 0.5\n"
    )
    words = (str(RECIPES / "words.yaml"), "--run-dir", "run ü", "--set", "inputs.lines=lines ü.jsonl")
    result = invoke("plan", *words, "--executor", "slurm", "--site", "kleiner")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("#SBATCH --array=0-3") == 1
    assert result.stdout.count("#SBATCH --array=0-0") == 2  # the rest of split; count
    assert "#SBATCH --partition=short" in result.stdout
    assert "at most 6.00 core-hours, 3.00 in cost" in result.stdout
    Path("slurm/kleiner.yaml").write_text("partition: short\n")
    asked = invoke("plan", *words, "--executor", "slurm", "--site", "kleiner")
    assert asked.exit_code == 1
    assert "scontrol" in asked.stderr
    assert not (world / "run ü").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--executor", "slrm"], ["unknown executor 'slrm'", "did you mean 'slurm'"]),
        (["--executor", "slurm"], ["the slurm executor needs a site"]),
        (["--executor", "slurm", "--site", "locl_cluster"], ["unknown site", "'local_cluster'"]),
        (["--executor", "local", "--site", "example"], ["only the slurm executor has a site"]),
        (["--executor", "local", "--workers", "2"], ["only the processes and mpi executors have workers"]),
        (["--executor", "local", "--detach"], ["only the slurm executor can be left alone"]),
        (["--set", "jobs.split.config.least_leters=2"], ["unknown key", "did you mean 'least_letters'"]),
        (["--set", "jobs.split.config.least_letters=viele"], ["expected: a valid integer", "'viele' (str)"]),
        (["--set", "inputs.lines=nirgends"], ["is not there", "nirgends"]),
        (["--set", "jobs.split.inputs.lines=count.counts"], ["jobs wait for each other"]),
        (["--set", "jobs.count.inputs.words=splt.words"], ["did you mean split"]),
        (["--set", "jobs.split.entry=words_jobs.splt"], ["no function 'splt'", "did you mean 'split'"]),
    ],
)
def test_mistakes_are_one_block_and_write_nothing(world, words, parts):
    result = run(*words)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert all(part in result.stderr for part in parts), result.stderr
    assert not (world / "run ü").exists()


def test_no_sbatch_on_path(world, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    Path("slurm").mkdir()
    Path("slurm/s.yaml").write_text("partition: p\n")
    result = run("--site", "s", executor="slurm")
    assert result.exit_code == 1
    assert "sbatch" in result.stderr
    assert not (world / "run ü").exists()


def test_other_mistakes(world):
    assert "unknown recipe" in invoke("plan", "wrds", "--run-dir", "r").stderr
    assert "no run in this folder" in invoke("status", "nowhere").stderr
    assert invoke("status", "nowhere").exit_code == 1
    assert invoke("resume", "nowhere").exit_code == 1
    assert invoke("report", "nowhere").exit_code == 1
    assert invoke("run").exit_code == 2
    assert invoke("runn").exit_code == 2
    assert invoke("status").exit_code == 2
    run()
    assert "did you mean 'split'" in invoke("logs", "run ü", "splt").stderr
    assert "a number below 5" in invoke("logs", "run ü", "split/5").stderr
    assert "no such shard" in invoke("logs", "run ü", "split/x").stderr


def test_a_foreign_folder_is_left_alone(world):
    (world / "run ü").mkdir()
    (world / "run ü" / "thesis.txt").write_text("mine")
    result = run()
    assert result.exit_code == 1
    assert "thesis.txt" in result.stderr
    assert sorted(path.name for path in (world / "run ü").iterdir()) == ["thesis.txt"]


def test_debug_shows_the_traceback_and_unforeseen_errors_say_so(world, monkeypatch):
    assert "Traceback" in invoke("status", "nowhere", "--debug").stderr
    monkeypatch.setattr(cli.looking, "Watcher", lambda run_dir: 1 / 0)
    result = invoke("status", "run ü")
    assert result.exit_code == 1
    assert "error: ZeroDivisionError" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr


def test_interrupt_says_how_to_go_on(world, monkeypatch):
    def interrupted(*words: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.running, "run_recipe", interrupted)
    result = run()
    assert result.exit_code == 130
    assert "tokenmill resume" in result.stderr


def test_resume_remembers_the_executor(world):
    run(executor="local")
    remembered = json.loads((world / "run ü" / "placement.json").read_text())
    assert remembered == {"executor": "local", "site": "", "workers": 0}
    assert invoke("resume", "run ü").exit_code == 0
    assert invoke("resume", "run ü", "--executor", "processes", "--workers", "1").exit_code == 0
    remembered = json.loads((world / "run ü" / "placement.json").read_text())
    assert remembered == {"executor": "processes", "site": "", "workers": 1}


def test_help_and_version():
    assert invoke("--version").stdout.startswith("tokenmill ")
    verbs = ("run", "plan", "status", "logs", "resume", "report", "explain", "verify", "gc")
    for verb in verbs:
        text = invoke(verb, "--help").stdout
        assert all(option in text for option in ("--json", "--quiet", "--debug")), verb
    assert "--executor" in invoke("resume", "--help").stdout
    assert "--executor" not in invoke("status", "--help").stdout


def command(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tokenmill.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(RECIPES), **variables}
    return subprocess.run(program, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_as_a_program_with_processes(world):
    words = (str(RECIPES / "words.yaml"), "--run-dir", "run ü", "--set", "inputs.lines=lines ü.jsonl")
    done = command("run", *words, "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["jobs"][1]["state"] == "complete"
    refused = command("run", *words, "--set", "jobs.split.configs=1")
    assert refused.returncode == 1
    assert "did you mean 'config'" in refused.stderr


def test_local_and_processes_give_the_same_files(world):
    def checksums(run_dir: str) -> dict[str, str]:
        report = json.loads((world / run_dir / "report.json").read_text())
        return {file["name"]: file["sha256"] for job in report["jobs"] for file in job["outputs"]}

    run()
    words = (str(RECIPES / "words.yaml"), "--run-dir", "other", "--set", "inputs.lines=lines ü.jsonl")
    assert command("run", *words, "--workers", "2").returncode == 0
    assert checksums("run ü") == checksums("other")
    assert len(checksums("other")) == 6


def test_cancel_ends_the_driver_and_its_processes(world):
    words = (str(RECIPES / "words.yaml"), "--run-dir", "run ü", "--set", "inputs.lines=lines ü.jsonl")
    program = [sys.executable, "-m", "tokenmill.cli", "run", *words, "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(RECIPES)}
    slow = ["--set", "jobs.split.config.seconds=60"]
    with subprocess.Popen([*program, *slow], env=environment, stderr=subprocess.PIPE, text=True) as driver:
        while "running" not in (line := driver.stderr.readline()):
            assert line, "the driver ended early"
        assert invoke("status", "run ü", "--quiet").stdout == "running\n"
        ended = invoke("cancel", "run ü")
        assert ended.stdout == "cancelled: split, count\n", ended.stderr
        assert driver.wait(120) == 130
        assert "tokenmill resume" in driver.stderr.read()
    status = json.loads(invoke("status", "run ü", "--json").stdout)
    assert [job["state"] for job in status["jobs"]] == ["cancelled", "cancelled"]
    attempts = json.loads(invoke("logs", "run ü", "--json").stdout)
    assert attempts
    for attempt in attempts:
        assert not Path(f"/proc/{attempt['pid']}").exists()
    assert "did you mean 'split'" in invoke("cancel", "run ü", "splt").stderr
    assert command("run", *words, "--workers", "2").returncode == 0  # another config: another identity
    assert invoke("cancel", "run ü").stdout == "cancelled: nothing was left to do\n"


def test_on_a_fake_cluster(world, fake_slurm):
    fake_slurm.configure(max_array_size=3)
    Path("slurm").mkdir()
    Path("slurm/fake.yaml").write_text(
        f"environment: [PATH, FAKE_SLURM_STATE, FAKE_SLURM_PYTHON]\npoll_seconds: 0.2\n"
        f"variables: {{PYTHONPATH: '{RECIPES}'}}\n"
    )
    words = (str(RECIPES / "words.yaml"), "--run-dir", "run ü", "--set", "inputs.lines=lines ü.jsonl")
    slurm = ("--executor", "slurm", "--site", "fake")
    assert "#SBATCH --array=0-2" in invoke("plan", *words, *slurm).stdout
    done = command("run", *words, *slurm, "--detach", "--json")
    assert done.returncode == 0, done.stderr
    watched = invoke("status", "run ü", "--watch", "--quiet")
    assert watched.exit_code == 0, watched.stderr
    assert watched.stdout == "complete\n"
    assert json.loads(command("resume", "run ü", "--json").stdout)["jobs"][1]["state"] == "complete"
    outside = ("--set", "jobs.split.config.seconds=60")
    assert command("run", *words, *slurm, *outside, "--detach").returncode == 0
    assert command("cancel", "run ü").stdout == "cancelled: split, count\n"
    assert command("status", "run ü", "--watch", "--quiet").stdout == "cancelled\n"


def test_a_closed_pipe_is_no_error(world):
    run()
    line = f"'{sys.executable}' -m tokenmill.cli logs 'run ü' --json | head -c 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["quickstart_processes.sh", "quickstart_slurm.sh"])
def test_launchers_call_the_command(name, tmp_path):
    (tmp_path / "tokenmill").write_text('#!/bin/sh\nprintf "%s\\n" "$*"\n')
    (tmp_path / "tokenmill").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    words = ["local_cluster", "/run ü", "/c", "/i", "/l"] if "slurm" in name else ["/c", "/i", "/l", "/run ü"]

    def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = [str(ROOT / "launchers" / name), *arguments]
        return subprocess.run(script, capture_output=True, text=True, env={"PATH": path}, check=False)

    done = launch(*words)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("run quickstart --run-dir /run ü ")
    assert "inputs.crawl=/c --set inputs.items=/i --set inputs.language_model=/l" in last
    assert launch().returncode == 2
