"""A driver in a process of its own: drive.py INPUT RUN EXECUTOR RECIPE_VALUES."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from entries import lab_site, make_recipe

from tokenmill.executors.driver import run_recipe
from tokenmill.executors.launch import Executor
from tokenmill.executors.mpi import MpiExecutor
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.slurm import SlurmExecutor

if __name__ == "__main__":
    executors: dict[str, Callable[[], Executor]] = {
        "slurm": lambda: SlurmExecutor(lab_site()),
        "processes": lambda: ProcessesExecutor(2),
        "mpi": MpiExecutor,
    }
    executor = executors[sys.argv[3]]()
    run_recipe(make_recipe(Path(sys.argv[1]), **json.loads(sys.argv[4])), sys.argv[2], executor)
