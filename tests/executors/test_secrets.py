"""Secrets by file: in the worker's environment, and nowhere else."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tokenmill import cli
from tokenmill.errors import ConfigError
from tokenmill.executors import secrets
from tokenmill.executors.secrets import Redactor

HERE = Path(__file__).parent
CANARY_FILE = 'file canary "quoted\\" é 5f1c'
CANARY_VARIABLE = "environment-canary-77b0e1"


def secret_file(path: Path, value: str = CANARY_FILE, mode: int = 0o600) -> Path:
    path.write_text(value + "\n")
    path.chmod(mode)
    return path


def test_values_are_hidden_in_every_form():
    redactor = Redactor(["p/ss word+é", "short"])
    for text in ("p/ss word+é", "p%2Fss%20word%2B%C3%A9", "p/ss\\u0020".replace("\\u0020", " word+\\u00e9")):
        assert redactor.text(f"a {text} b") == "a *** b"
    assert redactor.text("cC9zcyB3b3JkK8Op") == "***"  # base64
    assert redactor.value({"a short": [1, "short!", None, ("short",)]}) == {
        "a ***": [1, "***!", None, ["***"]]
    }
    key = "-----BEGIN KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQ\n" * 2
    assert Redactor([key]).text("line MIIEvQIBADANBgkqhkiG9w0BAQ") == "line ***"


def test_the_longest_secret_is_hidden_first():
    assert Redactor(["abcdefgh", "abcdefgh-ijkl"]).text("abcdefgh-ijkl abcdefgh") == "*** ***"


def test_nothing_known_changes_nothing():
    value = {"a": ["b"]}
    assert Redactor().value(value) is value
    assert Redactor([""]).text("a b") == "a b"
    assert Redactor().stream(sys.stdout) is sys.stdout


def test_log_lines_and_tracebacks():
    record = logging.LogRecord("x", 20, "f", 1, "value %s", ("sesame-opens",), None)
    assert Redactor(["sesame-opens"]).formatter("%(message)s").format(record) == "value ***"
    try:
        raise ValueError("sesame-opens")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "sesame-opens" not in Redactor(["sesame-opens"]).formatter("%(message)s").format(record)


def test_names_that_tell():
    environment = {
        "WANDB_API_KEY": "0123456789",
        "AWS_SECRET_ACCESS_KEY": "/abcdefghij",
        "db_password": "12345678",
        "HF_TOKEN": "1234567",  # too short
        "TOKENMILL_SHARED": "abcdefghi",
        "KEY_FILE": str(HERE),
        "EDITOR": "abcdefghi",
    }
    assert secrets.telling(environment) == ["0123456789", "/abcdefghij", "12345678"]


def test_files(tmp_path):
    path = secret_file(tmp_path / "token", "abcd\r")
    assert secrets.load({"HF_TOKEN": str(path)}) == {"HF_TOKEN": "abcd"}
    path.chmod(0o400)
    secrets.check({"HF_TOKEN": str(path)})
    missing = str(tmp_path / "none")
    secrets.check({"HF_TOKEN": missing}, must_exist=False)
    assert secrets.known_values({"A": str(path), "B": missing}) == ["abcd"]


@pytest.mark.parametrize(
    ("name", "content", "mode", "message"),
    [
        ("HF_TOKEN", b"value", 0o640, "others may read .*\n.*\n.*mode 0600\n.*mode 0640\n.*chmod 600"),
        ("HF_TOKEN", b"\n", 0o600, "holds no value"),
        ("HF_TOKEN", b"abc", 0o600, "4 letters or more"),
        ("HF_TOKEN", b"abc\0d", 0o600, "holds no value"),
        ("HF_TOKEN", b"\xff", 0o600, "is not text"),
        ("HF-TOKEN", b"value", 0o600, "needs the name of a variable"),
        ("HF_TOKEN", None, 0o600, "cannot be read"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, mode, message):
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=message):
        secrets.check({name: str(path)})


def test_the_file_of_the_site_counts(tmp_path):
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    assert secrets.merged({"A": one, "B": one}, {"A": other}) == {"A": other, "B": one}
    assert secrets.merged({"A": "here"}, {}) == {"A": f"{Path.cwd()}/here"}


# Canaries


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "blab.yaml"
    job = {
        "entry": "secret_jobs.blab",
        "config": {"seen": str(tmp_path / "seen")},
        "inputs": {"lines": "lines"},
    }
    job["resources"] = {"max_attempts": 1}
    (tmp_path / "lines.txt").write_text("a line\n")
    values = {"name": "blab", "inputs": {"lines": str(tmp_path / "lines.txt")}, "jobs": {"blab": job}}
    path.write_text(yaml.safe_dump(values))
    return path


def tokenmill(*words: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tokenmill.cli", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "CANARY_API_KEY": CANARY_VARIABLE}
    return subprocess.run(program, capture_output=True, text=True, env=environment, timeout=120, check=False)


def assert_silent(run: Path, *outputs: str) -> None:
    """No file of the run and no output holds a canary, plain or as JSON or HTML has it."""
    texts = {str(path): path.read_bytes().decode() for path in run.rglob("*") if path.is_file()}
    assert len(texts) > 8
    texts |= {f"output {number}": text for number, text in enumerate(outputs)}
    for name, text in texts.items():
        for part in ("file canary", "5f1c", CANARY_VARIABLE):
            assert part not in text, (name, text)


@pytest.mark.parametrize("executor", ["local", "processes"])
@pytest.mark.parametrize("fail", [False, True])
def test_canaries_with_processes(tmp_path, recipe, executor, fail):
    path = secret_file(tmp_path / "canary")
    words = ("--set", f"secrets.CANARY_FILE={path}", "--set", f"jobs.blab.config.fail={str(fail).lower()}")
    run = tmp_path / "run"
    done = tokenmill("run", recipe, "--run-dir", run, "--executor", executor, *words)
    assert done.returncode == fail, done.stderr
    assert (tmp_path / "seen").read_text() == CANARY_FILE
    streams = (
        (done.stdout, done.stderr) if executor == "processes" else ()
    )  # local: the driver's own terminal
    logs = tokenmill("logs", run, "blab")
    assert "the secret is ***" in logs.stdout
    assert_silent(run, *streams, logs.stdout, tokenmill("status", run, "--json").stdout)
    if fail:
        assert "login with *** refused" in done.stderr
        assert "login with *** refused" in tokenmill("explain", run, "blab/0").stdout
    else:
        assert "***" in (run / "report.html").read_text()


def test_canaries_in_a_gang(tmp_path, recipe):
    path = secret_file(tmp_path / "canary")
    values = yaml.safe_load(recipe.read_text()) | {"secrets": {"CANARY_FILE": str(path)}}
    values["jobs"]["blab"] |= {"layout": "gang", "resources": {"tasks": 2}, "sharding": {"mode": "whole"}}
    recipe.write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    done = tokenmill("run", recipe, "--run-dir", run, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen").read_text() == CANARY_FILE
    assert_silent(run, done.stdout, done.stderr, tokenmill("logs", run, "blab").stdout)
    assert list(run.glob("jobs/*/exchange/*/outputs-1.json"))  # what ranks send lies in files as well


def test_a_secret_of_the_environment_is_hidden_too(tmp_path, recipe):
    run = tmp_path / "run"
    set_variable = ("--set", "jobs.blab.config.variable=CANARY_API_KEY")
    done = tokenmill("run", recipe, "--run-dir", run, "--workers", 1, *set_variable)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen").read_text() == CANARY_VARIABLE
    assert_silent(run, done.stdout, done.stderr)


def test_canaries_on_a_fake_cluster(tmp_path, recipe, fake_slurm, monkeypatch):
    path = secret_file(tmp_path / "canary")
    site = tmp_path / "site.yaml"
    site.write_text(
        f"environment: [PATH, FAKE_SLURM_STATE, FAKE_SLURM_PYTHON]\npoll_seconds: 0.2\n"
        f"variables: {{PYTHONPATH: '{HERE}'}}\nsecrets: {{CANARY_FILE: '{path}'}}\n"
    )
    run = tmp_path / "run"
    slurm = ("--executor", "slurm", "--site", site)
    planned = tokenmill("plan", recipe, "--run-dir", run, *slurm)
    assert planned.returncode == 0, planned.stderr
    done = tokenmill("run", recipe, "--run-dir", run, *slurm)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen").read_text() == CANARY_FILE
    assert_silent(run, planned.stdout, done.stdout, done.stderr)
    for file in fake_slurm.state.rglob("*"):
        assert not file.is_file() or b"canary" not in file.read_bytes().replace(str(path).encode(), b""), file
    path.chmod(0o644)
    again = tokenmill("resume", run)
    assert again.returncode == 1
    assert "others may read the file of a secret" in again.stderr


def test_a_secret_in_the_variables_of_a_site_is_refused(tmp_path, recipe, fake_slurm):
    site = tmp_path / "site.yaml"
    site.write_text(f"variables: {{PYTHONPATH: '{HERE}', HF_TOKEN: {CANARY_VARIABLE}}}\n")
    run = tmp_path / "run"
    done = tokenmill("run", recipe, "--run-dir", run, "--executor", "slurm", "--site", site)
    assert done.returncode == 1
    assert "site site, variables.HF_TOKEN" in done.stderr
    assert CANARY_VARIABLE not in done.stderr
    assert not run.exists()


def test_a_secret_that_workers_cannot_read_is_named(tmp_path, recipe, fake_slurm):
    site = tmp_path / "site.yaml"
    site.write_text(
        f"environment: [PATH, FAKE_SLURM_STATE, FAKE_SLURM_PYTHON]\npoll_seconds: 0.1\n"
        f"variables: {{PYTHONPATH: '{HERE}'}}\nsecrets: {{CANARY_FILE: '{tmp_path}/only-on-nodes'}}\n"
    )
    run = tmp_path / "run"
    done = tokenmill("run", recipe, "--run-dir", run, "--executor", "slurm", "--site", site)
    assert done.returncode == 1
    assert "the file of a secret cannot be read" in done.stderr


def test_mistakes_stop_the_run_before_it_starts(tmp_path, recipe, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    run = tmp_path / "run"
    words = ["run", str(recipe), "--run-dir", str(run), "--executor", "local"]
    for path, message in (
        (tmp_path / "none", "cannot be read"),
        (secret_file(tmp_path / "open", mode=0o604), "0604"),
    ):
        result = CliRunner().invoke(cli.app, [*words, "--set", f"secrets.CANARY_FILE={path}"])
        assert result.exit_code == 1
        assert message in result.stderr
        assert not run.exists()


def test_only_names_and_paths_are_recorded(tmp_path, recipe):
    path = secret_file(tmp_path / "canary")
    run = tmp_path / "run"
    tokenmill("run", recipe, "--run-dir", run, "--workers", 1, "--set", f"secrets.CANARY_FILE={path}")
    assert json.loads((run / "run.json").read_text())["recipe"]["secrets"] == {"CANARY_FILE": str(path)}
    assert secrets.files_of_run(str(run)) == {"CANARY_FILE": str(path)}
    [job] = (run / "jobs").iterdir()
    assert secrets.files_of_job(str(job)) == {"CANARY_FILE": str(path)}
    assert secrets.files_of_job(str(tmp_path)) == {}
