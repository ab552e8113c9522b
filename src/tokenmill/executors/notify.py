"""Telling people that a run has ended: by webhook or mail, again for a while, never at the run's expense.

    mailto:me@example.org    mail, by a program that takes what sendmail takes, or by SMTP
    file:/home/me/.webhook   a file that holds the URL of a webhook: it is a secret, and stands in no YAML
    env:WEBHOOK              a variable that holds it
    https://...              the URL itself; it is not remembered

A webhook gets one POST of JSON with what ``Notice.plain`` says; ``text`` and ``content`` hold it in words, as
chat servers like it.
"""

import json
import os
import pwd
import random
import shutil
import smtplib
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tokenmill.errors import ConfigError
from tokenmill.executors.secrets import Redactor
from tokenmill.executors.site import Mail
from tokenmill.executors.units import duration, hours, price

_PAUSES_SECONDS = (0.0, 1.0, 4.0, 15.0)
"""Before each try; half of it more or less, by chance."""
_ANSWER_SECONDS = 10.0
_MOST_FAILURES = 20
_PROGRAM_FOLDERS = ("/usr/sbin", "/usr/lib")
_AGAIN = (408, 425, 429)
"""Refusals that may be taken back, beside the errors of servers."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """What is told when a run has ended."""

    run: str
    """Folder of the run."""
    recipe: str
    """Name of the recipe."""
    state: str
    """State of the run."""
    jobs: Sequence[Mapping[str, Any]]
    """Of every job its name, state, message, and numbers of shards."""
    failures: Sequence[str]
    """Why it is not complete, a line each."""
    seconds: float
    """Since the run was begun, in seconds."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    """What it took; see ``cost.Usage``."""

    def title(self) -> str:
        """The news in one line."""
        complete = sum(job["state"] == "complete" for job in self.jobs)
        return f"{self.recipe} {self.state}: {complete} of {len(self.jobs)} jobs complete"

    def text(self) -> str:
        """The news in words."""
        took = f"{hours(self.usage.get('core_hours', 0.0))} core-hours"
        if cost := self.usage.get("cost"):
            took += f", cost {price(cost)}"
        lines = [
            self.title(),
            f"{self.run} on {socket.gethostname()}, {duration(self.seconds)} after its begin, {took}",
        ]
        lines += self.failures[:_MOST_FAILURES]
        if more := len(self.failures) - _MOST_FAILURES:
            lines += [f"and {more} more"] if more > 0 else []
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {
            "event": "run_ended",
            "run": self.run,
            "recipe": self.recipe,
            "state": self.state,
            "host": socket.gethostname(),
            "seconds": round(self.seconds, 3),
            "jobs": [dict(job) for job in self.jobs],
            "failures": list(self.failures),
            "usage": dict(self.usage),
            "text": self.text(),
            "content": self.text(),
        }


@dataclass(frozen=True)
class Channel:
    """One way to tell people."""

    name: str
    """For people; holds no secret."""
    secrets: tuple[str, ...]
    """What must not be seen."""
    send: Callable[[Notice, Redactor], None]
    """Tell it once."""


class _RefusedError(Exception):
    """The other side has understood, and does not want it: another try would be in vain."""


_TRANSIENT = (OSError, HTTPException, smtplib.SMTPException, subprocess.SubprocessError)


def channels(targets: Sequence[str], mail: Mail, variable: Callable[[str], str]) -> list[Channel]:
    """Channels to targets; whatever is wrong with them is said before a run starts.

    Args:
        targets: mailto:, file:, env:, http: or https: URLs.
        mail: how mail leaves this site.
        variable: value of a variable of the environment; empty if it is not set.

    Raises:
        ConfigError: an unknown kind of target, a file or variable without a URL, or no program for mail.
    """
    return [_channel(target, mail, variable) for target in targets]


def tell(found: Sequence[Channel], notice: Notice, redactor: Redactor, warn: Callable[[str], None]) -> int:
    """Tell every channel, each for a while; returns how many have heard. Nothing is raised.

    Args:
        found: the channels.
        notice: what is told.
        redactor: hides secrets in it.
        warn: takes a line for each channel that could not be reached.
    """
    heard = 0
    for channel in found:
        error = _insist(channel, notice, redactor)
        heard += not error
        if error:
            warn(f"not told: {channel.name}: {Redactor(channel.secrets).text(redactor.text(error))}")
    return heard


def _insist(channel: Channel, notice: Notice, redactor: Redactor) -> str:
    """Try a few times; returns the last error."""
    error = ""
    for pause in _PAUSES_SECONDS:
        time.sleep(pause * random.uniform(0.5, 1.5))
        try:
            channel.send(notice, redactor)
        except _RefusedError as refusal:
            return str(refusal)
        except _TRANSIENT as trouble:
            error = f"{type(trouble).__name__}: {trouble}"
        else:
            return ""
    return f"{error} ({len(_PAUSES_SECONDS)} tries)"


def _channel(target: str, mail: Mail, variable: Callable[[str], str]) -> Channel:
    kind, _, rest = target.partition(":")
    if kind == "mailto" and "@" in rest:
        return _mail_channel(rest, mail)
    if kind in ("http", "https"):
        return _webhook(target, target)
    if kind == "file":
        try:
            return _webhook(Path(rest).expanduser().read_text(encoding="utf-8").strip(), target)
        except OSError as error:
            raise ConfigError(
                "the file of a webhook cannot be read", where=target, got=error.strerror or str(error)
            ) from error
    if kind == "env":
        return _webhook(variable(rest), target)
    raise ConfigError(
        "an unknown way to tell people",
        where="--notify or the site's notify",
        expected="mailto:ADDRESS, file:PATH or env:NAME of a webhook's URL, or https://...",
        got=target,
    )


# Webhooks


def _webhook(url: str, target: str) -> Channel:
    parts = urllib.parse.urlsplit(url)
    is_given = target == url
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "there is no URL of a webhook", where=target, expected="https://...", got="something else"
        )
    name = f"webhook of {parts.hostname}" + ("" if is_given else f" ({target})")

    def send(notice: Notice, redactor: Redactor) -> None:
        body = json.dumps(redactor.value(notice.plain()), ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "tokenmill"}
        request = urllib.request.Request(url, body, headers)  # noqa: S310 - the scheme is checked above
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - as above
                answer.read(1)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in _AGAIN:
                raise _RefusedError(f"it answers {error.code} {error.reason}") from error
            raise

    return Channel(name, (url, parts.path, parts.query), send)


# Mail


def _mail_channel(address: str, mail: Mail) -> Channel:
    if mail.smtp_host:
        return Channel(
            f"mail to {address}", (), lambda notice, redactor: _by_smtp(notice, address, mail, redactor)
        )
    program = shutil.which(mail.program) or shutil.which(mail.program, path=os.pathsep.join(_PROGRAM_FOLDERS))
    if program is None:
        raise ConfigError(
            "there is no program for mail",
            where=f"mailto:{address}",
            expected=f"{mail.program} on PATH",
            fix="name a program or an smtp_host under mail: in the site, or use a webhook",
        )
    return Channel(
        f"mail to {address}",
        (),
        lambda notice, redactor: _by_program(notice, address, mail, program, redactor),
    )


def message(notice: Notice, address: str, mail: Mail, redactor: Redactor) -> EmailMessage:
    """The mail to an address."""
    made = EmailMessage()
    made["To"] = address
    made["From"] = mail.sender or f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.getfqdn()}"
    made["Subject"] = redactor.text(f"[tokenmill] {notice.title()}")
    made["Auto-Submitted"] = "auto-generated"
    states = [
        f"{job['name']}: {job['state']} {job['done']}/{job['num_shards'] or '-'}" for job in notice.jobs
    ]
    made.set_content(redactor.text("\n".join([notice.text(), "", *states, ""])))
    return made


def _by_smtp(notice: Notice, address: str, mail: Mail, redactor: Redactor) -> None:
    with smtplib.SMTP(mail.smtp_host, mail.smtp_port, timeout=_ANSWER_SECONDS) as server:
        server.send_message(message(notice, address, mail, redactor))


def _by_program(notice: Notice, address: str, mail: Mail, program: str, redactor: Redactor) -> None:
    done = subprocess.run(
        [program, "-t", "-i"],
        input=message(notice, address, mail, redactor).as_bytes(),
        capture_output=True,
        timeout=6 * _ANSWER_SECONDS,
        check=False,
    )
    if done.returncode:
        words = " ".join(done.stderr.decode(errors="replace").split())
        raise OSError(f"{program} ended with {done.returncode}: {words}")
