"""Which driver decides: one at a time, each with a number that grows.

    drivers/000003.json   the claim of the third driver of a run: whoever publishes it first has it
    driver.json           the driver that works now, rewritten while it lives

A driver that was thought dead and wakes up finds a higher number and decides nothing any more. What it had
submitted is harmless: commits decide.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tokenmill import storage
from tokenmill.errors import IdentityError, TokenmillError
from tokenmill.executors.leases import machine_id, start_time
from tokenmill.executors.status import driver_of

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 30.0
"""A driver on another machine that was silent for so long is taken to be dead."""


@dataclass(frozen=True)
class Reign:
    """A driver's claim to decide."""

    run_url: str = ""
    """Folder of the run; empty: nobody else can claim it."""
    epoch: int = 0
    """Number of the claim."""

    def check(self) -> None:
        """Refuse to decide after another driver has taken over.

        Raises:
            IdentityError: one has.
        """
        if self.run_url and (newest := newest_epoch(self.run_url)) != self.epoch:
            raise IdentityError(
                "another driver has taken over this run",
                where=self.run_url,
                expected=f"driver {self.epoch}",
                got=f"driver {newest}",
                fix="nothing is lost: the other one goes on; tokenmill status shows it",
            )


def newest_epoch(run_url: str) -> int:
    """Number of the last claim; 0 if there was none."""
    names = storage.list_names(storage.join(run_url, "drivers"))
    return max((int(name.removesuffix(".json")) for name in names), default=0)


@contextmanager
def reign_over(run_url: str) -> Iterator[Reign]:
    """Be the one driver of a run while this lasts.

    A driver on another machine whose sign of life stands still is waited for and then replaced.

    Raises:
        IdentityError: a living driver works on the run, or another one claimed it at the same moment.
    """
    _wait_for_silence(run_url)
    reign = Reign(run_url, newest_epoch(run_url) + 1)
    mine = {
        "epoch": reign.epoch,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": start_time(os.getpid()),
        "machine": machine_id(),
    }
    claim = storage.join(run_url, "drivers", f"{reign.epoch:06d}.json")
    if not storage.publish_once(claim, storage.dump_json(mine)):
        raise _refusal(run_url, dict(storage.read_json(claim)))
    url = storage.join(run_url, "driver.json")
    over = threading.Event()
    number = 0

    def show_life() -> None:
        nonlocal number
        number += 1
        storage.write_atomic(url, storage.dump_json(mine | {"number": number}), durable=False)

    show_life()
    thread = threading.Thread(target=_beat, args=(over, reign, show_life), name="reign", daemon=True)
    thread.start()
    try:
        yield reign
    finally:
        over.set()
        thread.join(BEAT_SECONDS)
        if newest_epoch(run_url) == reign.epoch:
            storage.remove(url)


def _beat(over: threading.Event, reign: Reign, show_life: Callable[[], None]) -> None:
    while not over.wait(BEAT_SECONDS):
        with suppress(TokenmillError, OSError):
            reign.check()
            show_life()


def _wait_for_silence(run_url: str) -> None:
    """Return once no driver shows life.

    Raises:
        IdentityError: one does.
    """
    other = driver_of(run_url)
    if other is None:
        return
    if other.get("machine") == machine_id():
        if other["pid"] != os.getpid():
            raise _refusal(run_url, other)
        return
    deadline = time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        now = driver_of(run_url)
        if now is None:
            return
        if now.get("number") != other.get("number"):
            raise _refusal(run_url, now)


def _refusal(run_url: str, other: dict[str, Any]) -> IdentityError:
    return IdentityError(
        "another driver works on this run",
        where=run_url,
        got=f"process {other['pid']} on {other['host']}",
        fix="wait for it, or end that process and run this again",
    )
