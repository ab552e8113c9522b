"""The README is true: its example runs, and the files it names are there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = "<p>" + "The quick brown fox jumps over the lazy dog and then rests for a while. " * 8 + "</p>"


def block(language: str) -> str:
    """The README's only block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(found)


def warc_of(html: str) -> bytes:
    """A WARC file with one page."""
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><body>{html}</body></html>"
    names = [
        "WARC-Type: response",
        "WARC-Target-URI: https://example.org/",
        "WARC-Date: 2024-01-01T00:00:00Z",
    ]
    names += ["WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000001>"]
    names += ["Content-Type: application/http; msgtype=response", f"Content-Length: {len(http.encode())}"]
    head = "\r\n".join(["WARC/1.0", *names]) + "\r\n\r\n"
    return (head + http + "\r\n\r\n").encode()


def test_the_example_of_a_job_runs(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "words.py").write_text(block("python"))
    (tmp_path / "words.yaml").write_text(block("yaml"))
    (tmp_path / "page.warc").write_bytes(warc_of(PROSE))
    command = [sys.executable, "-m", "tokenmill.cli", "run", "words.yaml", "--run-dir", "run"]
    done = subprocess.run(
        [*command, "--executor", "local", "--set", "inputs.pages=page.warc"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (output,) = (tmp_path / "run").glob("jobs/words-*/data/words/*.json")
    counts = json.loads(output.read_text())
    assert counts["quick"] == 8
    assert all(len(word) >= 4 for word in counts)


def test_the_files_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:tools|configs|slurm|launchers|src)/[\w./-]+)`", README))
    assert len(named) > 4
    missing = [name for name in named if not (ROOT / name).exists() and "NAME" not in name]
    assert missing == []
    modules = set(
        re.findall(r"`((?:data|tokens|training|inference|evaluation|executors)/[\w/]+\.py)`", README)
    )
    assert len(modules) > 8
    assert [name for name in modules if not (ROOT / "src/tokenmill" / name).exists()] == []


def test_every_folder_of_the_package_is_in_the_tree() -> None:
    rooms = {path.name for path in (ROOT / "src/tokenmill").iterdir() if (path / "__init__.py").exists()}
    assert [room for room in sorted(rooms) if f"{room}/" not in README] == []
