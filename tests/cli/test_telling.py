"""The command tells: numbers for Prometheus, notices, prices, and what a watcher sees."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tokenmill import cli

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A working directory with an input; the entries can be imported."""
    lines = [f"zeile {number:03d} die maus\n" for number in range(60)]
    (tmp_path / "lines.jsonl").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(RECIPES))
    return tmp_path


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def run(*words: object, executor: str = "local") -> Result:
    recipe = ("run", RECIPES / "words.yaml", "--run-dir", "run", "--set", "inputs.lines=lines.jsonl")
    return invoke(*recipe, "--executor", executor, *words)


@pytest.fixture
def webhook():
    """URL of a webhook and what it has heard."""
    heard: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", heard
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_hears_of_the_end_and_resume_remembers_its_file(world, webhook):
    url, heard = webhook
    (world / "hook").write_text(url)
    assert run("--notify", f"file:{world}/hook").exit_code == 0
    assert invoke("resume", "run").exit_code == 0
    assert [value["state"] for value in heard] == ["complete", "complete"]
    assert heard[0]["usage"]["attempts"] == {"done": 4}
    assert url not in (world / "run" / "telling.json").read_text()


def test_a_plain_url_is_not_remembered(world, webhook):
    url, heard = webhook
    assert run("--notify", url).exit_code == 0
    assert invoke("resume", "run").exit_code == 0
    assert len(heard) == 1
    assert all(url.encode() not in path.read_bytes() for path in (world / "run").rglob("*") if path.is_file())


def test_a_failed_run_says_why(world, webhook):
    url, heard = webhook
    result = run("--notify", url, "--set", "jobs.split.config.fail_on=maus")
    assert result.exit_code == 1
    [value] = heard
    assert value["state"] == "failed"
    assert value["failures"][0].startswith("split: shard 0: StorageError: a forbidden word")
    assert "\n" not in value["failures"][0]


def test_a_notice_that_nobody_takes_is_no_error(world, monkeypatch):
    monkeypatch.setattr("tokenmill.executors.notify._PAUSES_SECONDS", (0.0,))
    result = run("--notify", "http://127.0.0.1:1/hook")
    assert result.exit_code == 0
    assert "warning: not told: webhook of 127.0.0.1" in result.stderr


def test_a_run_that_goes_on_is_not_stopped_by_a_target_that_is_gone(world, webhook):
    (world / "hook").write_text(webhook[0])
    assert run("--notify", f"file:{world}/hook").exit_code == 0
    (world / "hook").unlink()
    result = invoke("resume", "run")
    assert result.exit_code == 0
    assert "warning: not told: the file of a webhook cannot be read" in result.stderr


def test_wrong_targets_stop_the_run_before_it_starts(world):
    result = run("--notify", "me@example.org")
    assert result.exit_code == 1
    assert "mailto:ADDRESS" in result.stderr
    assert not (world / "run").exists()


def test_numbers_for_prometheus(world):
    path = world / "metrics" / "run.prom"
    assert run("--prometheus", path).exit_code == 0
    text = path.read_text()
    assert f'tokenmill_shards{{run="{world}/run",job="split",state="done"}} 3' in text
    assert 'state="complete"} 1' in text
    path.unlink()
    assert invoke("resume", "run").exit_code == 0  # it remembers
    assert path.exists()
    assert invoke("status", "run", "--prometheus", world / "other.prom", "--quiet").stdout == "complete\n"
    assert (world / "other.prom").read_text().count("# TYPE") == path.read_text().count("# TYPE")


def test_a_file_that_cannot_be_written_is_said_once(world):
    (world / "file").write_text("")
    result = run("--prometheus", world / "file" / "run.prom")
    assert result.exit_code == 0
    assert result.stderr.count("the file for Prometheus cannot be written") == 1
    asked = invoke("status", "run", "--prometheus", world / "file" / "run.prom")
    assert asked.exit_code == 1


