"""Runs whose folder and input lie on object stores that fail as object stores do."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
from entries import make_recipe
from ledgers import attempt, commit, launch, make_run
from test_executors import outputs

from tokenmill import storage
from tokenmill.executors import attempt as attempts
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.gc import gc, totals
from tokenmill.executors.job import Recipe
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.status import folders_of

ONE_PART = bytes(9 << 20)


def only(recipe: Recipe, *names: str) -> Recipe:
    """A recipe with some of its jobs."""
    return dataclasses.replace(recipe, jobs=tuple(job for job in recipe.jobs if job.name in names))


def test_a_run_amid_faults_gives_the_same_bytes(
    s3_proxy: Any, s3_url: str, text_folder: Path, tmp_path: Path
) -> None:
    recipe = only(make_recipe(text_folder, shards=5), "upper", "count")
    run_recipe(recipe, str(tmp_path / "run"), LocalExecutor())
    for path in text_folder.iterdir():
        storage.write_atomic(storage.join(s3_url, "input", path.name), path.read_bytes())
    far = dataclasses.replace(recipe, inputs={"text": (storage.join(s3_url, "input"),)})
    s3_proxy.spoil(importlib.import_module("s3_proxy").Faults(refused=0.1, reset=0.05, cut=0.02, seed=3))
    run = storage.join(s3_url, "run")
    run_recipe(far, run, LocalExecutor())
    assert outputs(run) == outputs(tmp_path / "run")  # type: ignore[arg-type]  # a URL does as well
    upper = folders_of(run)["upper"]
    assert {record["outcome"] for record in upper.attempts()} == {"done"}, "no false loser"
    assert all(record["requests"]["put"] >= 2 for record in upper.attempts())
    gc(run, LocalExecutor())
    assert storage.list_uploads(run) == []
    assert outputs(run) == outputs(tmp_path / "run")  # type: ignore[arg-type]


def test_a_loser_leaves_its_data_where_the_store_cannot_decide(
    s3_proxy: Any, s3_url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(storage.join(s3_url, "run"), {"sleep": 1}, {})["sleep"]  # type: ignore[arg-type]
    [shard] = folder.ensure_plan()
    monkeypatch.setattr(attempts, "_work_and_commit", lose)
    place = attempts.Place(launch="aaaa")
    assert attempts.run_attempt(folder, shard, place, lambda: False) == "late"
    left = storage.list_files(folder.at("data"))
    assert len(left) == (0 if "seaweed" in request.node.name else 1)
    assert totals(gc(storage.join(s3_url, "run"), LocalExecutor())).get("data", (0, 0))[0] == len(left)


def lose(folder: JobFolder, task: Any, *_: Any) -> str:
    """What an attempt does that comes too late."""
    with task.output(f"port/{task.shard_name}.bin") as file:
        file.write(b"late")
    storage.publish_once(folder.done_url(0), storage.dump_json(done("bbbb-1")))
    return "late"


def done(name: str) -> dict[str, Any]:
    times = {"started": 0.0, "ended": 1.0, "seconds": 1.0, "cpu_seconds": 1.0}
    return {"shard": 0, "attempt": name, "outputs": [], "counters": {}, "figures": [], "inputs": ""} | times


def test_gc_aborts_uploads_that_nobody_completes(
    s3_proxy: Any, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = storage.join(s3_url, "run")
    folder = make_run(run, {"upper": 2}, {})["upper"]  # type: ignore[arg-type]
    folder.ensure_plan()
    launch(folder, "dead")
    attempt(folder, 0, "dead-1", "error")
    attempt(folder, 0, "dead-2", "running")  # perhaps a process on a lost node
    writers = []
    for name in ("data/port/00000.dead-1.bin", "data/port/00000.dead-2.bin", "progress/step-1/weights"):
        writers.append(storage.create(folder.at(name)))
        writers[-1].write(ONE_PART)

    def swept() -> list[str]:
        found = [orphan for orphan in gc(run, LocalExecutor()) if orphan.kind == "upload"]
        return sorted(orphan.url.removeprefix(folder.url + "/") for orphan in found)

    assert swept() == ["data/port/00000.dead-1.bin"]
    assert len(storage.list_uploads(run)) == 2
    commit(folder, 0, "dead-3")
    assert swept() == ["data/port/00000.dead-2.bin"]
    assert swept() == []
    monkeypatch.setattr("tokenmill.executors.gc._OLD_UPLOAD_SECONDS", -1.0)
    assert swept() == ["progress/step-1/weights"]
    assert storage.list_uploads(run) == []
    for writer in writers:
        writer.discard()
