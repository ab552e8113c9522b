"""The trainer's entry: gangs, stop and resume bit by bit, damaged checkpoints, and every wrong input."""

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import pool, succeeded
from training_programs import CONFIG, MODEL, Outcome, changed, task_for, train, write_tokens

from tokenmill import checkpoint
from tokenmill.errors import ConfigError, GangError, IdentityError, InputError
from tokenmill.parallel.mesh import Mesh
from tokenmill.training.gang import connect
from tokenmill.training.trainer import ScheduleConfig, TrainerConfig, run

Inputs = dict[str, list[str]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("tokens")
    return {
        "tokens": [write_tokens(folder / f"train{index}.tokens", seed=index) for index in range(2)],
        "heldout": [write_tokens(folder / "heldout.tokens", seed=9, num_documents=60)],
    }


def one(folder: Path, inputs: Inputs, config: TrainerConfig = CONFIG, *, stop_after: int = 0) -> Outcome:
    """Run as a gang of one, in this process."""
    stops = {0: stop_after} if stop_after else {}
    return train(0, str(folder), inputs, config, "a0", stops, 1)


def two(
    folder: Path, inputs: Inputs, config: TrainerConfig = CONFIG, *, attempt: str = "a0", **stops: int
) -> list[Outcome]:
    """Run as a gang of two processes; ``rank1=3`` tells rank 1 to stop after step 3."""
    stop_after = {int(name.removeprefix("rank")): step for name, step in stops.items()}
    results: list[Outcome] = succeeded(
        pool(2).each(train, str(folder), inputs, config, attempt, stop_after, 2)
    )
    return results


def files(folder: Path, step: int) -> dict[str, bytes]:
    found = (folder / "progress" / f"step-{step:06d}").iterdir()
    return {path.name: path.read_bytes() for path in found}


def metrics(outcome: Outcome, folder: Path) -> list[dict[str, Any]]:
    path = next(item["path"] for item in outcome.outputs if item["name"] == "metrics/metrics.jsonl")
    return [json.loads(line) for line in (folder / path).read_text().splitlines()]


def steps(folder: Path) -> list[int]:
    return checkpoint.list_steps(str(folder / "progress"))


def test_outputs_of_a_gang_of_two(tmp_path: Path, inputs: Inputs) -> None:
    first, second = two(tmp_path, inputs)
    assert second.outputs == []
    names = {item["name"] for item in first.outputs}
    shards = {"checkpoint/shard-00000.safetensors", "checkpoint/shard-00001.safetensors"}
    assert names == {"checkpoint/index.json", "metrics/metrics.jsonl"} | shards
    assert all((tmp_path / item["path"]).stat().st_size == item["bytes"] for item in first.outputs)
    assert steps(tmp_path) == [4, 6]
    opened = checkpoint.open_folder(str(tmp_path / "progress" / "step-000006"))
    opened.verify()
    assert opened.state.step == 6
    assert opened.state.consumed_tokens == 6 * 8 * 16
    assert opened.state.extra["tokenizer_sha256"] == "ab" * 32
    assert opened.state.model["hidden_size"] == 32
    records = metrics(first, tmp_path)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["heldout_loss"] is not None for record in records] == [False, False, True] * 2
    assert all(record["mfu"] == "unknown" and record["tokens_per_second"] > 0 for record in records)
    assert {figure["title"] for figure in first.figures} >= {"Loss", "Learning rate", "Training speed"}
    assert list(first.figures[0]["lines"]) == ["training", "held out"]


def test_two_ranks_equal_one(tmp_path: Path, inputs: Inputs) -> None:
    outcome, single = two(tmp_path / "two", inputs)[0], one(tmp_path / "one", inputs)
    pairs = zip(metrics(outcome, tmp_path / "two"), metrics(single, tmp_path / "one"), strict=True)
    for got, want in pairs:
        for key in ("loss", "gradient_norm", "learning_rate", "num_valid", "heldout_loss"):
            assert got[key] == (want[key] if want[key] is None else pytest.approx(want[key], rel=1e-12)), key
    folders = [str(tmp_path / name / "progress" / "step-000006") for name in ("two", "one")]
    opened, reference = (checkpoint.open_folder(folder) for folder in folders)
    assert opened.names == reference.names
    for name in opened.names:
        want_tensor = reference.read(name)
        difference = (opened.read(name) - want_tensor).abs().max() / want_tensor.abs().max()
        assert difference <= 1e-11, name


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


