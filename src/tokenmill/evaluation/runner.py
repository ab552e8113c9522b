"""The evaluation job, and the one home of details and results.

    items, heldout ──run──▶ details/<shard>.jsonl  (a header, then a record per item and per text)
                                   │
                                   └──(one shard: at once; several: run_merge)──▶ results/results.json

Version 1 of ``results.json``::

    format, version     tokenmill.results, 1
    code_version, config, model {digest, step, consumed_tokens, seq_len}, tokenizer {sha256, vocab_size}
    tasks               name -> kind, number of items or texts, digest of them, prompt version, metrics
    groups              name -> members, metrics averaged over the members

A metric is ``{value, stderr}``, an accuracy also has ``sigma_above_random``. Metrics are computed from the
records alone, so the number of shards changes no digit of them.
"""

import dataclasses
import fnmatch
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tokenmill import __version__, storage
from tokenmill.checkpoint import INDEX_NAME
from tokenmill.errors import FormatError, IdentityError, InputError
from tokenmill.evaluation import metrics
from tokenmill.evaluation.metrics import Estimate
from tokenmill.evaluation.scoring import Record, Text, choice_scores, score_items, score_texts
from tokenmill.evaluation.tasks.early_signal import GROUPS
from tokenmill.evaluation.tasks.items import PREPARED, Item, read_items
from tokenmill.executors.job import Piece, Task
from tokenmill.inference.engine import Engine, EngineConfig, load_engine, load_tokenizer, threads
from tokenmill.tokens.shards import open_shards
from tokenmill.tokens.tokenizer import Tokenizer

DETAILS_VERSION = 1
RESULTS_VERSION = 1

_CHUNK = 512
T = TypeVar("T")
Value = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Config of ``run``."""

    formats: Mapping[str, str] = field(default_factory=dict)
    """Pattern of a file's name -> benchmark whose rows it holds; other files hold prepared items."""
    max_heldout_documents: int = 0
    """Number of held-out documents that are measured, the first ones; 0: all."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How the model is run."""


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Config of ``run_merge``; it has no choices."""


def run(config: EvaluateConfig, task: Task) -> None:
    """Score multiple choice items and held-out text.

    Inputs: ``checkpoint``, ``tokenizer``, and ``items`` or ``heldout`` or both. Of an input that every shard
    gets whole a shard scores its share.

    Raises:
        ConfigError: a value of the config has no meaning.
        IdentityError: the tokenizer is not the model's, or the held-out shards are another tokenizer's.
        InputError: there is nothing to score, or an item is wrong.
    """
    tokenizer = load_tokenizer(task.inputs("tokenizer"))
    engine = load_engine(task.inputs("checkpoint"), config.engine)
    engine.check_tokenizer(tokenizer)
    items = _share(task, "items", _read_items(config, task))
    texts = _share(task, "heldout", _read_heldout(config, task, tokenizer))
    with threads(config.engine.num_threads):
        records = list(_score("items", items, lambda chunk: score_items(engine, tokenizer, chunk), task))
        records += _score("texts", texts, lambda chunk: score_texts(engine, tokenizer, chunk), task)
    _count(records, task)
    header = _header(config, task, engine, tokenizer)
    with task.output(f"details/{task.shard_name}.jsonl") as file:
        for record in [header, *records]:
            file.write(storage.dump_json(record))
    if task.num_shards == 1:
        _publish(header, records, task)


def run_merge(config: MergeConfig, task: Task) -> None:
    """Make one ``results/results.json`` of the details of all shards; input ``details``, sharding whole.

    Raises:
        FormatError: a file holds no details, or details of another version.
        IdentityError: the details are of different evaluations.
        InputError: an item was scored twice, or there is nothing.
    """
    del config
    headers, records = [], []
    for piece in task.inputs("details"):
        header, found = _read_details(piece)
        headers.append(header)
        records += found
        if header != headers[0]:
            raise IdentityError(
                "details of different evaluations",
                where=piece.name,
                expected=json.dumps(headers[0], sort_keys=True),
                got=json.dumps(header, sort_keys=True),
            )
    if not headers:
        raise InputError("no details to merge", where="details")
    _publish(headers[0], records, task)


def _read_items(config: EvaluateConfig, task: Task) -> Iterator[Item]:
    for piece in task.inputs("items"):
        name = piece.name.rsplit("/", 1)[-1]
        matches = [kind for pattern, kind in config.formats.items() if fnmatch.fnmatchcase(name, pattern)]
        yield from read_items(piece, matches[0] if matches else PREPARED)


def _read_heldout(config: EvaluateConfig, task: Task, tokenizer: Tokenizer) -> Iterator[Text]:
    pieces = [piece for piece in task.inputs("heldout") if piece.start == 0]
    shards = open_shards([piece.url for piece in pieces], tokenizer_sha256=tokenizer.sha256)
    texts = (
        Text(
            task="heldout",
            id=f"{piece.file_index}:{index}",
            ids=tuple(shard.document(index)[:-1].tolist()),
        )
        for piece, shard in zip(pieces, shards, strict=True)
        for index in range(len(shard))
        if len(shard.document(index)) > 1  # more than the token that ends it
    )
    return itertools.islice(texts, config.max_heldout_documents or None)


def _share(task: Task, name: str, records: Iterable[T]) -> Iterator[T]:
    """Records of an input that are this shard's: all of a cut input, a stride of one that comes whole."""
    sharding = task.job.sharding
    if sharding.mode == "pieces" and name == (sharding.over or next(iter(task.job.inputs), "")):
        return iter(records)
    return itertools.islice(records, task.shard.index, None, task.num_shards)


