"""tools/test itself: what it leaves out, and how it ends."""

import argparse
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools/test"))


@pytest.mark.parametrize(
    ("slow", "slurm", "gpu", "expected", "skipped"),
    [
        (False, True, False, "not slow and not gpu and not multigpu", 2),
        (True, False, True, "not slurm", 0),
        (True, True, True, "slurm or not slurm", 0),
    ],
)
def test_what_is_left_out_is_said(
    program: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    slow: bool,
    slurm: bool,
    gpu: bool,
    expected: str,
    skipped: int,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name if gpu else None)
    outcome = program["Outcome"]()
    assert program["markers"](argparse.Namespace(all=slow), slurm, outcome) == expected
    assert len(outcome.skipped) == skipped


def test_a_part_keeps_its_status_and_last_line(
    program: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = program["Outcome"]()
    assert outcome.part("good", [sys.executable, "-c", "print('1 passed in 0.1s')"])
    assert not outcome.part("bad", [sys.executable, "-c", "print('x'); print(); raise SystemExit(3)"])
    assert [row[:2] for row in outcome.rows] == [("good", True), ("bad", False)]
    assert outcome.closing_line == "x"
    assert "1 passed" in capfd.readouterr().out


def test_programs_without_an_ending_are_found(program: dict[str, Any]) -> None:
    found = program["programs"]()
    assert {
        "tools/test",
        "tools/check_floors",
        "slurm/local_cluster/start",
        "slurm/local_cluster/stop",
    } <= set(found)
    assert all((ROOT / path).read_text().startswith("#!/usr/bin/env python3\n") for path in found)


def test_a_cluster_with_large_arrays_will_not_do(
    program: dict[str, Any], fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not program["cluster_answers"]()
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    assert not program["cluster_answers"]()
    fake_slurm.configure(max_array_size=11)
    assert program["cluster_answers"]()


@pytest.mark.parametrize("words", [["--bogus"], ["--workers", "many"], ["--no-slurm", "--need-slurm"]])
def test_wrong_options_are_refused(words: list[str]) -> None:
    command = [sys.executable, str(ROOT / "tools/test"), *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "usage:" in result.stderr
