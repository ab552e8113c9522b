"""Boards and lines."""

import sys

from rich.console import Console

from tokenmill.executors.cost import Usage
from tokenmill.executors.progress import bar, board, progress
from tokenmill.executors.status import JobStatus
from tokenmill.executors.watch import JobView


def status(state="running", done=0, num_shards=100, **values):
    return JobStatus(
        name="split",
        state=state,
        num_shards=num_shards,
        done=done,
        folder="",
        **{"failed": 0, "running": 0, **values},
    )


STEPS = [
    status("waiting", 0, None),
    status("running", 0),
    *(status("running", n) for n in range(100)),
    status("complete", 100),
]


def test_lines_where_there_is_no_terminal(capsys):
    with progress() as display:
        assert not display.wants_views
        for step in STEPS:
            display.tick([step], None)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11  # once per tenth, and the end
    assert lines[-1].endswith("split: complete 100/100")


def test_lines_of_somebody_who_watches(capsys):
    view = JobView(status=status(done=10), usage=Usage(), rate=0.5, left_seconds=180.0, alive=8, silent=1)
    with progress() as display:
        display.show([view], {"split": "3 queued (Priority)"})
        display.show([view], {})
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "split: running 10/100, 30.0/min, 3 min 0 s left, 8 alive, 1 silent, 3 queued (Priority)"
    )


def test_a_board_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress() as display:
        assert display.wants_views
        for step in STEPS:
            display.tick([step], None)
            display.tick([step], [JobView(status=step, usage=Usage())])
    assert "100/100" in capsys.readouterr().err


def test_silence(capsys):
    with progress(silent=True) as display:
        display.tick(STEPS, None)
        display.show([], {})
    assert capsys.readouterr().err == ""


def drawn(views, queue, width=150):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(board(views, queue, width))
    console.file.close()
    return console.export_text()


def test_what_the_board_says():
    view = JobView(
        status=status(done=50, failed=2, running=8),
        usage=Usage(core_hours=1.5, gpu_hours=3.0, cost=12.5, failures={"oom": 2}),
        rate=2.5,
        left_seconds=16.0,
        alive=8,
        counters={"tokens": 1_250_000.0},
        rates={"tokens": 62_500.0},
        words="shard 7: [red]no markup[/red]",
    )
    later = JobView(status=status("waiting", 0, None), usage=Usage())
    text = drawn([view, later], {"split": "3 queued (Priority)"})
    for part in ("50/100, 2 failed", "2.50/s", "16 s", "8 alive", "3 queued (Priority)", "waiting"):
        assert part in text
    assert "tokens 1.25 M (62.5 k/s)" in text
    assert "shard 7: [red]no markup[/red]" in text
    assert "1.5 core-hours, 3 GPU-hours, cost 12.50, attempts that failed: 2 oom" in text
    narrow = drawn([view, later], {}, width=60)
    assert max(len(line) for line in narrow.splitlines()) <= 60


def test_pieces_of_a_bar():
    def pieces(**values):
        drawn = bar(status(**values), 10)
        return [
            (str(span.style), drawn.plain[span.start : span.end])
            for span in drawn.spans
            if span.end > span.start
        ]

    assert pieces(done=50) == [("green", "━" * 5), ("dim", "─" * 5)]
    assert pieces(done=1, failed=1, running=1) == [
        ("green", "━"),
        ("red", "━"),
        ("blue", "━"),
        ("dim", "─" * 7),
    ]
    assert pieces(done=99, failed=1) == [("green", "━" * 9), ("red", "━")]
    assert pieces(done=0, num_shards=None) == [("dim", "─" * 10)]
    assert sum(len(text) for _, text in pieces(done=100, failed=3)) == 10