def _score(
    what: str, values: Iterator[T], score: Callable[[Sequence[T]], Iterator[Record]], task: Task
) -> Iterator[Record]:
    done = 0
    while chunk := list(itertools.islice(values, _CHUNK)):
        yield from score(chunk)
        done += len(chunk)
        task.log.info("scored %d %s", done, what)


def _count(records: Sequence[Record], task: Task) -> None:
    for record in records:
        tokens = record["num_tokens"]
        task.counters.add("scored_tokens", sum(tokens) if isinstance(tokens, list) else tokens)
        task.counters.add("items" if record["kind"] == "choice" else "texts")
        task.counters.add("truncated_items", int(record.get("dropped_tokens", 0) > 0))


def _header(config: EvaluateConfig, task: Task, engine: Engine, tokenizer: Tokenizer) -> Record:
    index = next(piece for piece in task.inputs("checkpoint") if piece.name.endswith(INDEX_NAME))
    state = engine.state
    return {
        "kind": "header",
        "version": DETAILS_VERSION,
        "code_version": __version__,
        "config": dataclasses.asdict(config),
        "model": {
            "digest": storage.sha256_of(index.url),  # the index holds the digest of every file of weights
            "step": state.step if state else None,
            "consumed_tokens": state.consumed_tokens if state else None,
            "seq_len": engine.seq_len,
        },
        "tokenizer": {"sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size},
    }


def _read_details(piece: Piece) -> tuple[Record, list[Record]]:
    lines = storage.read_bytes(piece.url).splitlines()
    try:
        header, *records = [json.loads(line) for line in lines]
        version = header["version"] if header["kind"] == "header" else None
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError("this file holds no details", where=piece.name, got=str(error)) from error
    if version != DETAILS_VERSION:
        raise FormatError(
            "details of another version", where=piece.name, expected=str(DETAILS_VERSION), got=str(version)
        )
    return header, records


def _publish(header: Record, records: Sequence[Record], task: Task) -> None:
    results = summarise(header, records)
    with task.output("results/results.json") as file:
        file.write(storage.dump_json(results, indent=1))
    _report(results, task)


def summarise(header: Record, records: Sequence[Record]) -> dict[str, Any]:
    """Content of ``results.json``.

    Args:
        header: header of the details.
        records: records of all shards, in any order.

    Raises:
        InputError: there are no records, or two of one item.
    """
    by_task: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record["task"], record["id"])):
        known = by_task.setdefault(record["task"], [])
        if known and known[-1]["id"] == record["id"]:
            raise InputError(
                "an item was scored twice",
                where=f"task {record['task']}, item {record['id']}",
                fix="give every item of a task an id of its own",
            )
        known.append(record)
    if not by_task:
        raise InputError(
            "there is nothing to evaluate",
            where="inputs items and heldout",
            expected="at least one item or one held-out document",
        )
    tasks = {
        name: (_choice_task if found[0]["kind"] == "choice" else _text_task)(found)
        for name, found in by_task.items()
    }
    keys = ("code_version", "config", "model", "tokenizer")
    return {
        "format": "tokenmill.results",
        "version": RESULTS_VERSION,
        **{key: header[key] for key in keys},
        "tasks": tasks,
        "groups": _groups(tasks),
    }