def test_prices_of_a_site(world, fake_slurm):
    (world / "site.yaml").write_text(
        "environment: [PATH, FAKE_SLURM_STATE, FAKE_SLURM_PYTHON]\npoll_seconds: 0.2\ncore_hour_cost: 3600\n"
        f"variables: {{PYTHONPATH: '{RECIPES}'}}\n"
    )
    slow = ("--set", "jobs.split.config.seconds=0.2")
    done = run("--site", "site.yaml", *slow, executor="slurm")
    assert done.exit_code == 0, done.stderr
    value = json.loads(invoke("status", "run", "--json").stdout)
    assert value["usage"]["cost"] == pytest.approx(value["usage"]["core_hours"] * 3600)
    assert value["usage"]["cost"] >= 0.6  # a unit a second: three shards of at least 0.2 s
    assert "cost" in invoke("status", "run").stdout.splitlines()[0]
    assert json.loads(invoke("report", "run", "--json").stdout)["totals"]["usage"]["cost"] > 0


def test_a_shell_in_an_allocation(world, fake_slurm):
    (world / "site.yaml").write_text(
        "environment: [PATH, FAKE_SLURM_STATE, FAKE_SLURM_PYTHON]\npoll_seconds: 0.2\n"
        f"variables: {{PYTHONPATH: '{RECIPES}'}}\n"
    )
    slow = ("--set", "jobs.split.config.seconds=600", "--detach", "--notify", "http://127.0.0.1:1/hook")
    left_alone = run("--site", "site.yaml", *slow, executor="slurm")
    assert left_alone.exit_code == 0
    assert "nobody stays to tell" in left_alone.stderr
    deadline = time.monotonic() + 60
    while (shown := invoke("attach", "run", "split", "--shell")).exit_code:
        assert "no attempt runs" in shown.stderr
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert shown.stdout.startswith("srun --overlap --jobid=")
    assert shown.stdout.endswith(" --pty bash\n")
    assert "_" not in shown.stdout.split()[2]  # srun takes the job's own number, not ARRAY_INDEX
    assert invoke("attach", "run", "split/2", "--shell", "--json").stdout.startswith("{")
    assert invoke("cancel", "run").exit_code == 0


def test_status_of_what_runs_shows_its_time(world):
    program = [sys.executable, "-m", "tokenmill.cli", "run", str(RECIPES / "words.yaml"), "--run-dir", "run"]
    program += [
        "--set",
        "inputs.lines=lines.jsonl",
        "--set",
        "jobs.split.config.seconds=600",
        "--workers",
        "2",
    ]
    environment = {**os.environ, "PYTHONPATH": str(RECIPES)}
    with subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        while "running" not in (line := driver.stderr.readline()):
            assert line, "the driver ended early"
        deadline = time.monotonic() + 120
        value: dict = {}
        while not (value and value["jobs"][0]["alive"] == value["jobs"][0]["running"] == 2):
            assert time.monotonic() < deadline, value
            value = json.loads(invoke("status", "run", "--json").stdout)
        assert value["jobs"][0]["usage"]["attempts"] == {"running": 2}
        assert value["usage"]["task_seconds"] > 0
        following = [sys.executable, "-m", "tokenmill.cli"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        watcher = subprocess.Popen([*following, "status", "run", "--watch", "--json"], **pipes)
        assert "split: running 0/3" in watcher.stderr.readline()
        watcher.send_signal(signal.SIGINT)  # looks away; the run goes on
        out, err = watcher.communicate(timeout=120)
        assert watcher.returncode == 0, err
        assert json.loads(out)["state"] == "running"
        attached = subprocess.Popen([*following, "attach", "run", "split"], **pipes)
        assert "split/" in attached.stderr.readline()
        assert "job split, shard " in attached.stdout.readline()
        attached.send_signal(signal.SIGINT)
        assert attached.communicate(timeout=120)[1] == "outcome: running\n"
        assert driver.poll() is None
        driver.kill()  # its processes end with it