def test_a_run_that_is_complete_only_hands_over(tmp_path: Path, inputs: Inputs) -> None:
    first = one(tmp_path, inputs)
    before = files(tmp_path, 6)
    shutil.rmtree(tmp_path / "data")
    second = one(tmp_path, inputs)
    assert files(tmp_path, 6) == before
    assert [item["name"] for item in second.outputs] == [item["name"] for item in first.outputs]
    assert len(metrics(second, tmp_path)) == 6


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


def test_the_seed_decides(tmp_path: Path, inputs: Inputs) -> None:
    losses = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        outcome = one(tmp_path / name, inputs, changed(seed=seed, num_steps=3))
        losses.append([record["loss"] for record in metrics(outcome, tmp_path / name)])
    assert losses[0] == losses[1] != losses[2]


def test_a_preset_takes_its_vocabulary_from_the_shards(tmp_path: Path, inputs: Inputs) -> None:
    outcome = one(tmp_path, inputs, changed(model=None, preset="test", num_steps=2))
    opened = checkpoint.open_folder(str(tmp_path / "progress" / "step-000002"))
    assert opened.state.model["vocab_size"] == 61
    assert [record["heldout_loss"] is None for record in metrics(outcome, tmp_path)] == [True, False]


def test_no_held_out_input(tmp_path: Path, inputs: Inputs) -> None:
    outcome = one(tmp_path, {"tokens": inputs["tokens"]}, changed(num_steps=3))
    assert all(record["heldout_loss"] is None for record in metrics(outcome, tmp_path))
    assert list(outcome.figures[0]["lines"]) == ["training"]


def test_a_mixture_of_inputs(tmp_path: Path, inputs: Inputs) -> None:
    named = {"web": inputs["tokens"][:1], "code": inputs["tokens"][1:], "heldout": inputs["heldout"]}
    config = changed(mixture={"web": 3.0, "code": 1.0}, num_steps=2)
    assert len(metrics(one(tmp_path, named, config), tmp_path)) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 512, "model": None, "preset": "test"}, r"another tokenizer(.|\n)*vocab_size 512"),
        ({"model": replace(MODEL, vocab_size=64)}, r"another tokenizer(.|\n)*vocab_size 64"),
        ({"model": None, "preset": "tset"}, r"unknown model preset(.|\n)*did you mean test\?"),
        ({"device": "tpu"}, r"no such device(.|\n)*auto, cpu or cuda"),
        ({"mixture": {"tokens": -1.0}}, "not positive"),
    ],
)
def test_wrong_config(tmp_path: Path, inputs: Inputs, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(changed(**values), task_for(str(tmp_path), inputs))
    assert not (tmp_path / "progress").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tmp_path: Path, inputs: Inputs) -> None:
    with pytest.raises(ConfigError, match=r"no such device(.|\n)*cuda, with 0 GPUs"):
        run(changed(device="cuda"), task_for(str(tmp_path), inputs))


@pytest.mark.parametrize("name", ["batch_size", "seq_len", "num_steps", "num_threads", "keep_checkpoints"])
def test_a_count_that_is_not_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"not positive\n  where: {name}"):
        changed(**{name: 0})


def test_a_warm_up_longer_than_the_run() -> None:
    with pytest.raises(ConfigError, match="warmup_tokens"):
        changed(num_steps=5, schedule=ScheduleConfig(warmup_steps=6))


def test_a_batch_that_does_not_divide(tmp_path: Path, inputs: Inputs) -> None:
    with pytest.raises(ConfigError, match=r"does not divide among the ranks(.|\n)*multiple of 3"):
        run(CONFIG, task_for(str(tmp_path), inputs, world_size=3))


def test_no_tokens(tmp_path: Path, inputs: Inputs) -> None:
    with pytest.raises(InputError, match=r"no files\n  where: tokens\n  got: inputs with files: heldout"):
        run(CONFIG, task_for(str(tmp_path), {"heldout": inputs["heldout"]}))
    short = write_tokens(tmp_path / "short.tokens", seed=1, num_documents=1)
    with pytest.raises(InputError, match="too few tokens"):
        run(changed(seq_len=4096), task_for(str(tmp_path), {"tokens": [short]}))


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


def test_import_needs_only_torch_numpy_and_safetensors() -> None:
    script = """
import sys
blocked = "orjson pydantic yaml submitit typer rich tokenizers gigatoken zstandard fastwarc numba"
for name in blocked.split():
    sys.modules[name] = None
import tokenmill.training.trainer
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
