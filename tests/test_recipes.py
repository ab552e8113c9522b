"""Recipes and sites: everything is checked before anything starts."""

import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tokenmill import config, recipes
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors.job import Sharding, Task
from tokenmill.executors.site import Site

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Count:
    num_words: int = 3
    note: str = ""


def count(config: Count, task: Task) -> None:
    """An entry for recipes under test."""


RECIPE = f"""\
name: words
inputs: {{crawl: null}}
jobs:
  extract:
    entry: {__name__}.count
    inputs: {{source: crawl}}
    sharding: {{target_bytes: 8_000_000}}
  count:
    entry: {__name__}.count
    inputs: {{documents: extract.documents}}
    config: {{num_words: 5}}
    layout: gang
    resources: {{tasks: 2}}
"""


@pytest.fixture
def recipe_path(tmp_path):
    path = tmp_path / "mein Rezept ü.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture
def crawl(tmp_path):
    path = tmp_path / "crawl ü"
    path.mkdir()
    (path / "a.warc").write_text("x")
    (path / "b.warc").write_text("")
    return path


def test_a_recipe_has_complete_configs_and_absolute_inputs(recipe_path, crawl, monkeypatch):
    monkeypatch.chdir(crawl.parent)
    recipe = recipes.load_recipe(recipe_path, [f"inputs.crawl={crawl.name}", "jobs.count.config.note=no"])
    assert recipe.inputs == {"crawl": (str(crawl),)}
    extract, second = recipe.jobs
    assert extract.config == {"num_words": 3, "note": ""}
    assert extract.sharding == Sharding(target_bytes=8_000_000)
    assert second.config == {"num_words": 5, "note": "no"}
    assert (second.name, second.layout, second.resources.tasks) == ("count", "gang", 2)


def test_inputs_may_be_globs_and_lists(recipe_path, crawl):
    recipe = recipes.load_recipe(recipe_path, [f"inputs.crawl=['{crawl}/*.warc', '{crawl}/a.warc']"])
    assert recipe.inputs["crawl"] == (f"{crawl}/*.warc", f"{crawl}/a.warc")


def test_the_recipe_of_a_run_reads_back(recipe_path, crawl):
    recipe = recipes.load_recipe(recipe_path, [f"inputs.crawl={crawl}"])
    assert recipes.recipe_of_run(config.plain(recipe), "run.json") == recipe
    values = asdict(recipe)
    values["jobs"][1]["config"]["num_word"] = 3
    with pytest.raises(ConfigError, match="did you mean 'num_words'") as caught:
        recipes.recipe_of_run(values, "run.json")
    assert caught.value.where == "run.json: recipe.jobs.count.config.num_word"


@pytest.mark.parametrize(
    ("change", "where", "parts"),
    [
        ([], "line 2: inputs.crawl", ["not given", "--set inputs.crawl=PATH"]),
        (["inputs.crawl=/no/where"], "inputs.crawl", ["not there", "/no/where"]),
        (["inputs.crawl=[]"], "inputs.crawl", ["empty list"]),
        (["inputs.crawl=3"], "inputs.crawl", ["a valid string", "3 (int)"]),
        (["inputs.crwl=x"], "--set inputs.crwl=x", ["unknown input 'crwl'", "did you mean 'crawl'"]),
        (["jobs.cuont.layout=gang"], "--set", ["unknown job 'cuont'", "did you mean 'count'"]),
        (["job.count.layout=gang"], "--set", ["unknown key 'job'", "did you mean 'jobs'"]),
        (["jobs.count.config.num_word=3"], "jobs.count.config.num_word", ["did you mean 'num_words'"]),
        (["jobs.count.config.num_words=x"], "jobs.count.config.num_words", ["a valid integer"]),
        (["jobs.count.entry=tokenmill.no.run"], "jobs.count.entry", ["no module 'tokenmill.no'"]),
        (["jobs.count.layout=gangs"], "jobs.count.layout", ["did you mean 'gang'"]),
        (["jobs.count.resources.task=2"], "jobs.count.resources.task", ["did you mean 'tasks'"]),
        (["jobs.count.name=x"], "jobs.count.name", ["unknown key 'name'"]),
        (["jobs={}"], "", ["without jobs"]),
        (["jobs.count=null"], "jobs.count", ["a mapping"]),
        (["name=null"], "name", ["a valid string"]),
    ],
)
def test_mistakes_are_found_before_anything_starts(recipe_path, change, where, parts):
    with pytest.raises((ConfigError, InputError)) as caught:
        recipes.load_recipe(recipe_path, change)
    assert where in caught.value.where
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_config_may_hold_the_path_of_an_input(recipe_path, crawl, monkeypatch):
    monkeypatch.chdir(crawl)
    change = ["inputs.crawl=a.warc", "jobs.count.config.note=${inputs.crawl}"]
    assert recipes.load_recipe(recipe_path, change).jobs[1].config["note"] == str(crawl / "a.warc")
    change[1] = "jobs.count.config.note=${inputs.crwl}"
    with pytest.raises(ConfigError, match="did you mean 'crawl'") as caught:
        recipes.load_recipe(recipe_path, change)
    assert "jobs.count.config.note" in caught.value.where
    with pytest.raises(ConfigError, match="where one path is needed"):
        recipes.load_recipe(recipe_path, ["inputs.crawl=[a, b]", "jobs.count.config.note=${inputs.crawl}"])
    with pytest.raises(ConfigError, match="not given"):
        recipes.load_recipe(recipe_path, ["jobs.count.config.note=${inputs.crawl}"])


