"""What no record names goes, and nothing else ever does."""

import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest
from entries import make_recipe
from ledgers import attempt, commit, launch, make_run, write
from repair_jobs import make_chain
from test_executors import outputs

from tokenmill import storage
from tokenmill.errors import IdentityError, StorageError, SubmissionError
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.gc import gc, totals
from tokenmill.executors.leases import start_time
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.status import folders_of
from tokenmill.executors.verify import repair, verify


class Queue(ProcessesExecutor):
    """A scheduler that says which launches live."""

    queues = True

    def __init__(self, live: set[str] | None) -> None:
        super().__init__(1)
        self.known = live

    def live(self, launches: Any) -> set[str] | None:  # type: ignore[override]
        """As told."""
        return self.known


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def removed(run: Path, live: set[str] | None = None) -> set[str]:
    """What gc takes away, by its name; checks that it says so."""
    before = files(run)
    dry = gc(str(run), Queue(live or set()), dry_run=True)
    assert files(run) == before
    orphans = gc(str(run), Queue(live or set()))
    assert orphans == dry
    gone = before - files(run)
    assert {str(Path(orphan.url).relative_to(run)) for orphan in orphans} == gone
    return {"/".join(name.split("/")[2:]) or name for name in gone}


def test_each_kind_of_remains(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"upper": 4}, {})["upper"]
    folder.ensure_plan()
    launch(folder, "dead")
    launch(folder, "live")
    keep = write(folder, "data/port/00000.dead-1.jsonl")
    attempt(folder, 0, "dead-1", "done")
    commit(folder, 0, "dead-1", (keep,))
    attempt(folder, 0, "dead-2", "running")
    write(folder, "data/port/00000.dead-2.jsonl")
    attempt(folder, 0, "live-1", "running")
    write(folder, "data/port/00000.live-1.jsonl")
    attempt(folder, 1, "dead-3", "stopped")
    write(folder, "data/port/00001.dead-3.jsonl")
    attempt(folder, 2, "dead-4", "running")  # perhaps a process on a lost node, which may still commit
    write(folder, "data/port/00002.dead-4.jsonl")
    write(folder, "data/port/00003.unknown-1.jsonl")
    for token in ("dead", "live"):
        write(folder, f"exchange/{token}/pid-0.json")
        folder.lease(token, 1, {})
    write(folder, "progress/step-000001/index.json")
    write(folder, "done/.00001.json.abc.partial")
    (tmp_path / "run" / ".run.json.abc.partial").write_bytes(b"xy")
    data = {"data/port/00000.dead-2.jsonl", "data/port/00001.dead-3.jsonl"}
    ended = {"exchange/dead/pid-0.json", "leases/dead/00001.json"}
    assert removed(tmp_path / "run", {"live"}) == data | ended
    assert removed(tmp_path / "run") == {
        "exchange/live/pid-0.json",
        "leases/live/00001.json",
        "data/port/00000.live-1.jsonl",
        "done/.00001.json.abc.partial",
        ".run.json.abc.partial",
    }
    adopted = write(folder, "progress/step-000002/weights.bin")
    write(folder, "progress/metrics/000002.jsonl")
    for shard, paths in ((1, (adopted,)), (2, ()), (3, ())):
        commit(folder, shard, f"live-{shard}", paths)
    assert folder.publish_manifest()
    assert removed(tmp_path / "run") == {
        "data/port/00002.dead-4.jsonl",
        "data/port/00003.unknown-1.jsonl",
        "progress/step-000001/index.json",
    }
    assert removed(tmp_path / "run") == set()
    assert verify(str(tmp_path / "run")).damages == []


def test_totals_are_by_kind(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"upper": 2}, {})["upper"]
    folder.ensure_plan()
    write(folder, "exchange/dead/a.json", b"12345")
    write(folder, "exchange/dead/b.json", b"12345")
    folder.lease("dead", 1, {})
    assert totals(gc(str(tmp_path / "run"), LocalExecutor())) == {"exchange": (2, 10), "leases": (1, 3)}


def test_what_may_live_is_left_alone(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"upper": 2}, {})["upper"]
    folder.ensure_plan()
    folder.lease("dead", 1, {})
    before = files(tmp_path / "run")
    with pytest.raises(SubmissionError, match="the scheduler does not answer"):
        gc(str(tmp_path / "run"), Queue(None))
    driver = {"host": socket.gethostname(), "pid": os.getpid(), "started": start_time(os.getpid())}
    (tmp_path / "run" / "driver.json").write_bytes(storage.dump_json(driver))
    for executor in (LocalExecutor(), ProcessesExecutor(1)):
        with pytest.raises(IdentityError, match="a driver works on this run"):
            gc(str(tmp_path / "run"), executor)
    assert files(tmp_path / "run") - {"driver.json"} == before
    assert len(gc(str(tmp_path / "run"), Queue(set()))) == 1  # the queue knows what lives
    launch(folder, "aaaa", executor="processes")
    with pytest.raises(IdentityError, match="a driver works on this run"):
        gc(str(tmp_path / "run"), Queue(set()))  # but the living driver has processes, which no queue knows
    (tmp_path / "run" / "driver.json").unlink()
    launch(folder, "bbbb", executor="slurm")
    with pytest.raises(IdentityError, match="may still be queued at SLURM"):
        gc(str(tmp_path / "run"), LocalExecutor())
    assert gc(str(tmp_path / "run"), Queue({"aaaa"})) == []
    commit(folder, 0, "dead-1")
    Path(folder.done_url(0)).write_text("{")
    write(folder, "exchange/dead/a.json")
    with pytest.raises(StorageError, match="not JSON"):
        gc(str(tmp_path / "run"), Queue(set()))
    assert Path(folder.at("exchange/dead/a.json")).exists()


