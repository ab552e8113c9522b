"""Each sentence, from ledgers made by hand; the queue's from a fake cluster."""

import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from entries import lab_site, make_recipe
from ledgers import attempt, commit, launch, make_run
from test_executors import attempts

from tokenmill import storage
from tokenmill.errors import ConfigError
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.explain import Explanation, explain, reason_in_words
from tokenmill.executors.leases import start_time
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.verify import repair, verify


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run ü"


@pytest.fixture
def folders(run: Path) -> dict[str, JobFolder]:
    """upper (4 shards), planned, and count, which comes after it."""
    made = make_run(run, {"upper": 4, "count": 1}, {"count": ("upper",)})
    made["upper"].ensure_plan()
    return made


def drive(run: Path) -> None:
    """Pretend that this process drives the run."""
    value = {"host": socket.gethostname(), "pid": os.getpid(), "started": start_time(os.getpid())}
    (run / "driver.json").write_bytes(storage.dump_json(value))


def told(run: Path, target: str) -> Explanation:
    return explain(str(run), target, LocalExecutor())


def text_of(run: Path, target: str) -> str:
    return "\n".join(told(run, target).sentences)


def test_waiting_for_parents(run: Path, folders: dict[str, JobFolder]) -> None:
    commit(folders["upper"], 2, "aa-1")
    found = told(run, "count")
    assert found.state == "waiting"
    assert found.sentences[0].startswith("count is not planned yet")
    expected = f"it waits for upper: 1 of 4 shards are done; `tokenmill explain '{run}' upper` says why"
    assert found.sentences[1:] == (expected,)
    folders["upper"].quarantine(3, "ValueError: no")
    assert "1 of 4 shards are done, 1 set aside, so it will not come by itself" in text_of(run, "count")


def test_nobody_works(run: Path, folders: dict[str, JobFolder]) -> None:
    found = told(run, "upper")
    assert (found.state, found.sentences) == (
        "waiting",
        (
            "upper is not complete: 0 of 4 shards are done",
            f"nothing works on the run; `tokenmill resume '{run}'` goes on",
        ),
    )
    assert told(run, "upper/1").sentences[0] == "upper/1 was not taken by a task yet"
    drive(run)
    assert "the driver has not launched it yet" in text_of(run, "upper/1")
    launch(folders["upper"], "aa")
    assert "launch aa takes the job's shards one after the other" in text_of(run, "upper/1")


def test_running_with_its_last_words(run: Path, folders: dict[str, JobFolder]) -> None:
    drive(run)
    launch(folders["upper"], "aa")
    attempt(folders["upper"], 1, "aa-1", "running", started=time.time() - 75, host="n7")
    storage.write_atomic(folders["upper"].at("now.json"), storage.dump_json({"shard": 1, "text": "half way"}))
    found = told(run, "upper/1")
    assert found.state == "running"
    assert found.sentences[0] == "upper/1 is worked on"
    pattern = (
        r"attempt aa-1 runs since .* UTC \(1 min 1[5-9] s\) on n7; it says: half way; log: .*00001.aa-1.log"
    )
    assert re.fullmatch(pattern, found.sentences[1])
    job = told(run, "upper")
    assert job.state == "running"
    assert re.fullmatch("shard 1: " + pattern, job.sentences[1])
    assert len(job.sentences) == 2
    assert "half way" not in text_of(run, "upper/2")


def test_lost(run: Path, folders: dict[str, JobFolder]) -> None:
    launch(folders["upper"], "aa")
    attempt(folders["upper"], 1, "aa-1", "running")
    pattern = r"attempt aa-1 was lost: it began at 2023-11-14 .* on n7, but its launch aa lives no longer.*"
    found = told(run, "upper/1")
    assert found.state == "waiting"
    assert found.sentences[0] == "upper/1 is not done and nobody works on it"
    assert re.fullmatch(pattern, found.sentences[1])
    assert "tokenmill resume" in found.sentences[2]
    assert re.search("shard 1: " + pattern, text_of(run, "upper"))
    drive(run)
    launch(folders["upper"], "bb")  # the driver works, on a newer launch
    assert "aa-1 was lost" in text_of(run, "upper/1")
    mine = {"host": socket.gethostname(), "pid": 2**22 + 1}
    attempt(folders["upper"], 2, "bb-1", "running", **mine)
    assert "bb-1 was lost" in text_of(run, "upper/2")
    attempt(folders["upper"], 2, "bb-2", "running", **(mine | {"pid": os.getpid()}))
    assert told(run, "upper/2").state == "running"


