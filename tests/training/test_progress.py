"""Checkpoints of a run: stop and resume bit by bit, damage, and folders of another run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_programs import MODEL, changed
from training_runs import Inputs, files, metrics, one, steps, two

from tokenmill import checkpoint
from tokenmill.errors import IdentityError


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_stop_and_resume_equal_a_straight_run(tmp_path: Path, inputs: Inputs, dtype: Any) -> None:
    config = changed(dtype=dtype)
    straight = one(tmp_path / "straight", inputs, config)
    stopped = one(tmp_path / "resumed", inputs, config, stop_after=3)
    assert stopped.stopped
    assert stopped.outputs == []
    assert steps(tmp_path / "resumed") == [2, 3]
    resumed = one(tmp_path / "resumed", inputs, config)
    assert files(tmp_path / "straight", 6) == files(tmp_path / "resumed", 6)
    keys = ("step", "loss", "gradient_norm", "heldout_loss", "learning_rate")
    lines = [
        [[record[key] for key in keys] for record in metrics(outcome, tmp_path / name)]
        for outcome, name in ((straight, "straight"), (resumed, "resumed"))
    ]
    assert lines[0] == lines[1]
    opened = checkpoint.open_folder(str(tmp_path / "straight" / "progress" / "step-000006"))
    has_masters = any(name.startswith("optimizer.master.") for name in opened.names)
    assert has_masters == (dtype == "bfloat16")


def test_a_gang_stops_when_one_rank_is_told_and_resumes_bitwise(tmp_path: Path, inputs: Inputs) -> None:
    two(tmp_path / "straight", inputs)
    stopped = two(tmp_path / "resumed", inputs, rank1=3)
    assert [outcome.stopped for outcome in stopped] == [True, True]
    assert steps(tmp_path / "resumed") == [2, 3]
    finished = two(tmp_path / "resumed", inputs, attempt="a1")
    assert [outcome.stopped for outcome in finished] == [False, False]
    assert files(tmp_path / "straight", 6) == files(tmp_path / "resumed", 6)


def test_a_gang_of_two_goes_on_as_one(tmp_path: Path, inputs: Inputs) -> None:
    one(tmp_path / "straight", inputs)
    two(tmp_path / "resumed", inputs, rank0=3)
    one(tmp_path / "resumed", inputs)
    opened, reference = (
        checkpoint.open_folder(str(tmp_path / name / "progress" / "step-000006"))
        for name in ("resumed", "straight")
    )
    for name in reference.names:
        want = reference.read(name)
        assert (opened.read(name) - want).abs().max() <= 1e-10 * want.abs().max(), name


def damage_bytes(folder: Path) -> None:
    path = folder / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def damage_by_cutting(folder: Path) -> None:
    path = folder / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_index(folder: Path) -> None:
    path = folder / "index.json"
    path.write_bytes(path.read_bytes()[:-100])


def remove_file(folder: Path) -> None:
    (folder / "shard-00000.safetensors").unlink()


def remove_index(folder: Path) -> None:
    (folder / "index.json").unlink()


@pytest.mark.parametrize("damage", [damage_bytes, damage_by_cutting, damage_index, remove_file, remove_index])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, inputs: Inputs, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one(tmp_path / "straight", inputs)
    one(tmp_path / "damaged", inputs, stop_after=5)
    assert steps(tmp_path / "damaged") == [4, 5]
    damage(tmp_path / "damaged" / "progress" / "step-000005")
    with caplog.at_level("INFO"):
        outcome = one(tmp_path / "damaged", inputs)
    assert "goes on after step 4" in caplog.text
    assert ("step 5: checkpoint passed over" in caplog.text) == (damage is not remove_index)
    assert steps(tmp_path / "damaged") == [4, 6], "the damaged one must not count among the newest"
    assert files(tmp_path / "straight", 6) == files(tmp_path / "damaged", 6)
    assert [record["step"] for record in metrics(outcome, tmp_path / "damaged")] == [1, 2, 3, 4, 5, 6]


def test_all_checkpoints_damaged_starts_anew(tmp_path: Path, inputs: Inputs) -> None:
    one(tmp_path / "straight", inputs)
    one(tmp_path / "damaged", inputs, stop_after=2)
    damage_bytes(tmp_path / "damaged" / "progress" / "step-000002")
    one(tmp_path / "damaged", inputs)
    assert files(tmp_path / "straight", 6) == files(tmp_path / "damaged", 6)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, inputs: Inputs) -> None:
    one(tmp_path, inputs, stop_after=2)
    with pytest.raises(IdentityError, match="another config"):
        one(tmp_path, inputs, changed(seed=1))
    with pytest.raises(IdentityError, match="another model"):
        one(tmp_path, inputs, changed(model=replace(MODEL, num_layers=1)))
