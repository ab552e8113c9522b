"""Plain values become frozen dataclasses, and back; entries are found by their dotted names.

    plain values ──build──> a frozen dataclass
                 <──plain──

Workers start by the thousand, so this module imports nothing but the standard library; ``config`` puts YAML
and a stricter check in front of it.

>>> @dataclass(frozen=True, kw_only=True)
... class Sampling:
...     num_tokens: int
...     temperature: float = 1.0
>>> build(Sampling, {"num_tokens": 8, "temperature": 1}, "example")
Sampling(num_tokens=8, temperature=1.0)
"""

import dataclasses
import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from tokenmill.errors import ConfigError, MissingExtraError

T = TypeVar("T")
Path = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a value stands: file, line or override, and dotted key."""

    source: str
    """File or other origin."""
    path: Path = ()
    """Keys from the top of the source."""
    origins: Mapping[Path, str] = field(default_factory=dict)
    """``line 3`` or the text of an override, for the keys that are known."""

    def at(self, *keys: str | int) -> "Place":
        """Place of a value below this one."""
        return dataclasses.replace(self, path=(*self.path, *map(str, keys)))

    def __str__(self) -> str:
        path = self.path
        while path and path not in self.origins:
            path = path[:-1]
        source = f"{self.source} {self.origins[path]}" if path in self.origins else self.source
        return f"{source}: {'.'.join(self.path)}" if self.path else source


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known word, empty if none is close."""
    close = difflib.get_close_matches(word, list(known), n=2)
    return f"did you mean {' or '.join(repr(name) for name in close)}?" if close else ""


def unknown(what: str, word: str, known: Iterable[str], where: object) -> ConfigError:
    """The error for a name that is not one of the known names."""
    names = sorted(known)
    return ConfigError(
        f"unknown {what} {word!r}",
        where=str(where),
        expected=", ".join(names) or "none",
        fix=nearest(word, names),
    )


Check = Callable[[Any, Any, Place], Any]
"""Gives a value of a kind, or raises ConfigError: (kind, value, place) -> value."""


# Building


def build(cls: type[T], mapping: Mapping[str, Any], where: "str | Place", check: "Check | None" = None) -> T:
    """Build a frozen dataclass from plain values, checked strictly.

    Members of a union of dataclasses are told apart by their field ``kind``, a ``Literal``.

    Args:
        cls: a standard dataclass; fields may be plain, dataclasses, unions, tuples and mappings of these.
        mapping: plain values.
        where: source for error messages.
        check: of values that hold no dataclass; ``fit`` if not given.

    Raises:
        ConfigError: unknown key, missing key, wrong type, unknown kind.
    """
    place = where if isinstance(where, Place) else Place(where)
    return cast("T", _build_value(cls, mapping, place, check or fit))


def _build_value(kind: Any, value: Any, place: Place, check: Check) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(cast("type[Any]", kind), value, place, check)
    if not _holds_dataclass(kind):
        return check(kind, value, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _build_value(arguments[0], value, place, check)
    if origin in (typing.Union, types.UnionType):
        return _build_union(arguments, value, place, check)
    if issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise wrong(value, "a mapping", place)
        return {key: _build_value(arguments[1], item, place.at(key), check) for key, item in value.items()}
    if not isinstance(value, list | tuple):
        raise wrong(value, "a list", place)
    members = [arguments[0]] * len(value) if arguments[-1] is ... or len(arguments) == 1 else arguments
    if len(members) != len(value):
        raise wrong(value, f"{len(members)} items", place)
    items = [
        _build_value(member, item, place.at(index), check)
        for index, (member, item) in enumerate(zip(members, value, strict=True))
    ]
    return items if origin is list else tuple(items)


def _holds_dataclass(kind: Any) -> bool:
    return any(dataclasses.is_dataclass(part) or _holds_dataclass(part) for part in typing.get_args(kind))


def _build_dataclass(cls: type[Any], value: Any, place: Place, check: Check) -> Any:
    if not isinstance(value, Mapping):
        raise wrong(value, f"a mapping of {cls.__name__}", place)
    kinds = typing.get_type_hints(cls, include_extras=True)
    known = {item.name: item for item in dataclasses.fields(cls) if item.init}
    for key in value:
        if key not in known:
            raise unknown("key", str(key), known, place.at(str(key)))
    for name, item in known.items():
        no_default = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if no_default and name not in value:
            raise ConfigError(f"the key {name!r} is missing", where=str(place), expected=_words(kinds[name]))
    arguments = {key: _build_value(kinds[key], item, place.at(key), check) for key, item in value.items()}
    try:
        return cls(**arguments)
    except ConfigError as error:
        inner = ": ".join(part for part in (str(place), error.where) if part)
        raise ConfigError(
            error.what, where=inner, expected=error.expected, got=error.got, fix=error.fix
        ) from error
    except ValueError as error:
        raise ConfigError("the values do not go together", where=str(place), got=str(error)) from error


def _build_union(members: Sequence[Any], value: Any, place: Place, check: Check) -> Any:
    if value is None and type(None) in members:
        return None
    classes = [member for member in members if dataclasses.is_dataclass(member) and isinstance(member, type)]
    if classes and isinstance(value, Mapping):
        return _build_dataclass(_member(classes, value, place), value, place, check)
    rest = [member for member in members if member not in classes and member is not type(None)]
    if not rest:
        raise wrong(value, f"a mapping of {' or '.join(item.__name__ for item in classes)}", place)
    return _build_value(typing.Union[tuple(rest)], value, place, check)  # noqa: UP007 - a union made at run time


def _member(classes: Sequence[type[Any]], value: Mapping[str, Any], place: Place) -> type[Any]:
    """The class of a union that the value's ``kind`` names."""
    if len(classes) == 1:
        return classes[0]
    by_kind = {
        kind: cls for cls in classes for kind in typing.get_args(typing.get_type_hints(cls).get("kind"))
    }
    if "kind" not in value:
        names = ", ".join(sorted(by_kind))
        raise ConfigError("the key 'kind' is missing", where=str(place), expected=names)
    kind = str(value["kind"])
    if kind not in by_kind:
        raise unknown("kind", kind, by_kind, place.at("kind"))
    return by_kind[kind]


def _words(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)) if typing.get_origin(kind) is None else str(kind)


