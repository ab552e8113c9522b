"""How ranks find each other, and what is said when one does not come."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from training_programs import changed, task_for
from training_runs import Inputs

from tokenmill.errors import ConfigError, GangError
from tokenmill.parallel.mesh import Mesh
from tokenmill.training.gang import choose_device, connect
from tokenmill.training.trainer import run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tmp_path: Path, inputs: Inputs) -> None:
    with pytest.raises(ConfigError, match=r"no such device(.|\n)*cuda, with 0 GPUs"):
        run(changed(device="cuda"), task_for(str(tmp_path), inputs))


def test_rank_0_never_comes(tmp_path: Path, inputs: Inputs) -> None:
    task = task_for(str(tmp_path), inputs, rank=1, world_size=2)
    with pytest.raises(GangError, match=r"rank 0 did not publish(.|\n)*rank 1 of 2, attempt a0"):
        run(changed(gang_timeout_seconds=0.2), task)


def test_rank_1_never_comes(tmp_path: Path, inputs: Inputs) -> None:
    task = task_for(str(tmp_path), inputs, rank=0, world_size=2)
    with pytest.raises(GangError, match=r"did not come(.|\n)*missing: rank 1"):
        run(changed(gang_timeout_seconds=0.3), task)


def test_two_gangs_beside_each_other_do_not_meet(tmp_path: Path) -> None:
    """Rank 0 of two attempts listen at once; each publishes its own port."""
    tasks = [task_for(str(tmp_path), {}, world_size=2, attempt=name) for name in ("a0", "a1")]

    def wait(task: Any) -> None:
        with pytest.raises(GangError):
            connect(task, Mesh(dp=2), torch.device("cpu"), timeout_seconds=0.3)

    threads = [threading.Thread(target=wait, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    addresses = [task.published("rendezvous") for task in tasks]
    assert addresses[0] is not None
    assert addresses[1] is not None
    assert addresses[0]["port"] != addresses[1]["port"]


def test_devices() -> None:
    assert choose_device("cpu", 3) == torch.device("cpu")
    if not torch.cuda.is_available():
        assert choose_device("auto", 0) == torch.device("cpu")