def test_a_real_run_keeps_its_outputs_and_can_be_repaired(text_folder: Path, tmp_path: Path) -> None:
    chain = make_chain(text_folder, tmp_path / "secret")
    run_recipe(chain, str(tmp_path / "run"), LocalExecutor())
    wanted = outputs(tmp_path / "run")
    kinds = totals(gc(str(tmp_path / "run"), LocalExecutor()))
    found = {kind: count for kind, (count, _) in kinds.items()}
    assert found == {"heartbeats": 3, "leases": 14, "progress": 1}
    assert verify(str(tmp_path / "run")).damages == []
    mark = folders_of(str(tmp_path / "run"))["mark"]
    [first, *_] = mark.commits()
    os.truncate(mark.at(first["outputs"][0]["path"]), 3)
    repair(str(tmp_path / "run"), verify(str(tmp_path / "run")).damages, LocalExecutor())
    run_recipe(chain, str(tmp_path / "run"), LocalExecutor())
    assert outputs(tmp_path / "run") == wanted
    gang = make_recipe(text_folder, shards=3)
    run_recipe(gang, str(tmp_path / "gang"), ProcessesExecutor(2))
    wanted = outputs(tmp_path / "gang")
    kinds = totals(gc(str(tmp_path / "gang"), ProcessesExecutor(2)))
    assert kinds["exchange"][0] == 6  # the roll call of two ranks, what they say, and the output of one
    assert outputs(tmp_path / "gang") == wanted
    assert verify(str(tmp_path / "gang")).damages == []


TOKENS = ("aaaa", "bbbb", "cccc", "dddd")
OUTCOMES = ("running", "done", "late", "error", "stopped", "forgiven")
PLACES = ("data/port", "data", "data/a/b", "progress/step-000003", "progress/metrics", "exchange/aaaa-0")


def random_ledger(folder: JobFolder, random_: random.Random) -> None:
    """Any mixture of attempts, commits and files, adopted ones in odd places included."""
    shards = range(folder.num_shards() or 0)
    for token in TOKENS[: random_.randint(1, 4)]:
        launch(folder, token)
    complete = random_.random() < 0.4
    for shard in shards:
        names = [f"{random_.choice(TOKENS)}-{number}{shard}" for number in range(random_.randint(1, 3))]
        for name in dict.fromkeys(names):
            attempt(folder, shard, name, random_.choice(OUTCOMES))
            if random_.random() < 0.8:
                write(folder, f"{random_.choice(PLACES)}/{shard:05d}.{name}.x.jsonl")
            if random_.random() < 0.5:
                write(folder, f"exchange/{name}/{shard}.json")
            folder.lease(name[:4], shard, {})
        if complete or random_.random() < 0.5:
            number = random_.randint(0, 3)
            places = random_.sample([*PLACES, f"leases/{names[0][:4]}", "elsewhere"], number)
            paths = tuple(write(folder, f"{place}/{shard:05d}.{names[0]}.y") for place in places)
            commit(folder, shard, names[0], paths)
    write(folder, f"progress/step-{random_.randint(4, 9):06d}/index.json")
    write(folder, f"done/.{random_.randint(0, 9)}.partial")
    if random_.random() < 0.8:
        folder.publish_manifest()


@pytest.mark.parametrize("seed", range(40))
def test_nothing_that_is_named_or_alive_is_ever_removed(tmp_path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    folder = make_run(tmp_path / "run", {"upper": 4}, {})["upper"]
    folder.ensure_plan()
    random_ledger(folder, random_)
    before = files(tmp_path / "run")
    live = set(random_.sample(TOKENS, random_.randint(0, 2)))
    gone = removed(tmp_path / "run", live)
    named = {output["path"] for record in folder.commits() for output in record["outputs"]}
    assert not named & gone
    undone = {f"{shard:05d}" for shard in range(4)} - {f"{shard:05d}" for shard in folder.done()}
    may_commit = {
        record["attempt"] for record in folder.attempts() if record["outcome"] in ("running", "done")
    }
    for name in gone:
        place, base = name.split("/")[0], name.rsplit("/", 1)[-1]
        assert place in ("data", "exchange", "leases", "progress") or base.endswith(".partial")
        if place == "data":
            assert base.split(".")[1][:4] not in live
            assert not (base[:5] in undone and base.split(".")[1] in may_commit)
        elif place in ("exchange", "leases"):
            assert name.split("/")[1][:4] not in live
        else:
            assert base.endswith(".partial") or name.startswith("progress/step-")
    if not live and folder.manifest():
        left = {name for name in files(tmp_path / "run") if "/data/" in name}
        assert {name.split("/", 2)[2] for name in left} <= named
    assert removed(tmp_path / "run", live) == set()
    assert files(tmp_path / "run") == {
        name for name in before if name.split("/", 2)[-1] not in gone and name not in gone
    }
