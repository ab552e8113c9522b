"""tools/environment.sh makes .venv once, again when the pins change, and says what it lacks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = """#!/bin/sh
# Answers as the real interpreter does, but makes an environment whose pip only notes its words.
if [ "$1" = -m ] && [ "$2" = venv ]; then
    rm -rf .venv && mkdir -p .venv/bin
    printf '#!/bin/sh\\n[ "$1" = -c ] || echo "$@" >>pip.log\\nexit ${PIP_STATUS:-0}\\n' >.venv/bin/python
    chmod +x .venv/bin/python
else
    exec "%s" "$@"
fi
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the script reads, with an interpreter that installs nothing."""
    (tmp_path / "tools").mkdir()
    for name in ("tools/environment.sh", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    stub = tmp_path / "python"
    stub.write_text(STUB % sys.executable)
    stub.chmod(0o755)
    return tmp_path


def run(checkout: Path, **variables: str) -> tuple[int, str]:
    """Exit status and messages of the script, started elsewhere."""
    env = dict(os.environ) | {"PYTHON": str(checkout / "python"), "CXX": "sh"} | variables
    command = ["sh", str(checkout / "tools/environment.sh")]
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", check=False)
    return result.returncode, result.stderr


def installs(checkout: Path) -> list[str]:
    log = checkout / "pip.log"
    return log.read_text().splitlines() if log.exists() else []


def test_it_installs_once_and_again_when_the_pins_change(checkout: Path) -> None:
    assert run(checkout)[0] == 0
    assert len(installs(checkout)) == 1
    assert installs(checkout)[0].endswith("-c constraints.txt -e .[data,train,s3,mpi,dev]")
    assert run(checkout) == (0, "")
    assert len(installs(checkout)) == 1
    with (checkout / "constraints.txt").open("a") as stream:
        stream.write("one-more==1.0\n")
    assert run(checkout)[0] == 0
    assert len(installs(checkout)) == 2


def test_other_settings_of_the_project_do_not_matter(checkout: Path) -> None:
    run(checkout)
    with (checkout / "pyproject.toml").open("a") as stream:
        stream.write("[tool.other]\nx = 1\n")
    run(checkout)
    assert len(installs(checkout)) == 1


def test_a_failed_installation_is_not_taken_for_an_environment(checkout: Path) -> None:
    code, text = run(checkout, PIP_STATUS="3")
    assert code == 1
    assert "pip failed" in text
    assert not (checkout / ".venv/made_from").exists()
    assert run(checkout)[0] == 0


def test_a_broken_environment_is_made_anew(checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to("/no/such/python")
    assert run(checkout)[0] == 0
    assert (checkout / ".venv/bin/python").exists()


def test_a_missing_python_is_named(checkout: Path) -> None:
    code, text = run(checkout, PYTHON="python3.99")
    assert code == 1
    assert "there is no python3.99 on PATH" in text


def test_an_old_python_is_refused(checkout: Path) -> None:
    old = checkout / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.2"\nexit 1\n')
    old.chmod(0o755)
    code, text = run(checkout, PYTHON=str(old))
    assert code == 1
    assert "Python 3.9.2 is too old: Python 3.11 or newer" in text


def test_a_missing_compiler_is_named(checkout: Path) -> None:
    tools = checkout / "few"
    tools.mkdir()
    for name in ("sh", "dirname", "cat"):
        (tools / name).symlink_to(shutil.which(name) or name)
    code, text = run(checkout, PATH=str(tools), CXX="no-such-compiler")
    assert code == 1
    assert "no C++ compiler on PATH" in text
    assert "apt-get install g++" in text
