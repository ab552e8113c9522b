"""Secrets: from files on the node into the worker's environment, and out of everything that is written.

    recipe or site:   secrets: {HF_TOKEN: /home/me/.hf_token}      names and files; values stand nowhere
    worker:           file (0600) ──load──> its environment ──> the entry
    what is written:  logs, records, reports, messages ──Redactor──> ***

A value is known to a process if its file is named in the run, or if it stands in the process's environment
under a name that says what it is (``telling``). Data that an entry writes as its output is the entry's own.

>>> Redactor(["hunter2-hunter2"]).text("login with hunter2-hunter2 failed")
'login with *** failed'
"""

import base64
import contextlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any, TextIO
from urllib.parse import quote

from tokenmill import storage
from tokenmill.errors import ConfigError

HIDDEN = "***"
"""What stands in the place of a secret."""
_LEAST_LETTERS = 8
"""Shorter values of the environment are left: they would be found in ordinary words."""
_FEWEST_LETTERS = 4
"""Of the value in a file."""
_LEAST_LINE = 16
"""Letters of a line of a secret of several lines (a private key) that is hidden by itself."""
_TELLING = re.compile(r"TOKEN(?!MILL|IZER)|SECRET|PASSW|CREDENTIAL|KEY", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Redactor:
    """Replaces known secrets in texts.

    Args:
        values: the secrets; also found as they stand in JSON, URLs and base64.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms = {form for value in values if value for form in _forms(value)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def text(self, text: str) -> str:
        """The text without secrets."""
        return self._pattern.sub(HIDDEN, text) if self._pattern else text

    def value(self, value: Any) -> Any:
        """Plain values with every text in them, keys included, without secrets."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def formatter(self, form: str) -> logging.Formatter:
        """A formatter of log lines, tracebacks included, without secrets."""
        return _RedactingFormatter(form, self)

    def stream(self, stream: TextIO) -> TextIO:
        """A text stream that hides secrets in what Python writes; the stream itself if none is known."""
        return _RedactingStream(stream, self) if self._pattern else stream  # type: ignore[return-value] # it passes everything else on


class _RedactingFormatter(logging.Formatter):
    def __init__(self, form: str, redactor: Redactor) -> None:
        super().__init__(form)
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.text(super().format(record))


class _RedactingStream:
    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream, self._redactor = stream, redactor

    def write(self, text: str) -> int:
        self._stream.write(self._redactor.text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _forms(value: str) -> set[str]:
    """A secret as it may stand in texts."""
    forms = {value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value), quote(value, safe="")}
    forms.add(base64.b64encode(value.encode()).decode().rstrip("="))
    forms |= {line.strip() for line in value.splitlines() if len(line.strip()) >= _LEAST_LINE}
    return forms


def telling(environment: Mapping[str, str]) -> list[str]:
    """Values of an environment that are secrets by their name; paths of files are not.

    >>> telling({"HF_TOKEN": "hf_0123456789", "HF_TOKEN_PATH": "/etc/passwd", "TOKENIZERS": "parallel"})
    ['hf_0123456789']
    """
    return [
        value
        for name, value in environment.items()
        if _TELLING.search(name) and len(value) >= _LEAST_LETTERS and not os.path.exists(value)
    ]


def check_variables(variables: Mapping[str, str], where: str) -> None:
    """Refuse variables whose values would stand in scripts though their names say that they are secrets.

    Raises:
        ConfigError: there is one.
    """
    for name, value in variables.items():
        if telling({name: value}):
            raise ConfigError(
                "a secret would stand in scripts for all to read",
                where=f"{where}, variables.{name}",
                fix=f"write its value into a file of mode 0600 and name that file as secrets.{name}",
            )


def load(files: Mapping[str, str]) -> dict[str, str]:
    """Values of secrets by name.

    Args:
        files: name of a variable -> file on this machine that holds its value.

    Raises:
        ConfigError: a file is missing, empty, or readable by others.
    """
    return {name: _read(name, path) for name, path in files.items()}


def check(files: Mapping[str, str], *, must_exist: bool = True) -> None:
    """Refuse names and files that a worker would refuse.

    Args:
        files: name of a variable -> file that holds its value.
        must_exist: a file that is missing on this machine is refused; else workers may have it.

    Raises:
        ConfigError: a bad name, or a file is missing, empty, or readable by others.
    """
    for name, path in files.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "a secret needs the name of a variable",
                where="secrets",
                expected="letters, digits and _",
                got=repr(name),
            )
        if must_exist or os.path.exists(path):
            _read(name, path)


def merged(recipe: Mapping[str, str], site: Mapping[str, str]) -> dict[str, str]:
    """Secrets of a recipe and of a site with absolute paths; the site knows its nodes, so its files win."""
    return {name: storage.absolute(path) for name, path in {**recipe, **site}.items()}


def files_of_run(run_url: str) -> dict[str, str]:
    """Names and files of a run's secrets, from run.json; empty for a folder that is no run."""
    url = storage.join(run_url, "run.json")
    return dict(storage.read_json(url)["recipe"].get("secrets", {})) if storage.exists(url) else {}


def files_of_job(job_url: str) -> dict[str, str]:
    """Names and files of the secrets of the run that a job's folder belongs to."""
    run_url, found, _ = job_url.rpartition("/jobs/")
    return files_of_run(run_url) if found else {}


def known_values(files: Mapping[str, str]) -> list[str]:
    """Values of those secrets that this process may read; of the others it cannot write anything."""
    values = []
    for name, path in files.items():
        with contextlib.suppress(ConfigError):
            values.append(_read(name, path))
    return values


def _read(name: str, path: str) -> str:
    where = f"secret {name}, {path}"
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            value = file.read()
    except OSError as error:
        raise ConfigError(
            "the file of a secret cannot be read",
            where=where,
            got=error.strerror or type(error).__name__,
            fix="write the value into that file on every node, with mode 0600",
        ) from error
    if mode & 0o077:
        raise ConfigError(
            "others may read the file of a secret",
            where=where,
            expected="mode 0600",
            got=f"mode {mode:04o}",
            fix=f"chmod 600 {path}",
        )
    try:
        text = value.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigError("the file of a secret is not text", where=where, expected="UTF-8") from error
    if len(text) < _FEWEST_LETTERS or "\0" in text:
        raise ConfigError(
            "the file of a secret holds no value",
            where=where,
            expected=f"text of {_FEWEST_LETTERS} letters or more: shorter ones cannot be hidden",
        )
    return text
