"""The records: death at any write, merging, and stores other than local folders."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from entries import make_recipe
from test_executors import outputs

from tokenmill import storage
from tokenmill.errors import InputError, StorageError, VersionError
from tokenmill.executors.commits import merge_commits
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.graph import lay_out
from tokenmill.executors.job import Job, Recipe
from tokenmill.executors.ledger import JobFolder, Source, input_files
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.status import recipe_status


class Killed(BaseException):
    """Stands for kill -9: no ``except Exception`` sees it."""


@pytest.fixture
def small(text_folder: Path) -> Recipe:
    """upper in three shards, then count; no gang, so that everything happens in this process."""
    recipe = make_recipe(text_folder, shards=3)
    return Recipe(name=recipe.name, inputs=recipe.inputs, jobs=recipe.jobs[:2])


WRITES = ("write_atomic", "publish_once", "create")


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, bool], None]]:
    """Die at the n-th write: before it, or right after it."""

    def arrange(number: int, after: bool) -> None:
        monkeypatch.undo()
        count = 0

        def wrapped(write: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == number and not after:
                    raise Killed
                result = write(*args, **options)
                if count == number:
                    raise Killed
                return result

            return call

        for name in WRITES:
            monkeypatch.setattr(storage, name, wrapped(getattr(storage, name)))

    yield arrange
    monkeypatch.undo()


@pytest.mark.parametrize("after", [False, True])
def test_death_at_any_write_costs_nothing(
    small: Recipe,
    tmp_path: Path,
    after: bool,
    kill_at: Callable[[int, bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_recipe(small, str(tmp_path / "reference"), LocalExecutor())
    wanted = outputs(tmp_path / "reference")
    deaths = 0
    for number in range(1, 200):
        run = tmp_path / f"run{number}"
        kill_at(number, after)
        try:
            run_recipe(small, str(run), LocalExecutor())
            break
        except Killed:
            deaths += 1
        monkeypatch.undo()
        run_recipe(small, str(run), LocalExecutor())
        assert outputs(run) == wanted, f"died at write {number}"
    assert deaths > 25, "fewer writes than a run makes: the test kills nothing"


@pytest.mark.parametrize("protocol", ["memory", "s3"])
def test_a_run_on_an_object_store(
    small: Recipe, tmp_path: Path, protocol: str, request: pytest.FixtureRequest
) -> None:
    run_recipe(small, str(tmp_path / "reference"), LocalExecutor())
    base = f"memory://{uuid.uuid4().hex}" if protocol == "memory" else request.getfixturevalue("s3_base")
    url = storage.join(base, "run")
    run_recipe(small, url, LocalExecutor())
    found: dict[str, str] = {}
    for status in recipe_status(url):
        manifest = JobFolder(status.folder).manifest()
        assert manifest
        found |= {f"{status.name}/{output['name']}": output["sha256"] for output in manifest["outputs"]}
    assert found == outputs(tmp_path / "reference")


def commit(shard: int, name: str) -> dict[str, Any]:
    return {
        "shard": shard,
        "outputs": [{"name": name, "path": f"data/{name}", "bytes": 1, "sha256": "0"}],
        "counters": {"n": shard},
        "figures": [],
        "seconds": 1.0,
        "cpu_seconds": 0.5,
        "started": 10.0 + shard,
        "ended": 11.0 + shard,
    }


RECORD = {"format": 1, "tokenmill": "1", "identity": "x", "job": {"name": "j"}}


def test_manifests_merge_in_order_of_names() -> None:
    manifest = merge_commits(RECORD, [commit(0, "b"), commit(1, "a")])
    assert [output["name"] for output in manifest["outputs"]] == ["a", "b"]
    assert (manifest["counters"], manifest["seconds"]) == ({"n": 1}, 2.0)
    assert (manifest["started"], manifest["ended"]) == (10.0, 12.0)


def test_two_shards_may_not_write_one_name() -> None:
    with pytest.raises(StorageError, match="two shards wrote an output of the same name"):
        merge_commits(RECORD, [commit(0, "a"), commit(1, "a")])


def test_the_first_commit_wins(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path))
    assert folder.commit({"shard": 5, "attempt": "first"})
    assert not folder.commit({"shard": 5, "attempt": "second"})
    assert [record["attempt"] for record in folder.commits()] == ["first"]
    assert folder.done() == {5}


def test_leases_belong_to_a_launch(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path))
    assert folder.lease("one", 3, {})
    assert not folder.lease("one", 3, {})
    assert folder.lease("two", 3, {})
    assert folder.leased("one") == {3: 0}
    assert folder.lease("one", 3, {"task": 1}, generation=1)
    assert not folder.lease("one", 3, {"task": 2}, generation=1)
    assert folder.leased("one") == {3: 1}
    assert folder.holder("one", 3, 1) == {"task": 1}


def test_a_child_does_not_read_an_incomplete_parent(small: Recipe, tmp_path: Path) -> None:
    nodes = lay_out(small, str(tmp_path))
    for node in nodes.values():
        node.folder.write_job(node.job, node.identity, node.sources)
    nodes["upper"].folder.ensure_plan()
    with pytest.raises(InputError, match="0 of 3 shards done"):
        nodes["count"].folder.ensure_plan()
    assert not storage.exists(nodes["count"].folder.at("plan.jsonl"))


def test_names_of_inputs_do_not_depend_on_where_they_lie(tmp_path: Path) -> None:
    for base in ("x", "y/z"):
        for name in ("crawl/a/1.jsonl", "crawl/b/1.jsonl"):
            (tmp_path / base / name).parent.mkdir(parents=True)
            (tmp_path / base / name).write_text("{}\n")
    names = [
        [file.name for file in input_files(Source(paths=(str(tmp_path / base),)), "in")]
        for base in ("x", "y/z")
    ]
    assert names == [["a/1.jsonl", "b/1.jsonl"]] * 2


def test_a_folder_of_another_format_is_refused(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path))
    folder.write_job(Job(name="j", entry="x.y"), "0" * 64, {})
    path = tmp_path / "job.yaml"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(VersionError, match="expected: format 1"):
        _ = JobFolder(str(tmp_path)).job


def test_a_job_survives_its_record(tmp_path: Path) -> None:
    job = Job(name="j", entry="x.y", config={"a": [1, {"b": None}]}, inputs={"i": "k.port"}, after=("k",))
    sources = {"i": Source(folder="/run/jobs/k-1", port="port")}
    folder = JobFolder(str(tmp_path))
    folder.write_job(job, "0" * 64, sources)
    assert (JobFolder(str(tmp_path)).job, JobFolder(str(tmp_path)).sources) == (job, sources)
