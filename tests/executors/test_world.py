"""Collectives: the same results on every executor, to the last bit, and nobody waits for ever."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from entries import lab_site
from test_executors import attempts, outputs

from tokenmill.errors import GangError, JobError
from tokenmill.executors.driver import run_recipe
from tokenmill.executors.job import Job, Recipe, Resources
from tokenmill.executors.launch import Executor
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.mpi import MpiExecutor
from tokenmill.executors.mpi_world import MpiWorld
from tokenmill.executors.processes import ProcessesExecutor
from tokenmill.executors.slurm import SlurmExecutor
from tokenmill.executors.world import FileWorld, World


def recipe_of(folder: Path, entry: str, tasks: int = 3, **resources: Any) -> Recipe:
    gang = Job(
        name="gang",
        entry=f"gang_entries.{entry}",
        inputs={"lines": "text"},
        layout="gang",
        resources=Resources(tasks=tasks, memory_bytes=200_000_000, max_attempts=1, **resources),
    )
    return Recipe(name="gangs", inputs={"text": (str(folder),)}, jobs=(gang,))


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Outputs on the local executor."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "text").mkdir()
    (folder / "text" / "a.jsonl").write_text("line\n")
    run_recipe(recipe_of(folder / "text", "collectives"), str(folder / "run"), LocalExecutor())
    return outputs(folder / "run")


class Contract:
    """Inherited by the tests of each executor."""

    @pytest.fixture
    def executor(self) -> Executor:
        raise NotImplementedError

    def test_collectives_give_the_same_bits(
        self, executor: Executor, expected: dict[str, str], text_folder: Path, tmp_path: Path
    ) -> None:
        run_recipe(recipe_of(text_folder, "collectives"), str(tmp_path / "run"), executor)
        assert outputs(tmp_path / "run") == expected
        assert len(expected) == 3


class TestProcesses(Contract):
    @pytest.fixture
    def executor(self) -> Executor:
        return ProcessesExecutor(2)


@pytest.mark.usefixtures("mpi")
class TestMpi(Contract):
    @pytest.fixture
    def executor(self) -> Executor:
        return MpiExecutor(3)


class TestFakeSlurm(Contract):
    @pytest.fixture
    def executor(self, fake_slurm: Any) -> Executor:
        return SlurmExecutor(lab_site())


@pytest.mark.slurm
@pytest.mark.usefixtures("real_slurm")
class TestRealSlurm(Contract):
    @pytest.fixture
    def executor(self) -> Executor:
        return SlurmExecutor(lab_site())


def in_threads(size: int, folder: Path, action: Callable[[FileWorld], Any]) -> list[Any]:
    """What an action returned on every rank."""
    found: list[Any] = [None] * size

    def one(rank: int) -> None:
        world = FileWorld(rank=rank, world_size=size, url=str(folder), timeout_seconds=20)
        found[rank] = action(world)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_structured_arrays_pass_through_files(tmp_path: Path) -> None:
    pair = np.dtype([("band", "<u8"), ("document", "<u4")])

    def action(world: FileWorld) -> list[Any]:
        parts = [np.array([(world.rank, other)] * other, pair) for other in range(world.world_size)]
        return [part.tolist() for part in world.all_to_all(parts)]

    assert in_threads(3, tmp_path, action)[2] == [[(0, 2)] * 2, [(1, 2)] * 2, [(2, 2)] * 2]


def test_files_of_rounds_that_are_over_are_removed(tmp_path: Path) -> None:
    def action(world: FileWorld) -> None:
        for _ in range(5):
            world.barrier()

    in_threads(2, tmp_path, action)
    assert sorted(path.name for path in tmp_path.rglob("*.bin")) == ["0.bin", "1.bin"]
    assert {path.parent.name for path in tmp_path.rglob("*.bin")} == {"round-4"}


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    world = FileWorld(rank=1, world_size=3, url=str(tmp_path), timeout_seconds=0.05)
    with pytest.raises(GangError, match=r"rank 1 of 3(.|\n)*missing: rank 0, 2"):
        world.barrier()


def test_a_wait_can_be_given_up(tmp_path: Path) -> None:
    def give_up() -> None:
        raise InterruptedError

    world = FileWorld(rank=0, world_size=2, url=str(tmp_path), check=give_up)
    with pytest.raises(InterruptedError):
        world.barrier()


def test_a_message_that_never_arrives_is_not_waited_for_for_ever() -> None:
    class Never:
        def Test(self) -> bool:  # noqa: N802 - mpi4py's name
            return False

    world = MpiWorld(rank=0, world_size=2, comm=None, timeout_seconds=0.02)
    with pytest.raises(GangError, match=r"rank 0 of 2, a gather(.|\n)*within 0.02 s"):
        world.finish(Never(), "a gather")


def test_an_error_of_mpi_says_that_a_rank_is_gone() -> None:
    class Broken:
        def Iallgather(self, *_: object) -> None:  # noqa: N802 - mpi4py's name
            raise RuntimeError("MPI_ERR_PROC_FAILED")

    world = MpiWorld(rank=0, world_size=2, comm=Broken())
    with pytest.raises(GangError, match=r"lost contact(.|\n)*rank 0 of 2, a gather(.|\n)*PROC_FAILED"):
        world.barrier()


def test_the_world_of_one_needs_nobody() -> None:
    world = World(rank=0, world_size=1)
    world.barrier()
    assert world.broadcast(b"a") == b"a"
    assert world.all_gather(b"a") == [b"a"]
    assert [part.tolist() for part in world.all_to_all([np.arange(3)])] == [[0, 1, 2]]
    assert world.all_reduce(np.arange(3, dtype=np.int16)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_gang_that_hangs_is_ended_and_shows_where(rank: int, text_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(text_folder, "stuck", tasks=2, hang_seconds=1.0)
    gang = Job(**(vars(recipe.jobs[0]) | {"config": {"rank": rank}}))
    recipe = Recipe(name=recipe.name, inputs=recipe.inputs, jobs=(gang,))
    with pytest.raises(JobError, match="the gang hangs"):
        run_recipe(recipe, str(tmp_path / "run"), ProcessesExecutor(2))
    records = attempts(tmp_path / "run", "gang")
    assert [(record["outcome"], record["class"]) for record in records] == [("error", "hang")] * 2
    logs = {path.name: path.read_text() for path in tmp_path.glob("run/jobs/gang-*/logs/*")}
    assert len(logs) == 2
    stuck_log = next(text for name, text in logs.items() if (".rank1" in name) == (rank == 1))
    assert "in sleep_for_ever" in stuck_log
    assert all("in stuck" in text for text in logs.values())
