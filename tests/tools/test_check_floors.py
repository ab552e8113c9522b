"""Every rule of the house law, broken once; and the law as it stands, kept by snippets that look alike."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def check(root: Path, files: dict[str, str]) -> tuple[int, list[str], dict[str, dict[str, Any]]]:
    """Exit status, breaches as ``path:line: rule`` and the rows by name."""
    shutil.copy(ROOT / "setup.cfg", root)
    for name, text in files.items():
        path = root / "src/tokenmill" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    result = subprocess.run(
        [sys.executable, ROOT / "tools/check_floors", "--root", root],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""
    *lines, _, last = result.stdout.splitlines()
    value = json.loads(last)
    assert value["name"] == "check_floors"
    found = [":".join(line.split(":")[:3]).removeprefix("src/tokenmill/") for line in lines]
    return result.returncode, found, {row["work"]: row for row in value["rows"]}


def nested(levels: int) -> str:
    lines = [f"{'    ' * (level + 1)}if x > {level}:" for level in range(levels)]
    return "\n".join(["def f(x: int) -> None:", *lines, f"{'    ' * (levels + 1)}print(x)"]) + "\n"


BREACHES = {
    "up": (
        {"tokens/shards.py": "import tokenmill.data.words\n", "data/words.py": ""},
        "tokens/shards.py:1: up",
    ),
    "up, from the package": (
        {"errors.py": "from tokenmill import storage\n", "storage.py": ""},
        "errors.py:1: up",
    ),
    "up, within floor 0": (
        {"storage.py": "from tokenmill.config import x\n", "config.py": ""},
        "storage.py:1: up",
    ),
    "up, relative": (
        {"data/words.py": "\nfrom ..training import x\n", "training.py": ""},
        "data/words.py:2: up",
    ),
    "up, for types only": (
        {
            "data/words.py": "import typing\nif typing.TYPE_CHECKING:\n    import tokenmill.cli\n",
            "cli.py": "",
        },
        "data/words.py:3: up",
    ),
    "sideways": (
        {"data/words.py": "from tokenmill.models import presets\n", "models/presets.py": ""},
        "data/words.py:1: sideways",
    ),
    "deferred, ours": (
        {"cli.py": "def f() -> None:\n    import tokenmill.config\n", "config.py": ""},
        "cli.py:2: deferred",
    ),
    "deferred, of the base install": (
        {"cli.py": "def f() -> None:\n    import yaml\n"},
        "cli.py:2: deferred",
    ),
    "deferred for the start, by another module": (
        {"errors.py": "def f() -> None:\n    import fsspec\n"},
        "errors.py:2: deferred",
    ),
    "deferred, in a method": (
        {"cli.py": "class C:\n    def f(self) -> None:\n        if self:\n            import json\n"},
        "cli.py:4: deferred",
    ),
    "cycle": (
        {
            "data/a.py": "import tokenmill.data.b\n",
            "data/b.py": "from tokenmill.data.c import x\n",
            "data/c.py": "from tokenmill.data import a\n",
        },
        "data/a.py:1: cycle",
    ),
    "torch": ({"tokens/shards.py": "import torch.nn\n"}, "tokens/shards.py:1: torch"),
    "torch, deferred": ({"data/a.py": "def f() -> None:\n    import torch\n"}, "data/a.py:2: torch"),
    "lean": ({"training/loader.py": "import orjson\n"}, "training/loader.py:1: lean"),
    "lean, from": ({"kernels/norm.py": "from scipy import special\n"}, "kernels/norm.py:1: lean"),
    "name": ({"data/utils.py": ""}, "data/utils.py:1: name"),
    "room": ({"misfits.py": ""}, "misfits.py:1: room"),
    "environment": ({"training/a.py": "import os\nx = os.environ['A']\n"}, "training/a.py:2: environment"),
    "environment, getenv": ({"cli.py": "import os\nx = os.getenv('A')\n"}, "cli.py:2: environment"),
    "environment, from": ({"cli.py": "from os import environ\n"}, "cli.py:1: environment"),
    "file_lines": ({"cli.py": "x = 1\n" * 401}, "cli.py:1: file_lines"),
    "function_lines": ({"cli.py": "def f() -> None:\n" + "    print()\n" * 50}, "cli.py:1: function_lines"),
    "parameters": ({"cli.py": "def f(a, b, c, d, e, /, f, *g, h): ...\n"}, "cli.py:1: parameters"),
    "nesting": ({"cli.py": nested(4)}, "cli.py:1: nesting"),
    "nesting, of an else": (
        {"cli.py": "def f():\n for a in b:\n  if a: c\n  else:\n   with a:\n    try: x\n    except E: y\n"},
        "cli.py:1: nesting",
    ),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_found(tmp_path: Path, name: str) -> None:
    files, expected = BREACHES[name]
    code, found, rows = check(tmp_path, files)
    assert expected in found
    assert {line.rpartition(" ")[2] for line in found} - {"deferred"} <= {expected.rpartition(" ")[2]}
    assert code == 1
    assert not all(row["ok"] for row in rows.values())


KEPT = {
    "down": {
        "cli.py": "from tokenmill.data import words\nimport tokenmill.errors\n",
        "data/words.py": "",
        "errors.py": "",
    },
    "within a room": {"data/a.py": "from tokenmill.data.b import x\n", "data/b.py": ""},
    "the package's version": {
        "cli.py": "from tokenmill import __version__\n",
        "__init__.py": "__version__ = '1'\n",
    },
    "the folder and its modules": {"data/__init__.py": "from tokenmill.data import a\n", "data/a.py": ""},
    "deferred, optional": {"data/a.py": "def f() -> None:\n    import trafilatura\n"},
    "deferred for the start": {"storage.py": "def f() -> None:\n    import fsspec.spec\n"},
    "lean": {"training/a.py": "import json\nimport numpy\nimport torch\nfrom safetensors import x\n"},
    "torch": {"models/a.py": "import torch\n"},
    "environment": {"executors/worker.py": "import os\nx = os.environ['A']\n"},
    "environment, another's": {"cli.py": "import pty\nx = pty.environ\n"},
    "file_lines": {
        "cli.py": '"""Words.\n' + "more\n" * 500 + '"""\n' + "# comment\n\n" * 300 + "x = 1\n" * 400
    },
    "field docstrings": {"cli.py": "class C:\n" + '    a: int\n    """words\n    words"""\n' * 300},
    "function_lines": {
        "cli.py": "def f() -> None:\n" + '    """' + "words\n" * 60 + '"""\n' + "    print()\n" * 20
    },
    "parameters, self": {"cli.py": "class C:\n    def f(self, a, b, c, d, e, f, g): ...\n"},
    "parameters, of a kernel": {"kernels/a.py": "@triton.jit\ndef f(a, b, c, d, e, f, g, h, i): ...\n"},
    "nesting": {"cli.py": nested(3)},
    "nesting, elif": {"cli.py": "def f(x):\n" + "    if x: a\n" + "    elif x > 1: b\n" * 9},
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_lawful_passes(tmp_path: Path, name: str) -> None:
    code, found, rows = check(tmp_path, KEPT[name])
    assert found == []
    assert code == 0
    assert all(row["ok"] for row in rows.values())


def test_one_long_function_in_ten_is_too_many(tmp_path: Path) -> None:
    short, long = "def f() -> None:\n    pass\n", "def f() -> None:\n" + "    print()\n" * 25
    code, _, rows = check(tmp_path, {"cli.py": short * 9 + long})
    row = rows["functions longer than 25 code lines"]
    assert (code, row["value"], row["at_most"], row["ok"]) == (0, 0.1, 0.1, True)
    code, _, rows = check(tmp_path, {"cli.py": short * 8 + long})
    assert (code, rows["functions longer than 25 code lines"]["ok"]) == (1, False)


def test_a_docstring_inside_code_lines_counts_nothing_but_a_string_value_does(tmp_path: Path) -> None:
    _, _, rows = check(tmp_path, {"cli.py": 'x = """a\nb\nc"""\n\n"""words"""\n'})
    assert rows["largest file lines"]["value"] == 3


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "no "),
        (lambda root: (root / "setup.cfg").write_text("[mypy]\n"), "sections tokenmill:floors"),
        (lambda root: shutil.copy(ROOT / "setup.cfg", root), "no Python files"),
    ],
)
def test_without_law_or_source_it_fails_clearly(tmp_path: Path, prepare: Any, message: str) -> None:
    prepare(tmp_path)
    command = [sys.executable, str(ROOT / "tools/check_floors"), "--root", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_that_is_no_python_is_named(tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    (tmp_path / "src/tokenmill").mkdir(parents=True)
    (tmp_path / "src/tokenmill/cli.py").write_text("def f(:\n")
    command = [sys.executable, str(ROOT / "tools/check_floors"), "--root", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "cli.py:1:" in result.stderr
