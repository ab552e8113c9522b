"""YAML values, overrides and their building into dataclasses."""

import dataclasses
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from tokenmill import config
from tokenmill.errors import ConfigError, MissingExtraError
from tokenmill.executors.job import Job, Recipe, Task


@dataclass(frozen=True, kw_only=True)
class Length:
    min_words: int
    kind: Literal["length"] = "length"


@dataclass(frozen=True, kw_only=True)
class Language:
    kind: Literal["language"] = "language"
    languages: tuple[str, ...] = ("en",)
    threshold: float = 0.65


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ConfigError("learning_rate must be positive", got=str(self.learning_rate))
        if self.betas[0] >= self.betas[1]:
            raise ValueError("betas must rise")


@dataclass(frozen=True, kw_only=True)
class Everything:
    steps: int
    blocks: tuple[Length | Language, ...] = ()
    optimizer: Optimizer = field(default_factory=Optimizer)
    extra: Optimizer | None = None
    by_name: Mapping[str, Optimizer] = field(default_factory=dict)
    pair: tuple[str, Optimizer] | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    schedule: Literal["cosine", "linear"] = "cosine"
    fused: bool = False
    limit: int | None = None
    path: str = ""


def failure(mapping: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.build(Everything, mapping, "recipe.yaml")
    return caught.value


def test_build_nested_values_and_round_trip():
    mapping = {
        "steps": 3,
        "blocks": [{"kind": "language", "languages": ["en", "no"]}, {"kind": "length", "min_words": 5}],
        "optimizer": {"learning_rate": 1},
        "extra": {"betas": [0.1, 0.2]},
        "by_name": {"a": {"learning_rate": 0.5}},
        "pair": ["x", {}],
        "shares": {"web": 0.75, "code": 1},
        "limit": None,
    }
    built = config.build(Everything, mapping, "test")
    assert built.blocks == (Language(languages=("en", "no")), Length(min_words=5))
    assert built.extra == Optimizer(betas=(0.1, 0.2))
    assert built.pair == ("x", Optimizer())
    assert isinstance(built.optimizer.learning_rate, float)
    assert isinstance(built.shares["code"], float)
    again = config.plain(built)
    assert again["blocks"][0]["languages"] == ["en", "no"]
    assert config.build(Everything, again, "test") == built


@pytest.mark.parametrize(
    ("mapping", "where", "parts"),
    [
        ({"step": 3}, "recipe.yaml: step", ["unknown key 'step'", "did you mean 'steps'"]),
        ({}, "recipe.yaml", ["the key 'steps' is missing", "int"]),
        ({"steps": "3"}, "recipe.yaml: steps", ["a valid integer", "'3' (str)"]),
        ({"steps": 3.5}, "recipe.yaml: steps", ["3.5 (float)"]),
        ({"steps": True}, "recipe.yaml: steps", ["True (bool)"]),
        ({"steps": 1, "fused": 1}, "recipe.yaml: fused", ["a valid boolean", "1 (int)"]),
        ({"steps": 1, "path": 7}, "recipe.yaml: path", ["a valid string", "7 (int)"]),
        ({"steps": 1, "limit": "x"}, "recipe.yaml: limit", ["a valid integer"]),
        (
            {"steps": 1, "schedule": "cosin"},
            "recipe.yaml: schedule",
            ["'cosine' or 'linear'", "did you mean 'cosine'"],
        ),
        ({"steps": 1, "shares": {"web": "much"}}, "recipe.yaml: shares.web", ["a valid number"]),
        ({"steps": 1, "optimizer": {"betas": [1, "b"]}}, "recipe.yaml: optimizer.betas.1", ["'b' (str)"]),
        ({"steps": 1, "optimizer": {"betas": [1]}}, "recipe.yaml: optimizer.betas", []),
        ({"steps": 1, "optimizer": 5}, "recipe.yaml: optimizer", ["a mapping of Optimizer", "5 (int)"]),
        (
            {"steps": 1, "optimizer": {"learning_rat": 5}},
            "recipe.yaml: optimizer.learning_rat",
            ["'learning_rate'"],
        ),
        (
            {"steps": 1, "optimizer": {"learning_rate": -1}},
            "recipe.yaml: optimizer",
            ["must be positive", "-1.0"],
        ),
        ({"steps": 1, "optimizer": {"betas": [0.9, 0.1]}}, "recipe.yaml: optimizer", ["betas must rise"]),
        ({"steps": 1, "extra": [1]}, "recipe.yaml: extra", ["a mapping of Optimizer"]),
        ({"steps": 1, "pair": ["x"]}, "recipe.yaml: pair", ["2 items"]),
        ({"steps": 1, "by_name": []}, "recipe.yaml: by_name", ["a mapping"]),
        ({"steps": 1, "blocks": {"kind": "length"}}, "recipe.yaml: blocks", ["a list"]),
        ({"steps": 1, "blocks": [{}]}, "recipe.yaml: blocks.0", ["'kind' is missing", "language, length"]),
        (
            {"steps": 1, "blocks": [{"kind": "lenght"}]},
            "recipe.yaml: blocks.0.kind",
            ["did you mean 'length'"],
        ),
        ({"steps": 1, "blocks": [{"kind": "length"}]}, "recipe.yaml: blocks.0", ["'min_words' is missing"]),
        (
            {"steps": 1, "blocks": [{"kind": "length", "threshold": 1}]},
            "recipe.yaml: blocks.0.threshold",
            ["unknown key", "kind, min_words"],
        ),
        ({"steps": {1, 2}}, "recipe.yaml: steps", ["plain text"]),
    ],
)
def test_wrong_values_say_key_expected_and_got(mapping, where, parts):
    error = failure(mapping)
    assert error.where == where
    assert all(part in str(error) for part in parts), str(error)


def test_long_values_are_cut_in_messages():
    assert len(failure({"steps": "x" * 10_000}).got) < 200


def test_a_recipe_survives_the_round_trip():
    recipe = Recipe(name="r", inputs={"a": ("x", "y")}, jobs=(Job(name="j", entry="m.f", inputs={"i": "a"}),))
    assert config.build(Recipe, config.plain(recipe), "run.json") == recipe
    assert config.build(Recipe, dataclasses.asdict(recipe), "run.json") == recipe


def test_yaml_numbers_and_words_mean_what_they_look_like():
    text = (
        "{a: 1e-3, b: no, c: 1_000, d: 12:30, e: 2024-01-01, f: yes, g: ~, h: true, i: 0x1f, j: 010, k: .5}"
    )
    assert config.parse_yaml(text, "t").mapping == {
        "a": 0.001, "b": "no", "c": 1000, "d": "12:30", "e": "2024-01-01", "f": "yes",
        "g": None, "h": True, "i": 31, "j": 10, "k": 0.5,
    }  # fmt: skip
    assert config.parse_yaml("a: .inf", "t").mapping["a"] == float("inf")


def test_duplicate_keys_are_refused_with_both_lines():
    text = textwrap.dedent("""\
        jobs:
          extract: {entry: a.b}
          filter: {entry: a.b}
          extract: {entry: a.c}
    """)
    with pytest.raises(ConfigError) as caught:
        config.parse_yaml(text, "r.yaml")
    assert caught.value.where == "r.yaml: jobs.extract"
    assert caught.value.got == "line 2 and line 4"


@pytest.mark.parametrize(
    ("text", "where", "part"),
    [
        ("a: [1\nb: 2", "r.yaml line 2", "not valid YAML"),
        ("a: 'x", "r.yaml line 1", "not valid YAML"),
        ("- 1", "r.yaml", "a mapping is needed"),
        ("", "r.yaml", "NoneType"),
        ("a: !!python/object:os.system {}", "r.yaml line 1", "not valid YAML"),
        ("a: *b", "r.yaml line 1", "not valid YAML"),
        ("a: \x07", "r.yaml", "not valid YAML"),
        ("a: 1\n---\nb: 1", "r.yaml line 2", "not valid YAML"),
    ],
)
def test_broken_yaml_names_file_and_line(text, where, part):
    with pytest.raises(ConfigError, match=part) as caught:
        config.parse_yaml(text, "r.yaml")
    assert caught.value.where == where


def test_load_yaml(tmp_path):
    path = tmp_path / "räcipe mit Raum.yaml"
    path.write_text("a: ü\n")
    assert config.load_yaml(str(path)).mapping == {"a": "ü"}
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load_yaml(str(path))
    with pytest.raises(ConfigError, match="file not found"):
        config.load_yaml(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load_yaml(str(tmp_path))


def test_places_name_the_line_or_the_override():
    values = config.parse_yaml("steps: 1\noptimizer:\n  learning_rate: fast\n", "r.yaml")
    with pytest.raises(ConfigError) as caught:
        config.build(Everything, values.mapping, values.place)
    assert caught.value.where == "r.yaml line 3: optimizer.learning_rate"
    values = config.override(values, ["optimizer.learning_rate=slow"])
    with pytest.raises(ConfigError) as caught:
        config.build(Everything, values.mapping, values.place)
    assert caught.value.where == "r.yaml --set optimizer.learning_rate=slow: optimizer.learning_rate"


def test_overrides_by_dotted_path():
    values = config.parse_yaml("a: {b: 1, c: [1, {d: 2}]}\ne: null", "t")
    changed = config.override(
        values,
        ["a.b=2", "a.b=3", "a.c.1.d=[x, y]", "a.c.0=null", "e.f.g=true", "h=/a: part 1/*.warc"],
    )
    assert changed.mapping == {
        "a": {"b": 3, "c": [None, {"d": ["x", "y"]}]}, "e": {"f": {"g": True}}, "h": "/a: part 1/*.warc",
    }  # fmt: skip
    assert values.mapping == {"a": {"b": 1, "c": [1, {"d": 2}]}, "e": None}
    assert config.override(values, ["a.b=x=y"]).mapping["a"]["b"] == "x=y"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a.b", "not an override"),
        ("=1", "not an override"),
        ("a..b=1", "not an override"),
        ("a.b.c=1", "goes through a plain value"),
        ("l.5=1", "no such item"),
        ("l.x=1", "no such item"),
        ("l.x.y=1", "no such item"),
        ("a.b=[1", "not valid YAML"),
    ],
)
def test_wrong_overrides(text, part):
    values = config.parse_yaml("a: {b: 1}\nl: [1, 2]", "t")
    with pytest.raises(ConfigError, match=part) as caught:
        config.override(values, [text])
    assert text in caught.value.where


def entry(config: Everything, task: Task) -> None:
    """An entry."""


def bare(config, task):
    """No annotation."""


def test_load_entry():
    assert config.load_entry(f"{__name__}.entry") == (entry, Everything)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("entry", "not an entry"),
        ("tokenmill.nothing.run", "no module 'tokenmill.nothing'"),
        ("nowhere_at_all.run", "no module 'nowhere_at_all'"),
        (f"{__name__}.entri", "did you mean 'entry'"),
        (f"{__name__}.bare", "is not an entry"),
        (f"{__name__}.Everything", "is not an entry"),
    ],
)
def test_wrong_entries(name, part):
    with pytest.raises(ConfigError, match=part):
        config.load_entry(name, "here")


def test_an_entry_that_lacks_a_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "needs_torch.py").write_text("import torch")
    (tmp_path / "needs_other.py").write_text("import surely_not_installed")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"tokenmill\[train\]"):
        config.load_entry("needs_torch.run")
    with pytest.raises(MissingExtraError, match="pip install surely_not_installed"):
        config.load_entry("needs_other.run")
