"""Telling the world how a run goes: numbers for Prometheus while it runs, a notice when it has ended."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import typer

from tokenmill import config, storage
from tokenmill.errors import ConfigError, JobError, TokenmillError
from tokenmill.executors import notify, prometheus
from tokenmill.executors.cost import total
from tokenmill.executors.launch import Executor
from tokenmill.executors.notify import Channel, Notice
from tokenmill.executors.report import overall_state
from tokenmill.executors.secrets import Redactor
from tokenmill.executors.site import Site
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.status import read_run
from tokenmill.executors.watch import JobView
from tokenmill.executors.worker import variable

PrometheusOption = Annotated[
    str, typer.Option("--prometheus", metavar="FILE", help="Keep numbers for Prometheus in FILE.")
]


@dataclass(frozen=True, kw_only=True)
class Telling:
    """Who is told what."""

    prometheus: PrometheusOption = ""
    notify: Annotated[
        list[str] | None,
        typer.Option(
            "--notify",
            metavar="TARGET",
            help="Tell TARGET when the run has ended: mailto:ADDRESS, a webhook's URL, or file:PATH or "
            "env:NAME that holds one; may come often.",
        ),
    ] = None


def _url(run_dir: str) -> str:
    return storage.join(run_dir, "telling.json")


def remember_telling(run_dir: str, telling: Telling) -> None:
    """Let ``resume`` tell the same people; URLs of webhooks are secrets and left out."""
    kept = [target for target in telling.notify or () if not target.startswith(("http:", "https:"))]
    path = storage.absolute(telling.prometheus) if telling.prometheus else ""
    value = asdict(replace(telling, prometheus=path, notify=kept))
    storage.write_atomic(_url(run_dir), storage.dump_json(value))


def recalled_telling(run_dir: str, telling: Telling) -> Telling:
    """The options, and those of the last time where they are not given."""
    if not storage.exists(_url(run_dir)):
        return telling
    old = config.build(Telling, storage.read_json(_url(run_dir)), _url(run_dir))
    return Telling(prometheus=telling.prometheus or old.prometheus, notify=telling.notify or old.notify)


def warn_if_nobody_stays(telling: Telling, executor: Executor) -> None:
    """Say that a run which is left alone tells nobody of its end."""
    site = executor.site.notify if isinstance(executor, SlurmExecutor) else ()
    if telling.notify or site:
        _warn("with --detach nobody stays to tell of the end; --controller job does")


def write_metrics(path: str, run_dir: str, views: Sequence[JobView]) -> None:
    """Replace the file for Prometheus.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        prometheus.write(path, storage.absolute(run_dir), views)
    except (OSError, TokenmillError) as error:
        raise ConfigError(
            "the file for Prometheus cannot be written", where=path, got=str(error), fix="check --prometheus"
        ) from error


class Teller:
    """Tells about one run; what cannot be told is said once on stderr and is no error.

    Args:
        run_dir: folder of the run.
        telling: who is told what.
        executor: of the run; its site may name people as well.
        redactor: hides secrets.

    Raises:
        ConfigError: a target of a new run cannot be told; one that goes on is not stopped by that.
    """

    def __init__(self, run_dir: str, telling: Telling, executor: Executor, redactor: Redactor) -> None:
        self._run_dir, self._path, self._redactor = run_dir, telling.prometheus, redactor
        site = executor.site if isinstance(executor, SlurmExecutor) else Site(name="")
        targets = list(dict.fromkeys([*(telling.notify or ()), *site.notify]))
        is_new = not storage.exists(storage.join(run_dir, "run.json"))
        self._channels: list[Channel] = []
        for target in targets:
            try:
                self._channels += notify.channels([target], site.mail, variable)
            except ConfigError as error:
                if is_new:
                    raise
                _warn(f"not told: {' '.join(str(error).split())}")
        self._warned = False

    @property
    def wants_views(self) -> bool:
        """Whether ``tick`` has a use for views."""
        return bool(self._path)

    def tick(self, views: Sequence[JobView]) -> None:
        """Tell Prometheus."""
        if not self._path:
            return
        try:
            write_metrics(self._path, self._run_dir, views)
        except ConfigError as error:
            if not self._warned:
                _warn(str(error))
            self._warned = True

    def end(self, views: Sequence[JobView], error: BaseException | None = None) -> None:
        """Tell everybody that the run has ended, and why if it is not complete."""
        self.tick(views)
        if not self._channels:
            return
        states = [view.status.state for view in views]
        state = overall_state(states)
        failures = [
            f"{view.status.name}: {view.status.message or view.status.state}".replace("\n", " ")
            for view in views
            if view.status.state in ("failed", "cancelled")
        ]
        if error is not None and (not isinstance(error, JobError) or not failures):
            failures.append(" ".join(str(error).split()))
        keys = ("name", "state", "num_shards", "done", "failed", "message")
        run = read_run(self._run_dir)
        notice = Notice(
            run=storage.absolute(self._run_dir),
            recipe=str(run["name"]),
            state="failed" if state not in ("complete", "cancelled") else state,
            jobs=[{key: getattr(view.status, key) for key in keys} for view in views],
            failures=failures,
            seconds=max(0.0, time.time() - run["created"]),
            usage=asdict(total([view.usage for view in views])),
        )
        notify.tell(self._channels, notice, self._redactor, _warn)


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)
