"""What the queue holds of a run, where it can be asked and where not."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "executors"))

import ledgers

from tokenmill import storage
from tokenmill.cli import queue
from tokenmill.cli.queue import Queue


class Slurm(queue.SlurmExecutor):
    """An executor whose answers are given."""

    poll_seconds = 0.0

    def __init__(self):
        self.asked = 0
        self.answers = ({"aaaaaaaa", "bbbbbbbb"}, {("aaaaaaaa", "Priority"): 3, ("bbbbbbbb", "Resources"): 1})

    def live(self, launches):
        self.asked += 1
        self.launches = [launch.token for launch in launches]
        return self.answers[0]

    def pending(self, launches):
        return self.answers[1]


@pytest.fixture
def folders(tmp_path):
    folders = ledgers.make_run(tmp_path / "run", {"upper": 4, "count": 1}, {"count": ("upper",)})
    ledgers.launch(folders["upper"], "aaaaaaaa", executor="slurm")
    ledgers.launch(folders["count"], "bbbbbbbb", executor="slurm")
    value = {"executor": "slurm", "site": str(tmp_path / "site.yaml"), "workers": 0}
    storage.write_atomic(str(tmp_path / "run" / "placement.json"), storage.dump_json(value))
    return folders


def complete(folder):
    storage.write_atomic(folder.at("manifest.json"), b"{}")


def test_what_waits_and_why(folders, tmp_path, monkeypatch):
    slurm = Slurm()
    monkeypatch.setattr(queue, "make_executor", lambda placement: slurm)
    seen = Queue(str(tmp_path / "run"))
    assert seen.words() == {}
    assert seen.goes_on()
    assert seen.words() == {"upper": "3 queued (Priority)", "count": "1 queued (Resources)"}
    seen.goes_on()
    assert slurm.asked == 1  # the controller is asked seldom
    complete(folders["upper"])
    slurm.answers = (set(), {})
    monkeypatch.setattr(queue, "_LEAST_SECONDS", 0.0)
    assert not seen.goes_on()
    assert seen.words() == {}
    assert slurm.launches == ["bbbbbbbb"]


def test_a_queue_that_does_not_answer_may_hold_something(folders, tmp_path, monkeypatch):
    slurm = Slurm()
    slurm.answers = (None, None)
    monkeypatch.setattr(queue, "make_executor", lambda placement: slurm)
    seen = Queue(str(tmp_path / "run"))
    assert seen.goes_on()
    assert seen.words() == {}


def test_where_there_is_no_slurm_the_folder_tells(folders, tmp_path):
    seen = Queue(str(tmp_path / "run"))  # and the site's file is not there either
    assert seen.goes_on()
    for folder in folders.values():
        complete(folder)
    assert not seen.goes_on()


def test_processes_end_with_their_driver(folders, tmp_path):
    value = {"executor": "processes", "site": "", "workers": 2}
    storage.write_atomic(str(tmp_path / "run" / "placement.json"), storage.dump_json(value))
    assert not Queue(str(tmp_path / "run")).goes_on()