def _digest(records: Sequence[Record]) -> str:
    return hashlib.sha256("".join(record["digest"] for record in records).encode()).hexdigest()


def _choice_task(records: Sequence[Record]) -> dict[str, Any]:
    scores = [choice_scores(record) for record in records]
    chance, spread = metrics.random_baseline(scores)
    values: dict[str, Value] = {}
    for norm in metrics.NORMALISATIONS:
        accuracy = metrics.mean([metrics.correct(item, norm) for item in scores])
        soft = metrics.mean([metrics.soft_score(item, norm) for item in scores])
        sigma = accuracy.sigma_above(chance, spread)
        values[f"accuracy_{norm}"] = {**_value(accuracy), "sigma_above_random": sigma}
        values[f"soft_score_{norm}"] = _value(soft)
    gold = [(item.logprobs[item.gold], max(item.num_bytes[item.gold], 1)) for item in scores]
    values["bits_per_byte"] = _value(metrics.bits_per_byte(*map(list, zip(*gold, strict=True))))
    return {
        "kind": "multiple_choice",
        "num_items": len(records),
        "num_truncated": sum(record["dropped_tokens"] > 0 for record in records),
        "digest": _digest(records),
        "prompt_version": ", ".join(sorted({record["prompt_version"] for record in records})),
        "random_baseline": chance,
        "metrics": values,
    }


def _text_task(records: Sequence[Record]) -> dict[str, Any]:
    logprobs, tokens, num_bytes = (
        [record[key] for record in records] for key in ("logprob", "num_tokens", "num_bytes")
    )
    return {
        "kind": "text",
        "num_texts": len(records),
        "num_tokens": sum(tokens),
        "num_bytes": sum(num_bytes),
        "digest": _digest(records),
        "metrics": {
            "perplexity": _value(metrics.perplexity(logprobs, tokens)),
            "bits_per_byte": _value(metrics.bits_per_byte(logprobs, num_bytes)),
        },
    }


def _value(estimate: Estimate) -> Value:
    return {"value": estimate.value, "stderr": estimate.stderr}


def _groups(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Groups all of whose members are there; a benchmark with subtasks is the group of them."""
    known = {name: found["metrics"] for name, found in tasks.items() if found["kind"] == "multiple_choice"}
    members: dict[str, tuple[str, ...]] = {}
    for name in known:
        benchmark, colon, _ = name.partition(":")
        if colon:
            members[benchmark] = (*members.get(benchmark, ()), name)
    groups: dict[str, Any] = {}
    for group, names in {**members, **GROUPS}.items():
        if all(name in known for name in names):
            known[group] = _averaged([known[name] for name in names])
            groups[group] = {"members": list(names), "metrics": known[group]}
    return groups


def _averaged(members: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    return {
        key: _value(metrics.mean_of([_estimate(member[key]) for member in members])) for key in members[0]
    }


def _estimate(value: Value) -> Estimate:
    assert value["value"] is not None
    return Estimate(value=value["value"], stderr=value["stderr"])


def _report(results: Mapping[str, Any], task: Task) -> None:
    rows, texts = [], []
    for name, found in results["tasks"].items():
        values = found["metrics"]
        if found["kind"] == "text":
            counts = [found["num_texts"], found["num_tokens"], found["num_bytes"]]
            texts.append([name, *counts, _show(values["perplexity"]), _show(values["bits_per_byte"])])
            continue
        rows.append(
            [
                name,
                found["num_items"],
                round(found["random_baseline"], 4),
                _show(values["accuracy_raw"]),
                _show(values["accuracy_per_character"]),
                round(values["accuracy_per_character"]["sigma_above_random"], 2),
                _show(values["soft_score_per_character"]),
                _show(values["bits_per_byte"]),
            ]
        )
    if texts:
        columns = ["text", "documents", "tokens", "bytes", "perplexity", "bits per byte"]
        task.report.table("Held-out text", columns=columns, rows=texts)
    if rows:
        columns = ["task", "items", "random", "accuracy", "accuracy per character"]
        columns += ["sigma above random", "soft score per character", "bits per byte"]
        task.report.table("Multiple choice", columns=columns, rows=rows)


def _show(value: Value) -> str:
    stderr = "unknown" if value["stderr"] is None else f"{value['stderr']:.3f}"
    return f"{value['value']:.4f} ± {stderr}"
