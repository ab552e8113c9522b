"""Where tasks run: the options, the executor that they name, and what a run remembers of them."""

import os
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import typer

from tokenmill import config, recipes, storage
from tokenmill.errors import ConfigError
from tokenmill.executors import secrets
from tokenmill.executors.cost import Prices, record_prices
from tokenmill.executors.launch import Executor
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.mpi import MpiExecutor
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.secrets import Redactor
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.slurm_client import check_programs
from tokenmill.executors.worker import redactor

_EXECUTORS = ("local", "processes", "mpi", "slurm")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where tasks run."""

    executor: Annotated[
        str, typer.Option("--executor", metavar="NAME", help=f"Where tasks run: {', '.join(_EXECUTORS)}.")
    ] = ""
    site: Annotated[
        str, typer.Option("--site", help="Site of the slurm executor: a file, or a name in slurm/.")
    ] = ""
    workers: Annotated[
        int,
        typer.Option("--workers", min=0, help="Most processes or MPI ranks at a time; 0: one per core."),
    ] = 0


def make_executor(placement: Placement, *, only_look: bool = False) -> Executor:
    """The executor that the options name.

    Args:
        placement: the options.
        only_look: nothing will be submitted, so SLURM's programs may be missing.

    Raises:
        ConfigError: unknown executor or site, or an option that the executor does not have.
        SubmissionError: the slurm executor without SLURM's programs, or mpi without an MPI library.
        MissingExtraError: the mpi executor without mpi4py.
    """
    name = placement.executor or "processes"
    if name not in _EXECUTORS:
        raise config.unknown("executor", name, _EXECUTORS, "--executor")
    if placement.site and name != "slurm":
        raise ConfigError("only the slurm executor has a site", where="--site", got=f"--executor {name}")
    if placement.workers and name not in ("processes", "mpi"):
        raise ConfigError(
            "only the processes and mpi executors have workers", where="--workers", got=f"--executor {name}"
        )
    if name == "local":
        return LocalExecutor()
    if name == "processes":
        return ProcessesExecutor(placement.workers or len(os.sched_getaffinity(0)))
    if name == "mpi":
        mpi = MpiExecutor(placement.workers)
        mpi.check()
        return mpi
    if not placement.site:
        raise ConfigError("the slurm executor needs a site", where="--site", fix="--site SITE; see slurm/")
    site = recipes.load_site(placement.site)
    if not only_look:
        check_programs()
    return SlurmExecutor(site)


def redactor_of(run_dir: str) -> Redactor:
    """Hides the secrets of a run, as far as this process knows them, and those of its own environment."""
    return redactor(secrets.known_values(secrets.files_of_run(run_dir)))


def _placement_url(run_dir: str) -> str:
    return storage.join(run_dir, "placement.json")


def remember(run_dir: str, placement: Placement) -> None:
    """Let ``resume`` and ``cancel`` find the executor again."""
    site = storage.absolute(recipes.find("site", placement.site, "slurm")) if placement.site else ""
    value = asdict(replace(placement, executor=placement.executor or "processes", site=site))
    storage.write_atomic(_placement_url(run_dir), storage.dump_json(value))
    if site:
        values = recipes.load_site(site)
        prices = Prices(core_hour=values.core_hour_cost, gpu_hour=values.gpu_hour_cost)
        record_prices(run_dir, prices)


def recalled(run_dir: str, placement: Placement) -> Placement:
    """The options of the last time, unless an executor is given."""
    if placement.executor or not storage.exists(_placement_url(run_dir)):
        return placement
    old = config.build(Placement, storage.read_json(_placement_url(run_dir)), _placement_url(run_dir))
    return replace(old, site=placement.site or old.site, workers=placement.workers or old.workers)
