"""An entry that tells its secrets wherever it can."""

import logging
import os
import sys
from dataclasses import dataclass

from tokenmill.executors.job import Task


@dataclass(frozen=True, kw_only=True)
class Config:
    """Values of ``blab``."""

    variable: str = "CANARY_FILE"
    """Variable that holds the secret."""
    fail: bool = False
    """Raise an error that holds the secret."""
    seen: str = ""
    """Path of a file, outside the run folder, that gets the secret: proof that the entry had it."""


def blab(config: Config, task: Task) -> None:
    """Write the secret to the log, the streams, the figures and what people are told."""
    secret = os.environ[config.variable]
    with open(config.seen, "w", encoding="utf-8") as file:
        file.write(secret)
    print(f"out {secret}")
    print(f"err {secret}", file=sys.stderr)
    task.log.info("the secret is %s", secret)
    task.tell(f"working with {secret}")
    task.report.texts("Sample", items=[{"title": "login", "text": secret, "note": secret}])
    try:
        raise ValueError(secret)
    except ValueError:
        logging.getLogger("tokenmill.test").exception("with a traceback")
    if config.fail:
        raise RuntimeError(f"login with {secret} refused")
    with task.output(f"words/{task.rank}.txt") as out:
        out.write(b"done\n")
