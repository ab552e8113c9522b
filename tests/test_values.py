"""Plain values become dataclasses without a validator, as workers need it."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tokenmill import config, recipes, values
from tokenmill.errors import ConfigError, MissingExtraError

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["inner"] = "inner"
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Outer:
    number: int = 0
    words: tuple[str, ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    pairs: tuple[tuple[int, float], ...] = ()
    items: list[int] = field(default_factory=list)
    shares: Mapping[str, float] = field(default_factory=dict)
    anything: Mapping[str, Any] = field(default_factory=dict)
    text: str | tuple[str, ...] | None = None
    either: int | float = 0
    schedule: Literal["cosine", "linear", 3] = "cosine"
    fused: bool = False
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()


FITTING = [
    {},
    {"number": 3, "words": ["a", "b"], "pair": [1, 2], "pairs": [[1, 2], [3, 4.5]], "items": [1]},
    {"shares": {"a": 1, "b": 0.5}, "anything": {"a": [1, {"b": None}]}, "text": ["x"]},
    {"text": "x", "either": 2, "schedule": 3, "fused": True},
    {"text": None, "either": 2.5, "schedule": "linear", "inner": {"rate": 2}, "inners": [{}, {"rate": 3.0}]},
]
WRONG = [
    ({"number": "3"}, "number"),
    ({"number": True}, "number"),
    ({"number": 3.5}, "number"),
    ({"words": "ab"}, "words"),
    ({"words": ["a", 1]}, "words.1"),
    ({"pair": [1]}, "pair"),
    ({"pairs": [[1, 2], [3, "x"]]}, "pairs.1.1"),
    ({"shares": {"a": "much"}}, "shares.a"),
    ({"shares": []}, "shares"),
    ({"schedule": "cosin"}, "schedule"),
    ({"fused": 1}, "fused"),
    ({"either": "x"}, "either"),
    ({"text": 5}, "text"),
    ({"inner": {"rate": "fast"}}, "inner.rate"),
    ({"inners": [{"rat": 1}]}, "inners.0.rat"),
    ({"numbr": 3}, "numbr"),
]


@pytest.mark.parametrize("mapping", FITTING)
def test_workers_build_what_the_border_builds(mapping):
    built = values.build(Outer, mapping, "job")
    assert built == config.build(Outer, mapping, "job")
    assert repr(built) == repr(config.build(Outer, mapping, "job"))  # 1 == 1.0
    assert values.build(Outer, values.plain(built), "job") == built


@pytest.mark.parametrize(("mapping", "where"), WRONG)
def test_workers_refuse_what_the_border_refuses(mapping, where):
    with pytest.raises(ConfigError) as caught:
        values.build(Outer, mapping, "job")
    assert caught.value.where == f"job: {where}"
    with pytest.raises(ConfigError):
        config.build(Outer, mapping, "job")


def test_every_config_of_the_recipes_is_built_alike(tmp_path):
    (tmp_path / "input").write_text("x")
    for path in sorted((CONFIGS / "recipes").glob("*.yaml")):
        inputs = config.load_yaml(str(path)).mapping["inputs"]
        recipe = recipes.load_recipe(str(path), [f"inputs.{name}={tmp_path / 'input'}" for name in inputs])
        for job in recipe.jobs:
            _, cls = config.load_entry(job.entry)
            built = values.build(cls, job.config, job.name)
            assert repr(built) == repr(config.build(cls, job.config, job.name))


def test_a_kind_that_cannot_be_written_down_is_refused():
    odd = dataclasses.make_dataclass("Odd", [("when", complex)])
    with pytest.raises(ConfigError, match="complex"):
        values.build(odd, {"when": 1}, "job")


def test_an_entry_that_lacks_a_package_is_said_so(tmp_path, monkeypatch):
    (tmp_path / "needs_a_package.py").write_text("import surely_not_installed")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtraError, match="pip install surely_not_installed"):
        values.load_entry("needs_a_package.run")


def test_a_worker_starts_without_what_it_does_not_need():
    code = "import sys, tokenmill.executors.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"pydantic", "submitit", "typer", "rich", "numpy", "torch"}
    assert not heavy & set(done.stdout.split())
