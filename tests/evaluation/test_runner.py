import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from trained import HELDOUT, TrainedModel, pieces_of

from tokenmill.config import build
from tokenmill.errors import ConfigError, FormatError, IdentityError, InputError
from tokenmill.evaluation.runner import EvaluateConfig, MergeConfig, run, run_merge, summarise
from tokenmill.evaluation.tasks.early_signal import EARLY_SIGNAL, GROUPS
from tokenmill.executors.job import Piece, Sharding, Task
from tokenmill.inference.engine import EngineConfig
from tokenmill.tokens.tokenizer import train

CONFIG = EvaluateConfig(formats={"piqa*": "piqa"}, engine=EngineConfig(batch_tokens=1))


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> tuple[Piece, ...]:
    folder = tmp_path_factory.mktemp("items")
    prepared = [
        {
            "id": f"i{n}",
            "task": "animals" if n % 3 else "mmlu:cats",
            "query": "the cat " * (n % 4 + 1),
            "choices": [" sat", " on the mat", " why?"][: 2 + n % 2],
            "gold": n % 2,
        }
        for n in range(11)
    ]
    rows = [{"goal": "the dog", "sol1": f"{n}", "sol2": "the log", "label": n % 2} for n in range(4)]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prepared))
    (folder / "piqa.validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tuple(pieces_of(folder / "own.jsonl", folder / "piqa.validation.jsonl"))


def read(task: Task, name: str) -> bytes:
    [path] = [str(output["path"]) for output in task.outputs if output["name"] == name]
    return (Path(task.job_url) / path).read_bytes()


@pytest.fixture
def whole(trained_model: TrainedModel, items: tuple[Piece, ...], tmp_path: Path) -> Task:
    task: Task = trained_model.task(tmp_path / "whole", items=items, heldout=trained_model.heldout)
    run(CONFIG, task)
    return task


def test_results(whole: Task) -> None:
    results = json.loads(read(whole, "results/results.json"))
    assert (results["format"], results["version"]) == ("tokenmill.results", 1)
    assert results["model"]["step"] == 7
    assert results["model"]["consumed_tokens"] == 700
    assert results["model"]["seq_len"] == 64
    assert sorted(results["tasks"]) == ["animals", "heldout", "mmlu:cats", "piqa"]
    piqa = results["tasks"]["piqa"]
    assert piqa["num_items"] == 4
    assert piqa["prompt_version"] == "fineweb-1"
    assert piqa["random_baseline"] == 0.5
    accuracy = piqa["metrics"]["accuracy_raw"]
    assert accuracy["sigma_above_random"] == pytest.approx((accuracy["value"] - 0.5) / 0.25)
    assert set(piqa["metrics"]) == {
        f"{metric}_{norm}"
        for metric in ("accuracy", "soft_score")
        for norm in ("raw", "per_character", "per_byte", "per_token")
    } | {"bits_per_byte"}
    assert results["groups"]["mmlu"]["members"] == ["mmlu:cats"]
    heldout = results["tasks"]["heldout"]
    assert heldout["num_texts"] == 2  # an empty document says nothing
    assert heldout["num_bytes"] == sum(len(text.encode()) for text in HELDOUT)
    assert heldout["metrics"]["perplexity"]["value"] > 1
    bits = heldout["metrics"]["bits_per_byte"]["value"]
    nats_per_token = bits * heldout["num_bytes"] / heldout["num_tokens"] * 0.6931471805599453
    assert heldout["metrics"]["perplexity"]["value"] == pytest.approx(2.718281828459045**nats_per_token)


def test_counters_and_report(whole: Task) -> None:
    assert whole.counters.values["items"] == 15
    assert whole.counters.values["texts"] == 2
    assert whole.counters.values["truncated_items"] == 0
    titles = {figure["title"]: figure for figure in whole.report.figures}
    assert len(titles["Multiple choice"]["rows"]) == 3
    assert len(titles["Held-out text"]["rows"]) == 1


def test_the_same_run_gives_the_same_bytes(
    trained_model: TrainedModel, items: tuple[Piece, ...], tmp_path: Path, whole: Task
) -> None:
    again = trained_model.task(tmp_path / "again", items=items, heldout=trained_model.heldout)
    run(CONFIG, again)
    for name in ("results/results.json", "details/00000.jsonl"):
        assert read(again, name) == read(whole, name)


def details(folder: Path) -> list[str]:
    paths = sorted((folder / "data" / "details").iterdir())
    return sorted(line for path in paths for line in path.read_text().splitlines()[1:])


@pytest.mark.parametrize("mode", ["count", "pieces"])
def test_sharding_changes_no_result(
    trained_model: TrainedModel, items: tuple[Piece, ...], tmp_path: Path, whole: Task, mode: Any
) -> None:
    folder = tmp_path / "shards"
    cuts: list[tuple[Piece, ...]] = [items] * 3
    if mode == "pieces":
        own, piqa = items
        cuts = [
            (Piece(**{**vars(own), "end": 500}),),
            (Piece(**{**vars(own), "start": 500}), Piece(**{**vars(piqa), "end": 100})),
            (Piece(**{**vars(piqa), "start": 100}),),
        ]
    for shard, cut in enumerate(cuts):
        task = trained_model.task(
            folder,
            shard=shard,
            num_shards=3,
            sharding=Sharding(mode=mode, over="items"),
            items=cut,
            heldout=trained_model.heldout,
        )
        run(CONFIG, task)
        assert [output["name"] for output in task.outputs] == [f"details/0000{shard}.jsonl"]
    assert details(folder) == details(Path(whole.job_url))
    pieces = pieces_of(*sorted((folder / "data" / "details").iterdir()))
    merged = trained_model.task(tmp_path / "merged", details=pieces)
    run_merge(MergeConfig(), merged)
    assert read(merged, "results/results.json") == read(whole, "results/results.json")


def test_heldout_alone_and_its_limit(trained_model: TrainedModel, tmp_path: Path) -> None:
    task = trained_model.task(tmp_path, heldout=trained_model.heldout)
    run(EvaluateConfig(max_heldout_documents=1), task)
    results = json.loads(read(task, "results/results.json"))
    assert results["tasks"]["heldout"]["num_texts"] == 1
    assert results["tasks"]["heldout"]["metrics"]["perplexity"]["stderr"] is None
    assert task.report.figures[0]["rows"][0][4].endswith("± unknown")


def test_nothing_to_evaluate_is_told(trained_model: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for number, items in enumerate([(), pieces_of(tmp_path / "empty.jsonl")]):
        with pytest.raises(InputError, match="nothing to evaluate"):
            run(CONFIG, trained_model.task(tmp_path / str(number), items=items))


def test_an_unused_format_is_told(
    trained_model: TrainedModel, items: tuple[Piece, ...], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="unknown format"):
        run(EvaluateConfig(formats={"own*": "pica"}), trained_model.task(tmp_path, items=items))


def test_another_tokenizer_is_refused(trained_model: TrainedModel, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(train(["some other text"], vocab_size=260).data)
    task = trained_model.task(tmp_path, tokenizer=pieces_of(path), heldout=trained_model.heldout)
    with pytest.raises(IdentityError, match="another tokenizer"):
        run(CONFIG, task)


def test_heldout_shards_of_another_tokenizer_are_refused(trained_model: TrainedModel, tmp_path: Path) -> None:
    content = bytearray(Path(trained_model.heldout[0].url).read_bytes())
    content[40] ^= 1
    (tmp_path / "other.tokens").write_bytes(content)
    task = trained_model.task(tmp_path, heldout=pieces_of(tmp_path / "other.tokens"))
    with pytest.raises(ConfigError, match="another tokenizer"):
        run(CONFIG, task)


def test_details_that_do_not_belong_together_are_refused(
    trained_model: TrainedModel, tmp_path: Path, whole: Task
) -> None:
    lines = read(whole, "details/00000.jsonl").splitlines(keepends=True)

    def merge(*contents: list[bytes]) -> None:
        paths = []
        for index, content in enumerate(contents):
            paths.append(tmp_path / f"{index}.jsonl")
            paths[-1].write_bytes(b"".join(content))
        run_merge(MergeConfig(), trained_model.task(tmp_path / "merged", details=pieces_of(*paths)))

    other = lines[0].replace(b'"step": 7', b'"step": 8')
    assert other != lines[0]
    with pytest.raises(IdentityError, match="different evaluations"):
        merge(lines[:3], [other, *lines[3:]])
    with pytest.raises(InputError, match="scored twice"):
        merge(lines[:3], [lines[0], *lines[2:]])
    with pytest.raises(FormatError, match="another version"):
        merge([lines[0].replace(b'"version": 1', b'"version": 2')])
    for content in ([b"{\n"], [b"3\n"], [], lines[1:]):
        with pytest.raises(FormatError, match=r"no details|another version"):
            merge(content)
    with pytest.raises(InputError, match="no details to merge"):
        run_merge(MergeConfig(), trained_model.task(tmp_path, details=()))


def test_results_are_pinned() -> None:
    """The format's golden test: change ``RESULTS_VERSION`` with it."""
    header = {"code_version": "0", "config": {}, "model": {}, "tokenizer": {}}
    choice = {
        "kind": "choice",
        "task": "t",
        "digest": "d",
        "prompt_version": "p",
        "gold": 0,
        "logprobs": [-1.0, -2.0],
        "num_characters": [2, 8],
        "num_bytes": [2, 8],
        "num_tokens": [1, 2],
        "dropped_tokens": 0,
    }
    records = [{**choice, "id": "b"}, {**choice, "id": "a", "gold": 1}]
    got = summarise(header, records)
    assert set(got) == {
        "format", "version", "code_version", "config", "model", "tokenizer", "tasks", "groups",
    }  # fmt: skip
    found = got["tasks"]["t"]
    assert found.pop("digest") == hashlib.sha256(b"dd").hexdigest()
    values = found.pop("metrics")
    assert found == {
        "kind": "multiple_choice",
        "num_items": 2,
        "num_truncated": 0,
        "prompt_version": "p",
        "random_baseline": 0.5,
    }
    assert values["accuracy_raw"] == {"value": 0.5, "stderr": 0.5, "sigma_above_random": 0.0}
    assert values["accuracy_per_character"] == {"value": 0.5, "stderr": 0.5, "sigma_above_random": 0.0}
    assert values["soft_score_raw"]["value"] == pytest.approx(0.5)


def test_the_config_is_built_from_yaml_values() -> None:
    values = {"formats": {"piqa*": "piqa"}, "engine": {"dtype": "float64"}}
    built = build(EvaluateConfig, values, "job evaluate, config")
    assert built == EvaluateConfig(formats={"piqa*": "piqa"}, engine=EngineConfig(dtype="float64"))
    assert build(MergeConfig, {}, "job results, config") == MergeConfig()


def test_real_rows_of_the_whole_suite(trained_model: TrainedModel, shared_data: Path, tmp_path: Path) -> None:
    paths, formats = [], {}
    for name in EARLY_SIGNAL:
        with gzip.open(shared_data / "eval" / "suite" / f"{name}.validation.jsonl.gz") as file:
            lines = [next(file) for _ in range(3)]
        paths.append(tmp_path / f"{name}.validation.jsonl")
        paths[-1].write_bytes(b"".join(lines))
        formats[f"{name}.*"] = name
    config = EvaluateConfig(formats=formats, engine=EngineConfig(seq_len=512))
    task = trained_model.task(tmp_path / "job", items=pieces_of(*paths))
    run(config, task)
    results = json.loads(read(task, "results/results.json"))
    assert set(results["tasks"]) == (set(EARLY_SIGNAL) - {"mmlu"}) | {"mmlu:abstract_algebra"}
    assert set(results["groups"]) == {"mmlu", "arc", "early_signal"}
    values = [
        results["groups"].get(name, results["tasks"].get(name))["metrics"]["accuracy_per_character"]["value"]
        for name in GROUPS["early_signal"]
    ]
    found = results["groups"]["early_signal"]["metrics"]["accuracy_per_character"]
    assert found["value"] == pytest.approx(sum(values) / 8)
    assert found["stderr"] > 0
    assert task.counters.values["items"] == 27
