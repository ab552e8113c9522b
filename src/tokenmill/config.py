"""From YAML values to frozen dataclasses, and back.

    file.yaml ──load_yaml──> Values ──override("a.b=1")──> Values ──build──> a frozen dataclass
                                                                     <──plain──

The halls declare standard dataclasses and import no validator. This file alone checks values against
them: an unknown key fails with the nearest name, a wrong type says where it came from.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True, kw_only=True)
... class Sampling:
...     num_tokens: int
...     temperature: float = 1.0
>>> build(Sampling, {"num_tokens": 8}, "example")
Sampling(num_tokens=8, temperature=1.0)
>>> build(Sampling, {"num_token": 8}, "example")
Traceback (most recent call last):
tokenmill.errors.ConfigError: unknown key 'num_token'
  where: example: num_token
  expected: num_tokens, temperature
  fix: did you mean 'num_tokens'?
"""

import copy
import dataclasses
import importlib.metadata
import json
import re
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic
import yaml

from tokenmill import storage, values
from tokenmill.errors import ConfigError, InputError, MissingExtraError
from tokenmill.values import Path, Place, T, nearest, plain, unknown, wrong

__all__ = [
    "Path",
    "Place",
    "Values",
    "build",
    "load_entry",
    "load_yaml",
    "nearest",
    "override",
    "parse_override",
    "parse_yaml",
    "plain",
    "unknown",
]


@dataclass(frozen=True)
class Values:
    """Plain values of a YAML file and the places they come from."""

    mapping: dict[str, Any]
    """The values."""
    place: Place
    """Place of the whole."""


# YAML: the core schema of YAML 1.2 (`no` is Norwegian, not false; `1e-3` is a number) without duplicate keys.


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and remembers lines."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text, 16) if text.startswith("0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def _check_keys(node: yaml.Node, path: Path, source: str, origins: dict[Path, str]) -> None:
    """Fill ``origins`` with lines; refuse keys that are not text and keys that come twice."""
    origins[path] = f"line {node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_keys(item, (*path, str(index)), source, origins)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[Hashable, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        name = str(key.value)
        if name in lines:
            raise ConfigError(
                f"the key {name!r} is there twice",
                where=f"{source}: {'.'.join((*path, name))}",
                got=f"line {lines[name]} and line {line}",
                fix="remove or rename one of them",
            )
        lines[name] = line
        _check_keys(value, (*path, name), source, origins)
        origins[(*path, name)] = f"line {line}"


def parse_yaml(text: str, source: str) -> Values:
    """Values of a YAML text whose top is a mapping.

    Args:
        text: YAML.
        source: name for error messages.

    Raises:
        ConfigError: not YAML, not a mapping, or a key comes twice.
    """
    origins: dict[Path, str] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _check_keys(node, (), source, origins)
        mapping = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source} line {mark.line + 1}" if mark else source
        raise ConfigError("not valid YAML", where=where, got=error.problem or str(error)) from error
    except yaml.YAMLError as error:
        raise ConfigError("not valid YAML", where=source, got=str(error)) from error
    if not isinstance(mapping, dict):
        raise ConfigError(
            "a mapping is needed", where=source, expected="lines `key: value`", got=type(mapping).__name__
        )
    origins.pop((), None)
    return Values(mapping, Place(source, (), origins))


def load_yaml(url: str) -> Values:
    """Values of a YAML file.

    Raises:
        ConfigError: the file is missing, is not UTF-8, or see ``parse_yaml``.
    """
    try:
        return parse_yaml(storage.read_bytes(url).decode(), url)
    except InputError as error:
        raise ConfigError("file not found", where=url, fix="check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8 text", where=url, got=str(error)) from error
    except OSError as error:
        raise ConfigError("the file cannot be read", where=url, got=str(error)) from error


# Overrides


