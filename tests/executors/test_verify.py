"""Damage is found, all of it and nothing else; repair re-runs just what is damaged."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entries import lab_site, make_recipe
from repair_jobs import make_chain
from test_executors import attempts, outputs

from tokenmill import storage
from tokenmill.errors import ConfigError, IdentityError, InputError
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.gc import gc, totals
from tokenmill.executors.job import Recipe
from tokenmill.executors.launch import Executor
from tokenmill.executors.leases import start_time
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.status import folders_of
from tokenmill.executors.verify import Damage, repair, verify

JOBS = ("mark", "again", "count", "grow")


@pytest.fixture
def chain(text_folder: Path, tmp_path: Path) -> Recipe:
    return make_chain(text_folder, tmp_path / "secret")


@pytest.fixture
def run(chain: Recipe, tmp_path: Path) -> Path:
    """A complete run."""
    run_recipe(chain, str(tmp_path / "run"), LocalExecutor())
    return tmp_path / "run"


def folder_of(run: Path, job: str) -> JobFolder:
    return folders_of(str(run), job)[job]


def file_of(run: Path, job: str, name: str) -> Path:
    """The file behind a logical name."""
    manifest = folder_of(run, job).manifest()
    assert manifest is not None
    [path] = [output["path"] for output in manifest["outputs"] if output["name"] == name]
    return Path(folder_of(run, job).at(path))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def found(run: Path) -> list[tuple[str, int | None, str]]:
    damages = verify(str(run)).damages
    return [(damage.job, damage.shard, damage.problem.split(";")[0].split(":")[0]) for damage in damages]


def num_attempts(run: Path) -> dict[str, int]:
    return {job: len(attempts(run, job)) for job in JOBS}


def test_a_whole_run_has_no_damage(run: Path) -> None:
    seen: list[int] = []
    verification = verify(str(run), on_progress=lambda so_far: seen.append(so_far.num_files))
    files = outputs(run)
    assert (verification.damages, verification.num_files) == ([], len(files))
    sizes = [path.stat().st_size for path in run.glob("jobs/*/data/**/*") if path.is_file()]
    assert verification.num_bytes >= sum(sizes) > 0
    assert seen == sorted(seen)
    assert len(seen) >= len(files)
    assert verify(str(run), "count").num_files == 1
    with pytest.raises(ConfigError, match="did you mean 'count'"):
        verify(str(run), "cont")
    with pytest.raises(InputError, match="no run in this folder"):
        verify(str(run / "jobs"))


def test_truncated_and_deleted_files_are_found_and_just_they_are_made_again(run: Path, chain: Recipe) -> None:
    wanted, before = outputs(run), num_attempts(run)
    truncate(file_of(run, "mark", "lines/00002.jsonl"))
    file_of(run, "mark", "lines/00004.jsonl").unlink()
    damages = verify(str(run)).damages
    assert [(damage.shard, damage.file.rsplit("/", 1)[-1][:6]) for damage in damages] == [
        (2, "00002."),
        (4, "00004."),
    ]
    assert damages[0].problem.startswith("has the wrong size: ")
    assert damages[1].problem == "is gone"
    sentences = repair(str(run), damages, LocalExecutor())
    assert sentences[0] == "mark: commits of shards 2, 4 withdrawn"
    assert [sentence.split(":")[0] for sentence in sentences] == ["mark", "again", "count", "grow"]
    assert folder_of(run, "mark").done() == {0, 1, 3, 5}
    assert verify(str(run)).damages == []
    run_recipe(chain, str(run), LocalExecutor())
    assert outputs(run) == wanted
    after = num_attempts(run)
    assert after == before | {"mark": before["mark"] + 2}  # the same bytes: nothing downstream is run
    tried = sorted(int(str(record["shard"])) for record in attempts(run, "mark"))
    assert tried == [0, 1, 2, 2, 3, 4, 4, 5]
    assert verify(str(run)).damages == []
    assert len(folder_of(run, "mark").launch_order()) == 2
    assert len(folder_of(run, "again").launch_order()) == 1


def test_other_bytes_are_passed_on_downstream(run: Path, chain: Recipe, tmp_path: Path) -> None:
    before = num_attempts(run)
    flip(file_of(run, "mark", "lines/00000.jsonl"))
    damages = verify(str(run)).damages
    assert [damage.shard for damage in damages] == [0]
    assert "has changed" in damages[0].problem
    repair(str(run), damages, LocalExecutor())
    (tmp_path / "secret").write_text("not the same as last time")
    run_recipe(chain, str(run), LocalExecutor())
    assert num_attempts(run) == {
        "mark": before["mark"] + 1,
        "again": before["again"] + 7,  # a larger input is cut anew
        "count": before["count"] + 1,
        "grow": before["grow"] + 1,
    }
    assert json.loads(file_of(run, "count", "count/count.json").read_bytes()) == {"lines": 601}
    assert verify(str(run)).damages == []
    run_recipe(chain, str(tmp_path / "fresh"), LocalExecutor())
    assert outputs(run) == outputs(tmp_path / "fresh")  # the old checkpoints were not gone on from


def test_progress_of_an_unfinished_gang_stays_if_its_inputs_do(
    run: Path, chain: Recipe, tmp_path: Path
) -> None:
    wanted = outputs(run)
    for changed in (False, True):
        grow = folder_of(run, "grow")
        first = Path(grow.at("progress", "step-000001", "weights.bin"))
        inode = first.stat().st_ino
        grow.withdraw_commit(0)
        grow.withdraw("manifest.json")
        file_of(run, "mark", "lines/00000.jsonl").unlink()
        repair(str(run), verify(str(run)).damages, LocalExecutor())
        if changed:
            (tmp_path / "secret").write_text("other")
        run_recipe(chain, str(run), LocalExecutor())
        assert (outputs(run) == wanted) is not changed
        assert (first.read_bytes().startswith(b"other")) is changed
        assert changed or first.stat().st_ino == inode


def test_every_file_of_every_job_and_every_kind_of_damage_is_found(run: Path, chain: Recipe) -> None:
    wanted = outputs(run)
    expected: list[tuple[str, int | None]] = []
    kinds: tuple[Callable[[Path], None], ...] = (truncate, flip, Path.unlink)
    number = 0
    for job, folder in folders_of(str(run)).items():
        for commit in folder.commits():
            for output in commit["outputs"]:
                kinds[number % 3](Path(folder.at(output["path"])))
                expected.append((job, commit["shard"]))
                number += 1
    damages = verify(str(run)).damages
    assert [(damage.job, damage.shard) for damage in damages] == expected
    assert len(expected) == len(wanted) == 15
    repair(str(run), damages, LocalExecutor())
    run_recipe(chain, str(run), LocalExecutor())
    assert outputs(run) == wanted


def spoil_json(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


RECORDS: list[tuple[str, Callable[[Path], None], list[tuple[str, int | None, str]]]] = [
    ("done/00000/00003.json", spoil_json, [("again", 3, "cannot be read")]),
    ("done/00000/00003.json", Path.unlink, [("again", None, "stands, with 5 of 6 commit records")]),
    ("manifest.json", spoil_json, [("again", None, "cannot be made or read")]),
    ("plan.jsonl", spoil_json, [("again", None, "cannot be read")]),
    ("plan.jsonl", Path.unlink, [("again", None, "is gone")]),
]


@pytest.mark.parametrize(("name", "spoil", "expected"), RECORDS)
def test_damaged_records_are_found_and_mended(
    run: Path,
    chain: Recipe,
    name: str,
    spoil: Callable[[Path], None],
    expected: list[tuple[str, int | None, str]],
) -> None:
    wanted, before = outputs(run), num_attempts(run)
    spoil(Path(folder_of(run, "again").at(name)))
    assert [damage for damage in found(run) if "agree" not in damage[2]] == expected
    repair(str(run), verify(str(run)).damages, LocalExecutor())
    run_recipe(chain, str(run), LocalExecutor())
    assert outputs(run) == wanted
    assert verify(str(run)).damages == []
    again = 1 if name.startswith("done") else 0
    assert num_attempts(run) == before | {"again": before["again"] + again}


def rewrite(path: Path, **values: Any) -> None:
    path.write_bytes(storage.dump_json(json.loads(path.read_bytes()) | values))


def test_records_that_do_not_agree_are_found(run: Path) -> None:
    again, count = folder_of(run, "again"), folder_of(run, "count")
    rewrite(Path(again.at("manifest.json")), counters={"lines": 7})
    assert found(run) == [("again", None, "does not agree with the commit records")]
    again.withdraw("manifest.json")
    again.publish_manifest()
    assert found(run) == []
    rewrite(Path(again.done_url(1)), identity="another")
    assert found(run) == [("again", 1, "belongs to another shard or job")]
    rewrite(Path(again.done_url(1)), identity=again.record["identity"])
    plan = Path(count.at("plan.jsonl"))
    header, row = (json.loads(line) for line in plan.read_text().splitlines())
    plan.write_bytes(storage.dump_json(header | {"inputs": "0"}) + storage.dump_json(row))
    assert found(run) == [("count", None, "was made from other outputs than those of again")]
    header["files"]["lines"].pop()
    plan.write_bytes(storage.dump_json(header) + storage.dump_json(row))
    assert found(run) == [("count", None, "was made from other outputs than those of again")]
    plan.write_bytes(storage.dump_json(header | {"num_shards": 2}) + storage.dump_json(row))
    assert found(run) == [("count", None, "holds 1 shards")]


def test_an_unfinished_run_is_verified_too(text_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(text_folder, shards=3, fail_on="line 0 000")
    with pytest.raises(Exception, match="the run is not complete"):
        run_recipe(recipe, str(tmp_path / "run"), LocalExecutor())
    assert verify(str(tmp_path / "run")).num_files == 2
    [first, _] = folder_of(tmp_path / "run", "upper").commits()
    flip(Path(folder_of(tmp_path / "run", "upper").at(first["outputs"][0]["path"])))
    assert found(tmp_path / "run") == [("upper", 1, "has changed")]


def test_repair_leaves_a_living_run_alone(run: Path) -> None:
    damage = Damage(job="mark", shard=0, file="x", problem="is gone")
    driver = {"host": socket.gethostname(), "pid": os.getpid(), "started": start_time(os.getpid())}
    (run / "driver.json").write_bytes(storage.dump_json(driver))
    with pytest.raises(IdentityError, match="a driver works on this run"):
        repair(str(run), [damage], LocalExecutor())
    (run / "driver.json").unlink()

    class Queue(ProcessesExecutor):
        queues = True

        def live(self, launches: Any) -> set[str]:
            return {launches[0].token}

    with pytest.raises(IdentityError, match="1 launches in the queue"):
        repair(str(run), [damage], Queue(1))
    assert folder_of(run, "mark").manifest() is not None


def test_on_an_object_store(text_folder: Path, tmp_path: Path, s3_base: str) -> None:
    recipe = make_chain(text_folder, tmp_path / "secret")
    url = storage.join(s3_base, "run")
    run_recipe(recipe, url, LocalExecutor())
    mark = folders_of(url)["mark"]
    files = {commit["shard"]: mark.at(commit["outputs"][0]["path"]) for commit in mark.commits()}
    storage.remove(files[1])
    storage.write_atomic(files[3], storage.read_bytes(files[3])[:-1])
    damages = verify(url).damages
    assert [(damage.shard, damage.problem[:17]) for damage in damages] == [
        (1, "is gone"),
        (3, "has the wrong siz"),
    ]
    repair(url, damages, LocalExecutor())
    run_recipe(recipe, url, LocalExecutor())
    assert verify(url).damages == []
    assert {record["shard"]: record["attempt"] for record in mark.attempts()}.keys() == set(range(6))
    assert len(mark.attempts()) == 6 + 2
    assert len(folders_of(url)["again"].attempts()) == 6
    with storage.create(mark.at("data", "lines", "00001.0-0.jsonl")) as file:
        file.write(b"of nobody")
    kinds = totals(gc(url, LocalExecutor()))
    assert kinds["data"] == (1, 9)
    assert kinds["progress"][0] == 1
    assert verify(url).damages == []


class Killed(BaseException):
    """Stands for kill -9."""


def test_repair_may_die_anywhere(run: Path, chain: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = outputs(run)
    deaths = 0
    for number in range(0, 100, 3):
        file_of(run, "mark", "lines/00001.jsonl").unlink()
        damages = verify(str(run)).damages
        assert [damage.shard for damage in damages] == [1]
        with monkeypatch.context() as patch:
            calls: list[int] = []
            for name in ("write_atomic", "remove"):
                patch.setattr(storage, name, _dying(getattr(storage, name), number, calls))
            died = False
            try:
                repair(str(run), damages, LocalExecutor())
            except Killed:
                died = True
        deaths += died
        if left := [damage for damage in verify(str(run)).damages if damage.shard is not None]:
            assert died
            assert left == damages
            repair(str(run), verify(str(run)).damages, LocalExecutor())
        run_recipe(chain, str(run), LocalExecutor())
        assert outputs(run) == wanted
        assert verify(str(run)).damages == []
        if not died:
            break
    assert deaths > 3


def _dying(function: Callable[..., Any], number: int, calls: list[int]) -> Callable[..., Any]:
    def call(*words: Any) -> Any:
        calls.append(1)
        if len(calls) > number:
            raise Killed
        return function(*words)

    return call


def test_on_a_fake_cluster(text_folder: Path, tmp_path: Path, fake_slurm: Any) -> None:
    executor: Executor = SlurmExecutor(lab_site())
    recipe = make_recipe(text_folder, shards=6)
    run_recipe(recipe, str(tmp_path / "run"), executor)
    wanted = outputs(tmp_path / "run")
    truncate(file_of(tmp_path / "run", "upper", "lines/00005.jsonl"))
    damages = verify(str(tmp_path / "run")).damages
    assert [(damage.job, damage.shard) for damage in damages] == [("upper", 5)]
    repair(str(tmp_path / "run"), damages, executor)
    run_recipe(recipe, str(tmp_path / "run"), executor)
    assert outputs(tmp_path / "run") == wanted
    assert len(attempts(tmp_path / "run", "upper")) == 7
    assert len(attempts(tmp_path / "run", "count")) == 1
    assert len(attempts(tmp_path / "run", "gang")) == 2
