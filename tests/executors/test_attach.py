"""Standing beside an attempt: what it writes is seen once, until it ends."""

import threading
import time

import ledgers
import pytest

from tokenmill import storage
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors import attach


@pytest.fixture
def folder(tmp_path):
    folder = ledgers.make_run(tmp_path / "run", {"upper": 4}, {})["upper"]
    folder.ensure_plan()
    ledgers.launch(folder, "aaaaaaaa", executor="slurm")
    return folder


def write_log(folder, shard, text, mode="a"):
    path = storage.local_path(folder.log_url(shard, f"aaaaaaaa-{shard}"))
    path.parent.mkdir(exist_ok=True)
    with path.open(mode) as file:
        file.write(text)


def test_the_newest_attempt_that_runs(folder):
    with pytest.raises(InputError, match="no attempt runs"):
        attach.running_attempt(folder)
    for shard, outcome in enumerate(("running", "running", "done")):
        ledgers.attempt(folder, shard, f"aaaaaaaa-{shard}", outcome, started=1000.0 + shard)
    ledgers.attempt(folder, 1, "aaaaaaaa-1", "running", started=2000.0, rank=1)
    assert attach.running_attempt(folder)["shard"] == 1
    assert attach.running_attempt(folder)["rank"] == 0
    assert attach.running_attempt(folder, 0)["shard"] == 0
    with pytest.raises(InputError, match=r"upper/2(.|\n)*tokenmill logs RUN upper/2"):
        attach.running_attempt(folder, 2)


def test_everything_is_seen_once_until_the_end(folder):
    record = ledgers.attempt(folder, 0, "aaaaaaaa-0", "running")
    write_log(folder, 0, "before\n")
    seen = []

    def look():
        seen.extend(attach.follow(folder, record, poll_seconds=0.01))

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(20):
        write_log(folder, 0, f"line {number} é\n")
        time.sleep(0.005)
    write_log(folder, 0, "the last words")
    folder.write_attempt(record | {"outcome": "done"})
    thread.join(30)
    assert "".join(seen) == "before\n" + "".join(f"line {n} é\n" for n in range(20)) + "the last words"


def test_it_begins_with_a_whole_line(folder):
    record = ledgers.attempt(folder, 0, "aaaaaaaa-0", "running")
    write_log(folder, 0, "".join(f"line {number:03d}\n" for number in range(100)))
    folder.write_attempt(record | {"outcome": "done"})
    assert "".join(attach.follow(folder, record, first_bytes=25)) == "line 098\nline 099\n"


def test_a_dead_attempt_is_left_when_nothing_works_any_more(folder):
    record = ledgers.attempt(folder, 0, "aaaaaaaa-0", "running")
    write_log(folder, 0, "its last words\n")
    assert list(attach.follow(folder, record, goes_on=lambda: False)) == ["its last words\n"]


def test_a_log_that_comes_late(folder):
    record = ledgers.attempt(folder, 0, "aaaaaaaa-0", "running")
    answers = iter([True, True, False])

    def goes_on():
        answer = next(answers)
        if not answer:
            write_log(folder, 0, "late\n")
        return answer

    assert list(attach.follow(folder, record, goes_on=goes_on, poll_seconds=0.001)) == ["late\n"]


def test_the_command_for_a_shell(folder):
    record = ledgers.attempt(folder, 0, "aaaaaaaa-0", "running", scheduler_id="123_4")
    assert attach.slurm_task(folder, record) == "123_4"
    words = attach.shell_command(attach.own_id("123_4", " 127\n"), record)
    assert words == ["srun", "--overlap", "--jobid=127", "--nodelist=n7", "--pty", "bash"]
    with pytest.raises(InputError, match="has left the queue"):
        attach.own_id("123_4", "\n")


def test_no_shell_without_slurm(folder):
    ledgers.launch(folder, "bbbbbbbb", executor="processes")
    for name, scheduler_id in (("bbbbbbbb-0", "55"), ("aaaaaaaa-0", "")):
        record = ledgers.attempt(folder, 0, name, "running", scheduler_id=scheduler_id)
        with pytest.raises(ConfigError, match="ssh n7"):
            attach.slurm_task(folder, record)