def parse_override(text: str) -> tuple[Path, Any]:
    """Split ``a.b.0.c=VALUE``; the value is YAML.

    >>> parse_override("jobs.train.config.learning_rate=1e-3")
    (('jobs', 'train', 'config', 'learning_rate'), 0.001)

    Raises:
        ConfigError: no ``=``, an empty key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ConfigError(
            "not an override", where=f"--set {text}", expected="KEY.KEY=VALUE", got=text, fix="see `--help`"
        )
    try:
        return path, parse_yaml(f"value: {value}", f"--set {text}").mapping["value"]
    except ConfigError:
        if re.match(r"\s*[\[{]", value):
            raise
        return path, value.strip()  # a path such as `a: b.warc` is text, though not YAML


def override(values: Values, overrides: Sequence[str]) -> Values:
    """New values with overrides by dotted path put in, later ones last; list items by number.

    Raises:
        ConfigError: an override does not parse, or goes through a value that is no mapping and no list.
    """
    mapping = copy.deepcopy(values.mapping)
    origins = dict(values.place.origins)
    for text in overrides:
        path, value = parse_override(text)
        holder: Any = mapping
        for depth, key in enumerate(path[:-1]):
            holder = _enter(holder, key, f"--set {text}: {'.'.join(path[: depth + 1])}")
        if isinstance(holder, list):
            _enter(holder, path[-1], f"--set {text}")
            holder[int(path[-1])] = value
        else:
            holder[path[-1]] = value
        origins[path] = f"--set {text}"
    return Values(mapping, dataclasses.replace(values.place, origins=origins))


def _enter(holder: Any, key: str, where: str) -> Any:
    """The value under a key, made if it is not there."""
    if isinstance(holder, list):
        if not key.isdigit() or int(key) >= len(holder):
            raise ConfigError("no such item", where=where, expected=f"0 to {len(holder) - 1}", got=key)
        return holder[int(key)]
    inner = holder.get(key)
    if inner is None:
        inner = holder[key] = {}
    if not isinstance(inner, dict | list):
        raise ConfigError("an override goes through a plain value", where=where, got=repr(inner))
    return inner


# Building

_YAML_WORDS = {"an object": "a mapping", "a valid array": "a list", "a valid dictionary": "a mapping"}


def build(cls: type[T], mapping: Mapping[str, Any], where: str | Place) -> T:
    """Build a frozen dataclass from values that a person wrote; see ``values.build``.

    Raises:
        ConfigError: unknown key, missing key, wrong type, unknown kind.
    """
    return values.build(cls, mapping, where, _validate)


def _validate(kind: Any, value: Any, place: Place) -> Any:
    """Check a value that holds no dataclass; JSON mode, so that a list may become a tuple."""
    try:
        text = json.dumps(value)
    except TypeError as error:
        raise wrong(value, "plain text, numbers, lists or mappings", place) from error
    try:
        return pydantic.TypeAdapter(kind).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        details = error.errors()
        place = place.at(*_location(details[0]["loc"], value))
        messages = (item["msg"].removeprefix("Input should be ") for item in details)
        wanted = dict.fromkeys(_YAML_WORDS.get(message, message) for message in messages)
        problem = wrong(details[0]["input"], " or ".join(wanted), place)
        if details[0]["type"] == "literal_error":
            problem = ConfigError(
                problem.what,
                where=problem.where,
                expected=problem.expected,
                got=problem.got,
                fix=nearest(str(value), map(str, typing.get_args(kind))),
            )
        raise problem from error


def _location(location: Sequence[Any], value: Any) -> list[Any]:
    """The part of pydantic's location that walks through the value; union labels are not in it."""
    walked: list[Any] = []
    for key in location:
        if (isinstance(value, Mapping) and key in value) or (
            isinstance(value, list | tuple) and isinstance(key, int) and key < len(value)
        ):
            value = value[key]
        else:
            break
        walked.append(key)
    return walked


# Entries


def load_entry(entry: str, where: str = "") -> tuple[Callable[..., None], type[Any]]:
    """Import an entry; see ``values.load_entry``. A missing package is named with its extra.

    Raises:
        ConfigError: no such module or function, or its config is not annotated with a dataclass.
        MissingExtraError: an optional package that it imports is not installed.
    """
    return values.load_entry(entry, where, _missing_package)


def _missing_package(package: str, entry: str) -> MissingExtraError:
    for requirement in importlib.metadata.requires("tokenmill") or []:
        found = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if found and found[1].replace("-", "_").lower() == package.split(".", maxsplit=1)[0].lower():
            return MissingExtraError.of(package, found[2], entry)
    return MissingExtraError(
        f"the package {package} is not installed", where=entry, fix=f"pip install {package}"
    )