def test_failed_and_set_aside(run: Path, folders: dict[str, JobFolder]) -> None:
    upper = folders["upper"]
    attempt(upper, 1, "aa-1", "forgiven", error="ValueError: old")
    attempt(upper, 1, "aa-2", "error", error="ValueError: bad\nline", started=1_700_000_100.0)
    found = told(run, "upper/1")
    assert found.sentences[0].endswith("; it failed 1 time and is set aside after 2")
    assert "aa-1 failed after 10 s on n7, which a resume has forgiven: ValueError: old" in found.sentences[1]
    log = upper.log_url(1, "aa-2")
    assert found.sentences[2] == f"attempt aa-2 failed after 10 s on n7: ValueError: bad line; log: {log}"
    attempt(upper, 1, "aa-3", "error", error="ValueError: worse {x}", started=1_700_000_200.0)
    upper.quarantine(1, "ValueError: worse {x}")
    found = told(run, "upper/1")
    assert found.state == "failed"
    assert found.sentences[0] == "upper/1 is set aside after 2 failed attempts: ValueError: worse {x}"
    assert found.sentences[1] == f"`tokenmill resume '{run}'` tries it again"
    assert len(found.sentences) == 5
    job = told(run, "upper")
    assert job.state == "failed"
    assert f"shard 1 is set aside: ValueError: worse {{x}}; log: {upper.log_url(1, 'aa-3')}" in job.sentences
    assert f"`tokenmill resume '{run}'` tries 1 shard again" in job.sentences


def test_stopped(run: Path, folders: dict[str, JobFolder]) -> None:
    attempt(folders["upper"], 0, "aa", "stopped")
    assert "attempt aa stopped after 10 s on n7, as it was asked to" in text_of(run, "upper/0")


def test_done_late_and_dead_after_the_commit(run: Path, folders: dict[str, JobFolder]) -> None:
    upper = folders["upper"]
    for shard, seconds in enumerate((10.0, 10.0, 30.0)):
        attempt(upper, shard, f"aa-{shard}", "running" if shard == 1 else "done")
        commit(upper, shard, f"aa-{shard}", seconds=seconds)
    attempt(upper, 2, "bb-1", "late")
    attempt(upper, 2, "bb-2", "running")
    found = told(run, "upper/2")
    assert found.state == "done"
    assert found.sentences[0] == (
        "upper/2 is done, by attempt aa-2 on n7 at 2023-11-14 22:13:50 UTC; "
        "it took 30 s, 3.0 times the median of 10 s over 3 done shards"
    )
    assert found.sentences[1].startswith("attempt bb-1 was late: attempt aa-2 had committed the shard before")
    assert found.sentences[2].startswith("attempt bb-2 was lost")
    assert len(found.sentences) == 3
    assert "aa-1 committed the shard and died before it could say so" in text_of(run, "upper/1")
    commit(upper, 3, "aa-3", seconds=10.0)
    upper.publish_manifest()
    job = told(run, "upper")
    assert job.state == "complete"
    assert job.sentences[0].endswith(": 4 shards of 10 s in the median; the slowest, shard 2, took 30 s")
    assert told(run, "upper/0").state == "done"


def test_cancelled(run: Path, folders: dict[str, JobFolder]) -> None:
    storage.write_atomic(folders["upper"].at("cancelled.json"), storage.dump_json({"cancelled": 0.5}))
    found = told(run, "upper")
    assert found.state == "cancelled"
    assert found.sentences[-1].startswith(
        "the job was cancelled at 1970-01-01 00:00:00 UTC; `tokenmill resume"
    )
    assert told(run, "upper/0").sentences[-1] == found.sentences[-1]


def test_withdrawn(text_folder: Path, run: Path) -> None:
    run_recipe(make_recipe(text_folder, shards=3), str(run), ProcessesExecutor(2))
    assert told(run, "gang").sentences[0].endswith(": 1 shard")
    assert told(run, "gang/0").state == "done"
    assert len(told(run, "gang/0").sentences) == 1
    [path, *_] = sorted(run.glob("jobs/upper-*/data/lines/00001.*"))
    path.unlink()
    repair(str(run), verify(str(run)).damages, LocalExecutor())
    assert "was done after" in text_of(run, "upper/1")
    assert "but its commit record was withdrawn" in text_of(run, "upper/1")
    assert "it waits for upper: 2 of 3 shards are done" in text_of(run, "count")