def wrong(value: Any, expected: str, place: Place) -> ConfigError:
    """The error for a value of a wrong kind."""
    key = place.path[-1] if place.path else "value"
    text = repr(value)
    shown = text if len(text) <= 120 else f"{text[:117]}..."
    got = f"{shown} ({type(value).__name__})"
    return ConfigError(f"wrong value for {key!r}", where=str(place), expected=expected, got=got)


def fit(kind: Any, value: Any, place: Place) -> Any:
    """Check a value that holds no dataclass: text, numbers, truth, null, literals, lists, mappings of these.

    Raises:
        ConfigError: the value is of another kind.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _fit_union(arguments, value, place)
    if origin is typing.Annotated:
        return fit(arguments[0], value, place)
    if origin is typing.Literal:
        known = any(value == word and type(value) is type(word) for word in arguments)
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {key: fit(arguments[1], item, place.at(str(key))) for key, item in value.items()}
    elif origin in (tuple, list, Sequence) and isinstance(value, list | tuple):
        return _fit_items(origin, arguments, value, place)
    elif kind is float and type(value) is int:
        return float(value)
    else:
        known = kind is Any or (isinstance(kind, type) and type(value) is kind)
    if not known:
        raise wrong(value, _words(kind), place)
    return value


def _fit_union(members: Sequence[Any], value: Any, place: Place) -> Any:
    if type(value) in members:
        return value
    for member in members:
        try:
            return fit(member, value, place)
        except ConfigError:
            continue
    raise wrong(value, " or ".join(map(_words, members)), place)


def _fit_items(origin: Any, arguments: Sequence[Any], value: Sequence[Any], place: Place) -> Any:
    same = len(arguments) == 1 or arguments[-1] is ...
    members = [arguments[0]] * len(value) if same else arguments
    if len(members) != len(value):
        raise wrong(value, f"{len(members)} items", place)
    items = [
        fit(member, item, place.at(index))
        for index, (member, item) in enumerate(zip(members, value, strict=True))
    ]
    return tuple(items) if origin is tuple else items


def plain(value: Any) -> Any:
    """Plain mappings, lists, text and numbers of a dataclass; the inverse of ``build``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


# Entries


def _not_installed(package: str, entry: str) -> MissingExtraError:
    return MissingExtraError(
        f"the package {package} is not installed", where=entry, fix=f"pip install {package}"
    )


def load_entry(
    entry: str, where: str = "", missing: Callable[[str, str], MissingExtraError] = _not_installed
) -> tuple[Callable[..., None], type[Any]]:
    """Import an entry; give the function and the dataclass that annotates its first parameter.

    Args:
        entry: dotted name.
        where: source for error messages.
        missing: makes the error for a package that is not installed, from its name and the entry.

    Raises:
        ConfigError: no such module or function, or its config is not annotated with a dataclass.
        MissingExtraError: an optional package that it imports is not installed.
    """
    module_name, _, name = entry.rpartition(".")
    if not module_name:
        raise ConfigError(
            "not an entry", where=where, expected="a dotted name package.module.function", got=entry
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        package = error.name or ""
        if module_name == package or module_name.startswith(f"{package}."):
            raise ConfigError(f"no module {package!r}", where=where, got=f"entry: {entry}") from error
        raise missing(package, entry) from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, item in vars(module).items() if inspect.isfunction(item)]
        raise ConfigError(
            f"no function {name!r} in {module_name}",
            where=where,
            got=f"entry: {entry}",
            fix=nearest(name, functions),
        )
    parameters = list(inspect.signature(function).parameters)
    cls = typing.get_type_hints(function).get(parameters[0]) if parameters else None
    if len(parameters) != 2 or not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(
            f"{entry} is not an entry", where=where, expected="run(config: SomeDataclass, task: Task) -> None"
        )
    return cast("Callable[..., None]", function), cls
