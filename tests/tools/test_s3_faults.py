"""tools/s3_faults judges what it finds: each kind of damage fails its line, and no other."""

import importlib
import importlib.util
from collections import Counter
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
WANTED = {"extract/documents/0": "aa", "extract/documents/1": "bb"}


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    loader = SourceFileLoader("s3_faults", str(TOOLS / "s3_faults"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(importlib.import_module("sys").modules, "s3_faults", module)
    loader.exec_module(module)
    return module


def failed(program: Any, **changed: Any) -> set[str]:
    """Lines that are not ok when the run amid faults differs in this from one that is as it should be."""
    good = {"seconds": 1.0, "outputs": WANTED, "requests": {"put": 100}}
    calm = program.Found(**good)
    faults = program.Found(**(good | {"requests": {"put": 130}} | changed))
    rows = program.rows_of("seaweed", WANTED, {"calm": calm, "faults": faults})
    return {row["work"] for row in rows if not row["ok"]}


def test_what_is_right_passes(program: Any) -> None:
    assert failed(program) == set()


def test_every_damage_is_seen(program: Any) -> None:
    outputs = "outputs on seaweed, faults"
    assert failed(program, outputs=WANTED | {"extract/documents/1": "xx"}) == {outputs}
    assert failed(program, outputs={"extract/documents/0": "aa"}) == {outputs}
    assert failed(program, outputs=WANTED | {"more": "cc"}) == {outputs}
    assert failed(program, requests={"put": 90, "get": 41}) == {"requests on seaweed, faults"}
    assert failed(program, false_losers=1) == {"false losers on seaweed"}
    assert failed(program, uploads=1) == {"uploads left on seaweed after gc"}


def test_a_false_loser_is_one_that_won_or_whom_nobody_beat(program: Any) -> None:
    commits = [{"shard": 0, "attempt": "a"}, {"shard": 1, "attempt": "b"}]
    attempts = [
        {"shard": 0, "attempt": "a", "outcome": "late"},
        {"shard": 1, "attempt": "a", "outcome": "late"},
        {"shard": 1, "attempt": "b", "outcome": "done"},
        {"shard": 2, "attempt": "c", "outcome": "late"},
    ]
    folder = SimpleNamespace(commits=lambda: commits, attempts=lambda: attempts)
    assert program.false_losers(folder) == 2
    assert program.Found(seconds=0.0, outputs={}).attempts == Counter()