def test_a_failing_rank_speaks_for_its_gang(text_folder: Path, run: Path) -> None:
    folder = make_run(run, {"gang": 1}, {})["gang"]
    folder.ensure_plan()
    attempt(folder, 0, "aa", "error", error="GangError: a rank did not finish", rank=0)
    attempt(folder, 0, "aa", "error", error="ValueError: rank 1", rank=1)
    attempt(folder, 0, "bb", "stopped", rank=0, started=1_700_000_100.0)
    attempt(folder, 0, "bb", "error", error="ValueError: rank 2", rank=2, started=1_700_000_100.0)
    sentences = told(run, "gang/0").sentences
    assert "it failed 2 times" in sentences[0]
    assert "aa failed after 10 s on n7: GangError: a rank did not finish" in sentences[1]
    assert "bb failed after 10 s on n7: ValueError: rank 2" in sentences[2]
    assert sentences[2].endswith("00000.bb.rank2.log")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Resources", "cores, memory or GPUs"),
        ("Priority", "higher priority"),
        ("Dependency", "have not ended"),
        ("QOSMaxJobsPerUserLimit", "as many of your jobs run"),
        ("PartitionTimeLimit", "lower the job's time_seconds"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "down, drained or reserved"),
        ("(ReqNodeNotAvail)", "down, drained or reserved"),
        ("QOSGrpNodeLimit", "quality of service"),
        ("AssocGrpBilling", "your account"),
        ("NewInSlurm30", "man squeue"),
    ],
)
def test_reasons_are_translated(reason: str, words: str) -> None:
    assert reason_in_words(reason).startswith(f"{reason}: ")
    assert words in reason_in_words(reason)


def test_unknown_targets(run: Path, folders: dict[str, JobFolder]) -> None:
    for target, message in (("uper", "did you mean 'upper'"), ("upper/4", "below 4"), ("upper/", "nothing")):
        with pytest.raises(ConfigError, match=message):
            told(run, target)


def test_on_a_fake_cluster(text_folder: Path, run: Path, fake_slurm: Any) -> None:
    fake_slurm.configure(max_running=1)
    executor = SlurmExecutor(lab_site())
    recipe = make_recipe(text_folder, shards=3, seconds=30.0)
    run_recipe(recipe, str(run), executor, detach=True)
    end = time.monotonic() + 30
    while not attempts(run, "upper") and time.monotonic() < end:
        time.sleep(0.05)
    [first] = attempts(run, "upper")
    shard = first["shard"]
    found = explain(str(run), f"upper/{shard}", executor)
    assert found.state == "running"
    assert f"attempt {first['attempt']} runs since" in found.sentences[1]
    launched = first["launch"]
    upper = explain(str(run), "upper", executor)
    assert upper.state == "running"
    queued = [sentence for sentence in upper.sentences if "queued" in sentence]
    [pending] = {entry["reason"] for entry in fake_slurm.queue()["entries"] if entry["index"] in (1, 2)} - {
        "None"
    }
    assert queued == [f"2 tasks of launch {launched} queued at SLURM: {reason_in_words(pending)}"]
    count = explain(str(run), "count", executor)
    assert count.sentences[1].startswith("it waits for upper: 0 of 3 shards are done")
    assert re.fullmatch("1 task of launch .* queued at SLURM: Dependency: .*", count.sentences[2])
    fake_slurm.fail("squeue", "slurm_load_jobs error: Unable to contact slurm controller", times=-1)
    assert "whether it runs only the scheduler knows" in "".join(
        explain(str(run), f"upper/{shard}", executor).sentences
    )
    other = (int(str(shard)) + 1) % 3
    assert "SLURM does not answer" in explain(str(run), f"upper/{other}", executor).sentences[-1]
    fake_slurm.mend("squeue")
    assert fake_slurm.stop()
    lost = explain(str(run), f"upper/{shard}", executor)
    assert "was lost" in lost.sentences[1]
