"""Tasks of a launch help each other out: with silent tasks, stragglers, and shards that end their tasks."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from entries import make_recipe
from test_executors import attempts, outputs, wait_for_workers

from tokenmill.errors import JobError
from tokenmill.executors.array import MANY_TASKS, MOST_HANDS, MOST_REFUSALS, _Sharer
from tokenmill.executors.attempt import Place
from tokenmill.executors.cancel import cancel_shard
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.job import Job, Recipe, Resources, Sharding
from tokenmill.executors.leases import Heart, Held, Observer, Overtaken, choose, straggler_seconds
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.status import recipe_status
from tokenmill.executors.stop import Stop


def only_upper(recipe: Recipe, **resources: Any) -> Recipe:
    upper = recipe.jobs[0]
    placed = Resources(**(vars(upper.resources) | resources))
    return Recipe(
        name=recipe.name, inputs=recipe.inputs, jobs=(Job(**(vars(upper) | {"resources": placed})),)
    )


def folder_of(run: Path) -> JobFolder:
    return JobFolder(recipe_status(str(run))[0].folder)


def in_thread(action: Any) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_the_shard_of_a_killed_task_is_taken_over_in_the_same_launch(
    text_folder: Path, tmp_path: Path
) -> None:
    recipe = only_upper(make_recipe(text_folder, shards=8, seconds=0.3))
    run_recipe(recipe, str(tmp_path / "reference"), LocalExecutor())
    run = tmp_path / "run"
    killer = in_thread(lambda: os.kill(wait_for_workers(run, 2)[0], signal.SIGKILL))
    run_recipe(recipe, str(run), ProcessesExecutor(3))
    killer.join()
    folder = folder_of(run)
    assert outputs(run) == outputs(tmp_path / "reference")
    assert len(folder.launch_order()) == 1
    [lost] = [record for record in attempts(run, "upper") if record["outcome"] not in ("done", "late")]
    leases = folder.leased(folder.launch_order()[0])
    assert leases[int(str(lost["shard"]))] == 1
    assert sum(leases.values()) == 1


def test_a_stopped_task_loses_its_shard_after_the_lease(text_folder: Path, tmp_path: Path) -> None:
    recipe = only_upper(make_recipe(text_folder, shards=6, seconds=0.2), lease_seconds=2.0)
    run = tmp_path / "run"
    frozen: list[int] = []

    def freeze() -> None:
        frozen.append(wait_for_workers(run, 2)[0])
        os.kill(frozen[0], signal.SIGSTOP)

    freezer = in_thread(freeze)
    try:
        run_recipe(recipe, str(run), ProcessesExecutor(2))
    finally:
        freezer.join()
    with pytest.raises(ProcessLookupError):  # it does not outlive the run, or the driver would wait for it
        os.kill(frozen[0], signal.SIGKILL)
    assert folder_of(run).done() == set(range(6))
    assert len(folder_of(run).launch_order()) == 1


def test_a_straggler_is_tried_twice_and_interrupted(text_folder: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()  # the first to come is slow: it removes the flag and sleeps
    recipe = only_upper(
        make_recipe(text_folder, shards=10, seconds=0.05, slow_flag=str(flag), slow_seconds=60.0),
        lease_seconds=3.0,
    )
    run = tmp_path / "run"
    started = time.monotonic()
    run_recipe(recipe, str(run), ProcessesExecutor(2))
    assert time.monotonic() - started < 50  # not the 60 s of the straggler
    tried = attempts(run, "upper")
    assert len(tried) == 11
    deadline = time.monotonic() + 20
    while not any(record["outcome"] == "late" for record in attempts(run, "upper")):
        assert time.monotonic() < deadline, "the straggler was not interrupted"
        time.sleep(0.05)
    data = {path.name.split(".")[1] for path in Path(folder_of(run).at("data")).rglob("*.jsonl")}
    assert data == {str(record["attempt"]) for record in folder_of(run).commits()}


def test_a_task_that_only_fails_leaves_the_rest_to_others(text_folder: Path, tmp_path: Path) -> None:
    recipe = only_upper(make_recipe(text_folder, shards=40, fail_on="", broken=True))
    with pytest.raises(JobError, match="of 40 shards failed: shard"):
        run_recipe(recipe, str(tmp_path / "run"), ProcessesExecutor(2))
    assert len(attempts(tmp_path / "run", "upper")) < 40


def test_out_of_memory_is_tried_with_more_of_it_up_to_a_cap(text_folder: Path, tmp_path: Path) -> None:
    recipe = only_upper(
        make_recipe(text_folder, shards=3, hungry_on="line 0 000"),
        memory_bytes=100_000_000,
        max_memory_bytes=200_000_000,
    )
    run = tmp_path / "run"
    with pytest.raises(JobError, match=r"out of memory with 0\.2 GB; raise max_memory_bytes"):
        run_recipe(recipe, str(run), ProcessesExecutor(1))
    failed = [record for record in attempts(run, "upper") if record["shard"] == 0]
    assert [record["memory_bytes"] for record in failed] == [100_000_000, 150_000_000, 200_000_000]
    assert {record["class"] for record in failed} == {"oom"}
    assert folder_of(run).done() == {1, 2}


def test_a_shard_that_ends_its_tasks_is_set_aside(text_folder: Path, tmp_path: Path) -> None:
    recipe = only_upper(make_recipe(text_folder, shards=5, deadly_on="line 0 000"), max_lost=3)
    run = tmp_path / "run"
    with pytest.raises(JobError, match=r"its tasks ended 3 times before it was done"):
        run_recipe(recipe, str(run), ProcessesExecutor(2))
    assert folder_of(run).done() == {1, 2, 3, 4}
    lost = [record for record in attempts(run, "upper") if record["shard"] == 0]
    assert [record["outcome"] for record in lost] == ["lost"] * 3
    run_recipe(make_recipe(text_folder, shards=5), str(tmp_path / "other"), LocalExecutor())


def test_who_is_helped_first() -> None:
    held = [
        Held(shard=1, generation=0, is_silent=False, seconds=9.0),
        Held(shard=2, generation=1, is_silent=False, seconds=99.0),
        Held(shard=3, generation=0, is_silent=False, seconds=12.0),
    ]
    assert choose(held, 10.0) == held[2]
    assert choose(held, 20.0) is None
    silent = Held(shard=4, generation=2, is_silent=True, seconds=0.0)
    assert choose([*held, silent], 10.0) == held[2]  # three tasks of this launch fell silent over it
    silent = Held(shard=4, generation=1, is_silent=True, seconds=0.0)
    assert choose([*held, silent], 10.0) == silent


def test_from_when_on_a_shard_is_a_straggler() -> None:
    assert straggler_seconds([1.0, 1.0]) == float("inf")
    assert straggler_seconds([1.0] * 99 + [50.0]) == 3.0
    assert straggler_seconds([0.001] * 50) == 0.5


def test_silence_is_measured_by_the_observers_own_clock(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path))
    folder.write_job(Job(name="j", entry="x.y"), "0" * 64, {})
    observer = Observer(folder, "one", lease_seconds=0.2)
    elsewhere = {"task": 0, "state": "working", "machine": "another", "pid": 1, "process_started": "1"}
    assert not observer.is_silent(0, elsewhere | {"number": 1})
    time.sleep(0.3)
    assert not observer.is_silent(0, elsewhere | {"number": 2})
    time.sleep(0.3)
    assert observer.is_silent(0, elsewhere | {"number": 2})
    assert observer.is_silent(1, elsewhere | {"number": 9, "state": "ended"})
    gone = elsewhere | {"number": 3, "machine": observer._machine, "pid": 2**22 - 1}
    assert observer.is_silent(2, gone)


def test_how_long_a_shard_is_held_is_told_by_the_stores_clock(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path))
    folder.write_job(Job(name="j", entry="x.y"), "0" * 64, {})
    folder.lease("one", 3, {"task": 7})
    lease = Path(folder.at("leases/one/00003.json"))
    folder.write_beat("one", {"task": 0, "state": "idle"})
    own = Path(folder.at("heartbeats/one/0.json"))
    for path, moment in ((lease, 1_000.0), (own, 1_040.0)):  # a store whose clock is decades behind
        os.utime(path, (moment, moment))
    observer = Observer(folder, "one", lease_seconds=60.0)
    assert observer.held({3})[0].seconds < 1.0
    observer.set_clock(0)
    assert 40.0 <= observer.held({3})[0].seconds < 45.0


def test_a_heart_interrupts_only_what_may_be_interrupted(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path))
    folder.write_job(Job(name="j", entry="x.y", resources=Resources(lease_seconds=0.3)), "0" * 64, {})
    folder.commit({"shard": 4})
    with Heart(folder, "one", 0, "here") as heart, heart.working_on(4):
        time.sleep(0.2)  # a commit, say: nothing happens
        with pytest.raises(Overtaken), heart.interruptible():
            time.sleep(30)
        beat = folder.beat("one", 0)
        assert beat is not None
        assert (beat["shard"], beat["state"]) == (4, "working")
    ended = folder.beat("one", 0)
    assert ended is not None
    assert ended["state"] == "ended"
    assert ended["number"] > beat["number"]


def test_a_cancelled_shard_is_interrupted_and_the_others_go_on(text_folder: Path, tmp_path: Path) -> None:
    recipe = only_upper(
        make_recipe(text_folder, shards=6, slow_flag=str(tmp_path / "flag"), slow_seconds=60.0),
        lease_seconds=2.0,
    )
    (tmp_path / "flag").touch()
    run = tmp_path / "run"
    said: list[str] = []

    def cancel_it() -> None:
        wait_for_workers(run, 1)
        [slow] = [record["shard"] for record in attempts(run, "upper") if record["outcome"] == "running"]
        said.append(cancel_shard(str(run), f"upper/{slow}"))

    thread = in_thread(cancel_it)
    with pytest.raises(JobError, match=r"1 of 6 shards failed: shard \d: cancelled by hand"):
        run_recipe(recipe, str(run), ProcessesExecutor(1))
    thread.join()
    assert "set aside" in said[0]
    run_recipe(recipe, str(run), ProcessesExecutor(1), retry_failed=True)
    assert folder_of(run).done() == set(range(6))
    assert cancel_shard(str(run), "upper/0") == "upper/0: it is done already"


def test_leases_are_listed_again_when_others_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = JobFolder(str(tmp_path))
    folder.write_job(Job(name="j", entry="x.y", sharding=Sharding(mode="count", count=60)), "0" * 64, {})
    sharer = _Sharer(folder, Place(launch="one", num_tasks=2), Stop(), Heart(folder, "one", 0, "here"))
    shards = sharer._leases()
    assert [next(shards).index, next(shards).index] == [0, 1]  # the second one was listed
    for index in range(2, 50):
        assert folder.lease("one", index, {"task": 1})
    tried: list[int] = []
    lease = folder.lease
    monkeypatch.setattr(
        folder, "lease", lambda launch, index, holder: tried.append(index) or lease(launch, index, holder)
    )
    assert [shard.index for shard in shards] == list(range(50, 60))
    assert tried == [*range(2, 2 + MOST_REFUSALS), *range(50, 60)]


def test_of_many_tasks_a_few_wait(tmp_path: Path) -> None:
    folder = JobFolder(str(tmp_path))
    folder.write_job(Job(name="j", entry="x.y"), "0" * 64, {})

    def stay(num_held: int) -> list[bool]:
        launch = f"l{num_held}"
        places = [Place(launch=launch, index=index, num_tasks=MANY_TASKS + 1) for index in range(20)]
        hearts = [Heart(folder, launch, place.index, "here") for place in places]
        pairs = zip(places, hearts, strict=True)
        return [not _Sharer(folder, place, Stop(), heart)._are_enough(num_held) for place, heart in pairs]

    assert sum(stay(3)) == 3
    assert stay(100) == [True] * MOST_HANDS + [False] * (20 - MOST_HANDS)
    assert folder.launch_order() == []
