"""Recipes and sites from YAML, checked as a whole before anything starts.

    configs/recipes/quickstart.yaml ─┐
    --set inputs.crawl=PATH ─────────┴─ load_recipe ─> Recipe(jobs with complete, typed configs)
    slurm/<site>.yaml ───────────────── load_site ───> Site

This room alone sees every hall: it imports the entry of each job and builds the entry's config, so that a
typo in the last job stops the run before the first one starts.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenmill
from tokenmill import config, storage
from tokenmill.config import Place
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors.job import Job, Recipe
from tokenmill.executors.site import Site

_CHECKOUT = Path(tokenmill.__file__).parents[2]
_RECIPE_KEYS = ("name", "inputs", "jobs", "secrets")


@dataclass(frozen=True, kw_only=True)
class _RecipeValues:
    """A recipe file."""

    name: str
    jobs: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, str | tuple[str, ...] | None] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)


def load_recipe(path: str, overrides: Sequence[str] = (), *, need_inputs: bool = True) -> Recipe:
    """Recipe of a YAML file with overrides put in; every job's config is built and complete.

    Args:
        path: a file, or the name of a recipe in ``configs/recipes``. The text ``${inputs.NAME}`` in a
            config means the path of that recipe input.
        overrides: ``key.key=value``; the value is YAML.
        need_inputs: whether the recipe's inputs must be there; a rehearsal does without.

    Raises:
        ConfigError: the file, an override, the graph or the config of a job is wrong.
        InputError: a recipe input is not there or has no bytes.
        MissingExtraError: an entry needs a package that is not installed.
    """
    url = find("recipe", path, "configs/recipes")
    values = config.load_yaml(url)
    _check_overrides(values.mapping, overrides)
    values = config.override(values, overrides)
    recipe = config.build(_RecipeValues, values.mapping, values.place)
    if not recipe.jobs:
        raise ConfigError("a recipe without jobs", where=url, expected="jobs: {name: {entry: ...}}")
    jobs = {
        name: _fill(job, recipe.inputs, values.place.at("jobs", name)) for name, job in recipe.jobs.items()
    }
    checked = tuple(_job(name, job, values.place.at("jobs", name)) for name, job in jobs.items())
    inputs = {
        name: _input_urls(name, value, values.place) if need_inputs else _as_named(value)
        for name, value in recipe.inputs.items()
    }
    return Recipe(name=recipe.name, inputs=inputs, jobs=checked, secrets=recipe.secrets)


def recipe_of_run(values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that a run recorded, checked against the code of today.

    Args:
        values: the plain values of a ``Recipe``.
        where: the file they come from.

    Raises:
        ConfigError: an entry or a config does not fit the installed version.
    """
    place = Place(where, ("recipe",))
    recipe = config.build(Recipe, values, place)
    for job in recipe.jobs:
        _with_config(job, place.at("jobs", job.name))
    return recipe


def load_site(name: str) -> Site:
    """Site of a YAML file.

    Args:
        name: a file, or the name of a site in ``slurm``.

    Raises:
        ConfigError: no such site, or a wrong key or value.
    """
    url = find("site", name, "slurm")
    values = config.load_yaml(url)
    return config.build(Site, {"name": Path(url).stem, **values.mapping}, values.place)


def find(what: str, name: str, folder: str) -> str:
    """URL of a YAML file given by path, or by name in a folder here or in the checkout of tokenmill.

    Raises:
        ConfigError: there is none.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not storage.exists(name):
            raise ConfigError(f"no such {what}", where=storage.absolute(name), fix="check the path")
        return name
    places = list(dict.fromkeys(path.absolute() for path in (Path(folder), _CHECKOUT / folder)))
    for place in places:
        if (place / f"{name}.yaml").is_file():
            return str(place / f"{name}.yaml")
    known = {path.stem for place in places for path in place.glob("*.yaml")}
    raise config.unknown(what, name, known, " and ".join(map(str, places)))


def _check_overrides(mapping: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse an override that would make a job or an input which the recipe does not have."""
    for text in overrides:
        path, _ = config.parse_override(text)
        if path[0] not in _RECIPE_KEYS:
            raise config.unknown("key", path[0], _RECIPE_KEYS, f"--set {text}")
        known = mapping.get(path[0])
        if path[0] != "secrets" and path[1:] and isinstance(known, Mapping) and path[1] not in known:
            raise config.unknown(path[0].removesuffix("s"), path[1], known, f"--set {text}")


def _fill(value: Any, inputs: Mapping[str, object], place: Place) -> Any:
    """The value with ``${inputs.NAME}`` replaced by the path of a recipe input.

    Raises:
        ConfigError: no such input, or it is a list.
    """
    if isinstance(value, Mapping):
        return {key: _fill(item, inputs, place.at(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, inputs, place.at(index)) for index, item in enumerate(value)]
    if not (isinstance(value, str) and (found := re.fullmatch(r"\$\{inputs\.(.*)\}", value))):
        return value
    if found[1] not in inputs:
        raise config.unknown("input", found[1], inputs, place)
    path = inputs[found[1]]
    if isinstance(path, tuple):
        raise ConfigError("a list stands where one path is needed", where=str(place), got=value)
    return storage.absolute(str(path)) if path is not None else value


def _job(name: str, mapping: Mapping[str, Any], place: Place) -> Job:
    """A job of a recipe file; its name is the key above it."""
    if "name" in mapping:
        raise config.unknown(
            "key", "name", {item.name for item in dataclasses.fields(Job)} - {"name"}, place.at("name")
        )
    return _with_config(config.build(Job, {**mapping, "name": name}, place), place)


def _with_config(job: Job, place: Place) -> Job:
    """The job with every value of its config written out.

    Raises:
        ConfigError: the entry or its config is wrong.
    """
    _, cls = config.load_entry(job.entry, str(place.at("entry")))
    built = config.build(cls, job.config, place.at("config"))
    return dataclasses.replace(job, config=config.plain(built))


def _as_named(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Absolute URLs of a recipe input, whether it is there or not."""
    named = [value] if isinstance(value, str) else value or ["not-given"]
    return tuple(storage.absolute(url) for url in named)


def _input_urls(name: str, value: str | Sequence[str] | None, place: Place) -> tuple[str, ...]:
    """Absolute URLs of a recipe input that is there and has bytes."""
    where = str(place.at("inputs", name))
    if value is None:
        raise ConfigError(
            f"the input {name!r} is not given",
            where=where,
            fix=f"--set inputs.{name}=PATH (a file, folder or glob)",
        )
    urls = tuple(storage.absolute(url) for url in ([value] if isinstance(value, str) else value))
    if not urls:
        raise InputError(f"the input {name!r} is an empty list", where=where, expected="at least one path")
    for url in urls:
        files = storage.list_files(url)
        if not files:
            raise InputError(f"the input {name!r} is not there", where=where, got=url, fix="check the path")
        if not any(file.num_bytes for file in files):
            raise InputError(
                f"the input {name!r} is empty", where=where, got=f"{url}: {len(files)} files, 0 bytes"
            )
    return urls
