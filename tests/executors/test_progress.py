"""Bars and lines."""

import sys

from tokenmill.executors.progress import progress
from tokenmill.executors.status import JobStatus


def test_bars_on_a_terminal_and_lines_elsewhere(capsys, monkeypatch):
    def status(state, done, num_shards):
        return JobStatus(
            name="split", state=state, num_shards=num_shards, done=done, failed=0, running=0, folder=""
        )

    steps = [
        status("waiting", 0, None),
        status("running", 0, 100),
        *(status("running", n, 100) for n in range(100)),
    ]
    with progress() as show:
        for step in [*steps, status("complete", 100, 100)]:
            show([step])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11  # once per tenth, and the end
    assert lines[-1].endswith("split: complete 100/100")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress() as show:
        for step in [*steps, status("complete", 100, 100)]:
            show([step])
    assert "100/100" in capsys.readouterr().err
    with progress(silent=True) as show:
        show(steps)
    assert capsys.readouterr().err == ""