def test_a_wrong_reference_names_the_near_job(recipe_path, crawl):
    change = [f"inputs.crawl={crawl}", "jobs.count.inputs.documents=extrct.documents"]
    with pytest.raises(ConfigError, match="extract"):
        recipes.load_recipe(recipe_path, change)


def test_input_without_bytes(recipe_path, crawl):
    with pytest.raises(InputError, match="1 files, 0 bytes"):
        recipes.load_recipe(recipe_path, [f"inputs.crawl={crawl}/b.warc"])


def test_duplicate_jobs_are_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("  count:", "  extract:"))
    with pytest.raises(ConfigError, match="there twice") as caught:
        recipes.load_recipe(str(path))
    assert caught.value.got == "line 4 and line 8"


def test_a_recipe_by_name(tmp_path, monkeypatch, crawl):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs" / "recipes"
    folder.mkdir(parents=True)
    (folder / "words.yaml").write_text(RECIPE)
    assert recipes.load_recipe("words", [f"inputs.crawl={crawl}"]).name == "words"
    with pytest.raises(ConfigError, match="did you mean 'words'"):
        recipes.load_recipe("word", [])
    with pytest.raises(ConfigError, match="no such recipe"):
        recipes.load_recipe("words.yaml", [])


def test_sites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "big.yaml").write_text(
        textwrap.dedent("""\
            partition: cpu
            setup: [module load python]
            flags: {mem-per-cpu: 2G}
        """)
    )
    expected = Site(name="big", partition="cpu", setup=("module load python",), flags={"mem-per-cpu": "2G"})
    assert recipes.load_site("big") == expected
    assert recipes.load_site(str(tmp_path / "slurm" / "big.yaml")) == expected
    with pytest.raises(ConfigError, match="did you mean 'big'"):
        recipes.load_site("bigg")
    (tmp_path / "slurm" / "big.yaml").write_text("partion: cpu")
    with pytest.raises(ConfigError, match="did you mean 'partition'") as caught:
        recipes.load_site("big")
    assert "line 1" in caught.value.where


@pytest.mark.parametrize("path", sorted((ROOT / "slurm").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_site_here_is_valid(path):
    assert recipes.load_site(str(path)).name == path.stem


def test_the_quickstart_recipe_is_valid(crawl):
    pytest.importorskip("torch")
    pytest.importorskip("fastwarc")
    names = ("crawl", "items", "language_model")
    recipe = recipes.load_recipe("quickstart", [f"inputs.{name}={crawl}" for name in names])
    assert {job.name for job in recipe.jobs} >= {"extract", "dedup", "train", "evaluate", "generate"}
    assert recipe.jobs[0].config["blocks"][1]["model_path"] == str(crawl)
