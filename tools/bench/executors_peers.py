"""The peers of tools/bench/executors: a trivial function as an array of tasks, in the peer's own Python.

    python tools/bench/executors_peers.py submitit 5000 FOLDER

Each submits and ends; the benchmark waits for the queue. Neither uses ``srun`` inside its tasks: that is the
faster way of both.
"""

import sys
from pathlib import Path


def submitit(count: int, folder: Path) -> None:
    """One function over so many numbers."""
    from submitit import SlurmExecutor

    executor = SlurmExecutor(folder=folder)
    executor.update_parameters(time=60, mem_per_cpu="200M", array_parallelism=count, use_srun=False)
    executor.map_array(abs, range(count))


def datatrove(count: int, folder: Path) -> None:
    """One pipeline whose only step passes on nothing, as so many tasks."""
    from datatrove.executor.slurm import SlurmPipelineExecutor

    def nothing(data, rank: int, world_size: int):  # type: ignore[no-untyped-def] # noqa: ANN202, ANN001 - datatrove's
        yield from ()

    SlurmPipelineExecutor(
        pipeline=[nothing],
        tasks=count,
        time="01:00:00",
        partition="cpu",
        mem_per_cpu_gb=1,
        qos="",
        logging_dir=str(folder),
        max_array_size=50_001,
        venv_path=str(Path(sys.executable).parent / "activate"),
        with_srun=False,
    ).run()


if __name__ == "__main__":
    {"submitit": submitit, "datatrove": datatrove}[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
