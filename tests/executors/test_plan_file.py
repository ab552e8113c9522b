"""The plan as a file, and tasks that end after so many shards."""

from pathlib import Path

import pytest
from ledgers import launch, make_run

from tokenmill import storage
from tokenmill.errors import InputError, StorageError
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.job import Job, Recipe, Resources, Shard, Sharding
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.plan import InputFile, make_plan
from tokenmill.executors.plan_file import dump_plan, load_header, load_plan
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.status import recipe_status

FILES = {
    "text": [InputFile(url=f"/x/{n}.jsonl", name=f"{n}.jsonl", num_bytes=100) for n in range(3)],
    "side": [InputFile(url="/y/a.json", name="a.json", num_bytes=5)],
}


def planned() -> list[Shard]:
    job = Job(name="j", entry="x.y", inputs={"text": "t", "side": "s"}, sharding=Sharding(target_bytes=50))
    return make_plan(job, FILES)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    url, shards = str(tmp_path / "plan.jsonl"), planned()
    storage.write_atomic(url, dump_plan({"identity": "a"}, shards, FILES))
    header, plan = load_plan(url)
    assert (header["identity"], header["num_shards"]) == ("a", 6)
    assert load_header(url) == header
    assert (len(plan), list(plan), plan[1:3], plan[-1]) == (6, shards, shards[1:3], shards[-1])
    with pytest.raises(IndexError):
        plan[6]


def test_only_the_shard_that_is_asked_for_is_parsed(tmp_path: Path) -> None:
    url = str(tmp_path / "plan.jsonl")
    first, *rows = dump_plan({"identity": "a"}, planned(), FILES).splitlines(keepends=True)
    rows[2] = b"{torn\n"
    storage.write_atomic(url, b"".join([first, *rows]))
    _, plan = load_plan(url)
    assert plan[3] == planned()[3]
    with pytest.raises(StorageError, match="a plan is damaged"):
        plan[2]


def test_a_missing_or_damaged_plan_is_said(tmp_path: Path) -> None:
    url = str(tmp_path / "plan.jsonl")
    with pytest.raises(InputError):
        load_plan(url)
    storage.write_atomic(url, b"{torn\n")
    for load in (load_plan, load_header):
        with pytest.raises(StorageError, match="a plan is damaged"):
            load(url)


def test_a_withdrawn_plan_is_not_remembered(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {"a": 3}, {})["a"]
    folder.ensure_plan()
    assert folder.num_shards() == 3
    folder.withdraw("plan.jsonl")
    assert folder.num_shards() is None


def test_one_task_of_a_launch_publishes_the_manifest(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {"a": 1}, {})["a"]
    token = launch(folder, "11111111").token
    assert not folder.finish(token)  # no plan
    folder.ensure_plan()
    assert not folder.finish(token)  # nothing done
    times = {"seconds": 1.0, "cpu_seconds": 1.0, "started": 0.0, "ended": 1.0}
    folder.commit({"shard": 0, "attempt": "a", "outputs": [], "counters": {}, "figures": [], **times})
    assert folder.finish(token)
    assert folder.manifest() is not None
    storage.remove(folder.at("manifest.json"))
    assert folder.finish(token)  # another task of the launch is about to
    assert folder.manifest() is None
    assert folder.finish(launch(folder, "22222222").token)
    assert folder.manifest() is not None


def tasks_of(folder: JobFolder) -> list[int]:
    """How many shards each task of each launch did."""
    done = [(record["launch"], record["task"]) for record in folder.attempts()]
    return sorted(done.count(task) for task in set(done))


@pytest.mark.parametrize(("most", "workers", "shares"), [(1, 8, [1] * 5), (3, 2, [2, 3])])
def test_a_task_ends_after_so_many_shards(
    text_folder: Path, tmp_path: Path, most: int, workers: int, shares: list[int]
) -> None:
    job = Job(
        name="numbered",
        entry="entries.numbered",
        inputs={"lines": "text"},
        sharding=Sharding(mode="count", count=5),
        resources=Resources(max_shards=most),
    )
    recipe = Recipe(name="r", inputs={"text": (str(text_folder),)}, jobs=(job,))
    run_recipe(recipe, str(tmp_path / "run"), ProcessesExecutor(workers))
    folder = JobFolder(recipe_status(str(tmp_path / "run"))[0].folder)
    assert len(folder.launch_order()) == 1
    assert tasks_of(folder) == shares


def test_what_is_left_by_tasks_that_ended_goes_to_another_launch(text_folder: Path, tmp_path: Path) -> None:
    job = Job(
        name="numbered",
        entry="entries.numbered",
        inputs={"lines": "text"},
        sharding=Sharding(mode="count", count=5),
        resources=Resources(max_shards=2),
    )
    recipe = Recipe(name="r", inputs={"text": (str(text_folder),)}, jobs=(job,))
    run_recipe(recipe, str(tmp_path / "run"), LocalExecutor())
    folder = JobFolder(recipe_status(str(tmp_path / "run"))[0].folder)
    assert (len(folder.launch_order()), tasks_of(folder)) == (3, [1, 2, 2])
