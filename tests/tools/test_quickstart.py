"""The quickstart's launcher, the command line it makes, and its summary."""

import importlib
import importlib.util
import io
import json
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from rich.console import Console

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.fixture
def launcher():
    loader = SourceFileLoader("quickstart_launcher", str(TOOLS / "quickstart"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def story():
    return importlib.import_module("quickstart_story")


@pytest.fixture
def prepared():
    inputs = importlib.import_module("quickstart_input")

    def make(*crawl, is_text=False):
        return inputs.Prepared(
            crawl=crawl, is_text=is_text, items=Path("/c/items.jsonl"), language_model=Path("/c/lid.ftz")
        )

    return make


def test_an_old_python_finds_a_new_one_or_says_so(launcher, monkeypatch):
    monkeypatch.setattr(launcher, "OLDEST", (99, 0))
    monkeypatch.setattr(
        launcher.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "python3.4" else None
    )
    assert launcher.python_new_enough() == "/usr/bin/python3.4"
    monkeypatch.setattr(launcher.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"is too old[\s\S]*fix: install Python 99\.0"):
        launcher.python_new_enough()
    monkeypatch.setattr(launcher, "OLDEST", (3, 11))
    assert launcher.python_new_enough() == sys.executable


def test_a_failed_environment_is_told(launcher, monkeypatch):
    failed = type("Done", (), {"returncode": 1})
    monkeypatch.setattr(launcher.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit, match="environment could not be made"):
        launcher.enter_environment([])


def test_options_become_one_command(launcher, story, prepared):
    options = launcher.parse(
        [
            "--steps",
            "5",
            "--site",
            "here",
            "--executor",
            "slurm",
            "--run-dir",
            "a b",
            "--set",
            "inputs.items=x",
        ]
    )
    command = story.recipe_command(options, Path("/root"), prepared("/c/é 1"))
    assert command[1:7] == [
        "run",
        "/root/configs/recipes/quickstart.yaml",
        "--run-dir",
        "a b",
        "--executor",
        "slurm",
    ]
    assert command[7:9] == ["--site", "here"]
    sets = command[10::2]
    assert set(command[9::2]) == {"--set"}
    assert sets[0] == 'inputs.crawl=["/c/é 1"]'
    assert sets[3:] == [
        "jobs.train.config.num_steps=5",
        "jobs.train.config.schedule.warmup_steps=0",
        "inputs.items=x",
    ]


def test_texts_are_not_extracted(launcher, story, prepared):
    command = story.recipe_command(launcher.parse([]), Path("/root"), prepared("/c/a.jsonl", is_text=True))
    (blocks,) = [value for value in command if value.startswith("jobs.extract")]
    assert "kind: language" in blocks
    assert "kind: extract" not in blocks


def test_the_command_is_one_that_the_recipe_accepts(launcher, story, prepared, tmp_path):
    for package in ("torch", "fasttext", "tokenizers", "numba"):
        pytest.importorskip(package)
    recipes = importlib.import_module("tokenmill.recipes")
    for name in ("a.warc.gz", "items.jsonl", "lid.ftz"):
        (tmp_path / name).write_bytes(b"x")
    for is_text in (False, True):
        command = story.recipe_command(
            launcher.parse(["--steps", "30"]),
            TOOLS.parent,
            prepared(str(tmp_path / "a.warc.gz"), is_text=is_text),
        )
        values = [value.replace("/c/", f"{tmp_path}/") for value in command[8::2]]
        recipe = recipes.load_recipe(command[2], values)
        jobs = {job.name: job for job in recipe.jobs}
        assert jobs["train"].config["num_steps"] == 30
        kinds = [block["kind"] for block in jobs["extract"].config["blocks"]]
        assert kinds == (["language"] if is_text else ["extract", "language"])


REPORT = {
    "funnel": [
        {
            "name": "extract",
            "documents_in": 2000,
            "documents": 500,
            "dropped": [["language: low_score", 1500]],
        },
        {"name": "other", "documents_in": None, "documents": 3, "dropped": []},
        {"name": "empty", "documents_in": 0, "documents": 0, "dropped": []},
    ],
    "jobs": [
        {"figures": [{"title": "Loss", "lines": {"training": [[1, 9.0], [2, 4.5]], "held out": []}}]},
        {
            "figures": [
                {
                    "title": "Multiple choice",
                    "columns": ["task", "digest", "items", "random", "accuracy"],
                    "rows": [["arc_easy", "abc", 500, 0.25, "0.2700 ± 0.020"]],
                },
                {"title": "Generated text", "items": [{"title": "The [b]", "text": " end\nof it"}] * 5},
            ]
        },
    ],
}


def test_the_summary_shows_what_came_out(story):
    out = io.StringIO()
    story.show(REPORT, Console(file=out, width=80, highlight=False))
    text = out.getvalue()
    assert "extract      2,000 ->     500   25% kept\n              -1,500  language: low_score" in text
    assert "other" not in text
    assert "none kept" in text
    assert "training 9.00 -> 4.50" in text
    assert "arc_easy    500    0.25  0.2700 ± 0.020" in text
    assert "digest" not in text
    assert text.count("[The [b]] end of it") == story.NUM_SAMPLES


def test_an_error_is_one_block(story, launcher, capsys, tmp_path, monkeypatch):
    options = launcher.parse(["--input", str(tmp_path / "none"), "--cache", str(tmp_path / "cache")])
    inputs = importlib.import_module("quickstart_input")
    monkeypatch.setattr(inputs, "_made_once", lambda *_: tmp_path)
    assert story.tell(options, TOOLS.parent, 0.0) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the input does not exist\n  where: ")
    assert "Traceback" not in error


def test_a_failed_run_passes_its_words_and_its_exit_code_on(
    story, launcher, prepared, monkeypatch, tmp_path, capsys
):
    done = type("Done", (), {"returncode": 7, "stdout": "extract failed\n"})
    monkeypatch.setattr(story, "prepare", lambda *_: prepared("/c/pages"))
    monkeypatch.setattr(story.subprocess, "run", lambda *_, **__: done)
    (tmp_path / "report.json").write_text("of an older run")
    assert story.tell(launcher.parse(["--run-dir", str(tmp_path)]), TOOLS.parent, 0.0) == 7
    assert capsys.readouterr().out.endswith("extract failed\n")


def test_a_complete_run_ends_with_its_report(story, launcher, prepared, monkeypatch, tmp_path, capsys):
    done = type("Done", (), {"returncode": 0, "stdout": ""})
    monkeypatch.setattr(story, "prepare", lambda *_: prepared("/c/pages"))
    monkeypatch.setattr(story.subprocess, "run", lambda *_, **__: done)
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    assert story.tell(launcher.parse(["--run-dir", str(tmp_path)]), TOOLS.parent, 0.0) == 0
    assert f"report  {tmp_path}/report.html" in capsys.readouterr().out.splitlines()[-1]
