"""What the queue holds of a run, for those who watch it; where it cannot be asked, it is done without."""

import time
from collections.abc import Mapping

from tokenmill import storage
from tokenmill.cli.placement import Placement, make_executor, recalled
from tokenmill.errors import TokenmillError
from tokenmill.executors.launch import Launch, launches_of
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.status import driver_of, folders_of

_LEAST_SECONDS = 1.0
"""Between two questions; a site's ``poll_seconds`` may ask for more."""


class Queue:
    """SLURM's queue, as far as it concerns a run.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: str) -> None:
        self._run_dir = run_dir
        self._executor: SlurmExecutor | None = None
        self._unknown = False
        self._asked = float("-inf")
        self._is_live = False
        self._words: Mapping[str, str] = {}
        placement = recalled(run_dir, Placement())
        if placement.executor == "slurm":
            try:
                executor = make_executor(placement)
            except TokenmillError:  # no SLURM here, or no such site: the folder says what is to be known
                self._unknown = True
                return
            self._executor = executor if isinstance(executor, SlurmExecutor) else None

    def goes_on(self) -> bool:
        """True if a driver works on the run, or the queue holds tasks of it, or nobody here can tell."""
        self._ask()
        if driver_of(self._run_dir) is not None or self._is_live:
            return True
        return self._unknown and any(
            not storage.exists(folder.at("manifest.json")) for folder in folders_of(self._run_dir).values()
        )

    def words(self) -> Mapping[str, str]:
        """Name of a job -> what waits in the queue, and why."""
        return self._words

    def _ask(self) -> None:
        executor = self._executor
        if executor is None or time.monotonic() - self._asked < max(_LEAST_SECONDS, executor.poll_seconds):
            return
        owner: dict[str, str] = {}
        launches: list[Launch] = []
        for name, folder in folders_of(self._run_dir).items():
            if not storage.exists(folder.at("manifest.json")):
                own = launches_of(folder)
                launches += own
                owner |= dict.fromkeys((launch.token for launch in own), name)
        live = executor.live(launches)
        self._is_live = live is None or bool(live)
        found: dict[str, list[str]] = {}
        for (token, reason), count in (executor.pending(launches) or {}).items() if live else ():
            found.setdefault(owner[token], []).append(f"{count} queued ({reason})")
        self._words = {name: ", ".join(texts) for name, texts in found.items()}
        self._asked = time.monotonic()
