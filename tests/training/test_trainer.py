"""The trainer's entry: its outputs, two ranks against one, and every wrong input."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_programs import CONFIG, MODEL, changed, task_for, write_tokens
from training_runs import Inputs, files, metrics, one, steps, two

from tokenmill import checkpoint
from tokenmill.errors import ConfigError, InputError
from tokenmill.training.trainer import ScheduleConfig, run


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


def test_a_run_that_is_complete_only_hands_over(tmp_path: Path, inputs: Inputs) -> None:
    first = one(tmp_path, inputs)
    before = files(tmp_path, 6)
    shutil.rmtree(tmp_path / "data")
    second = one(tmp_path, inputs)
    assert files(tmp_path, 6) == before
    assert [item["name"] for item in second.outputs] == [item["name"] for item in first.outputs]
    assert len(metrics(second, tmp_path)) == 6


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


def test_import_needs_only_torch_numpy_and_safetensors() -> None:
    script = """
import sys
blocked = "orjson pydantic yaml submitit typer rich tokenizers gigatoken zstandard fastwarc numba"
for name in blocked.split():
    sys.modules[name] = None
import tokenmill.training.trainer
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
