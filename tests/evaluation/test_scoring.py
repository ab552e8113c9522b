import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from trained import TrainedModel

from tokenmill.evaluation.scoring import Text, encode_choices, score_items, score_texts, windows
from tokenmill.evaluation.tasks.items import Item
from tokenmill.inference.engine import Engine, EngineConfig, load_engine, load_tokenizer
from tokenmill.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(trained_model: TrainedModel) -> Tokenizer:
    return load_tokenizer(trained_model.tokenizer)


def engine_of(trained_model: TrainedModel, **values: Any) -> Engine:
    return load_engine(trained_model.checkpoint, EngineConfig(**values))


def item(query: str, *choices: str, id: str = "1") -> Item:
    return Item(id=id, task="t", prompt_version="p", query=query, choices=choices, gold=0)


def test_spaces_at_the_end_of_the_query_go_to_the_choices(tokenizer: Tokenizer) -> None:
    pairs = encode_choices(tokenizer, "the cat ", ["sat", " sat"])
    assert {context for context, _ in pairs} == {tuple(tokenizer.encode("the cat"))}
    assert [tokenizer.decode(continuation) for _, continuation in pairs] == [" sat", "  sat"]


def test_query_and_choice_are_tokenized_together(tokenizer: Tokenizer) -> None:
    [(context, continuation)] = encode_choices(tokenizer, "the c", ["at sat"])
    both = tokenizer.encode("the cat sat")
    assert list(continuation) == both[len(context) :]
    assert len(context) + len(continuation) == len(both)


def test_a_choice_that_merges_into_the_query_is_scored_by_its_last_token(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("the")) == len(tokenizer.encode("th")) - 1 == 1  # a merge to meet here
    [(context, continuation), (other, _)] = encode_choices(tokenizer, "th", ["e", "x"])
    assert tokenizer.decode(continuation) == "the"
    assert context == (tokenizer.end_id,)
    assert other == tuple(tokenizer.encode("th"))


def test_an_empty_query_stands_after_a_document(tokenizer: Tokenizer) -> None:
    [(context, continuation)] = encode_choices(tokenizer, "", [" sat"])
    assert context == (tokenizer.end_id,)
    assert tokenizer.decode(continuation) == " sat"


def test_records_equal_one_forward_per_choice(trained_model: TrainedModel, tokenizer: Tokenizer) -> None:
    engine = engine_of(trained_model, dtype="float64")
    draw = random.Random(0)
    words = ["the", "cat", "sat", "on", "mat", "dog", "log", "why?", "because!", "grüße", "12"]
    items = [
        item(
            " ".join(draw.choices(words, k=draw.randint(0, 9))),
            *(" " + " ".join(draw.choices(words, k=draw.randint(1, 5))) for _ in range(4)),
            id=str(n),
        )
        for n in range(20)
    ]
    items.append(item("th", "e", "x", id="merges"))
    for found, record in zip(items, score_items(engine, tokenizer, items), strict=True):
        for choice, (context, continuation) in enumerate(
            encode_choices(tokenizer, found.query, found.choices)
        ):
            ids = torch.tensor([context + continuation])
            with torch.no_grad():
                logits = engine.model.logits(engine.model(ids))[0, len(context) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(continuation)[:, None]).sum().item()
            assert abs(record["logprobs"][choice] - expected) < 1e-12 * max(1, abs(expected))
            assert record["num_tokens"][choice] == len(continuation)


def test_lengths_are_those_of_the_answer(trained_model: TrainedModel, tokenizer: Tokenizer) -> None:
    [record] = score_items(engine_of(trained_model), tokenizer, [item("q ", " grüße", "12", "  12")])
    assert record["num_characters"] == [5, 2, 3]
    assert record["num_bytes"] == [7, 2, 3]


def test_a_long_context_loses_its_beginning(trained_model: TrainedModel, tokenizer: Tokenizer) -> None:
    engine = engine_of(trained_model, seq_len=12)
    [record, short] = score_items(
        engine, tokenizer, [item("12" * 30, " cat", " because!"), item("12", " cat", " 12", id="2")]
    )
    longest = max(record["num_tokens"])
    assert record["dropped_tokens"] == 60 - (12 + 1 - longest)
    assert short["dropped_tokens"] == 0
    [other] = score_items(engine, tokenizer, [item("12" * 15, " cat", " because!")])
    assert other["logprobs"] == record["logprobs"]


def oracle(engine: Engine, context: Sequence[int], continuation: Sequence[int]) -> float:
    """Log-probability of a continuation, one forward per window."""
    found = []
    for before, part in windows(tuple(context), tuple(continuation), engine.seq_len):
        kept = before[-(engine.seq_len + 1 - len(part)) :]
        with torch.no_grad():
            logits = engine.model.logits(engine.model(torch.tensor([kept + part])))[0, len(kept) - 1 : -1]
        found.append(logits.log_softmax(-1).gather(1, torch.tensor(part)[:, None]).sum().item())
    return math.fsum(found)


@pytest.mark.parametrize("seq_len", [1, 2, 3, 8, 9])
def test_windows_hide_at_most_half_the_limit(seq_len: int) -> None:
    for num_context in range(1, 12):
        for num in range(1, 30):
            context, continuation = tuple(range(num_context)), tuple(range(100, 100 + num))
            whole, end = context + continuation, num_context
            parts = list(windows(context, continuation, seq_len))
            for before, part in parts:
                kept = before[-(seq_len + 1 - len(part)) :]
                assert len(kept) + len(part) - 1 <= seq_len
                assert whole[:end][-len(kept) :] == kept
                assert len(kept) >= min(end, seq_len - max(seq_len // 2, 1) + 1)
                end += len(part)
            assert sum((part for _, part in parts), ()) == continuation
            if num_context + num - 1 <= seq_len:
                assert parts == [(context, continuation)]


def test_a_choice_beyond_the_limit_is_scored_in_windows(
    trained_model: TrainedModel, tokenizer: Tokenizer
) -> None:
    engine = engine_of(trained_model, dtype="float64", seq_len=8)
    long = item("the cat sat on the mat", " 12", "12" * 9, " because!" * 8)
    [record] = score_items(engine, tokenizer, [long])
    for choice, (context, continuation) in enumerate(encode_choices(tokenizer, long.query, long.choices)):
        # All choices see the context that the longest first part leaves room for.
        expected = oracle(engine, context[-5:], continuation)
        assert record["logprobs"][choice] == pytest.approx(expected, rel=1e-12)
        assert record["num_tokens"][choice] == len(continuation)
    assert record["dropped_tokens"] > 0


@pytest.mark.parametrize("seq_len", [2048, 16])
def test_texts_are_scored_in_windows(trained_model: TrainedModel, tokenizer: Tokenizer, seq_len: int) -> None:
    engine = engine_of(trained_model, dtype="float64", seq_len=seq_len)
    text = "grüße, why? because! " * 9
    ids = tuple(tokenizer.encode(text))
    assert len(ids) > 3 * 16
    [record] = score_texts(engine, tokenizer, [Text(id="0", task="h", ids=ids)])
    assert record["logprob"] == pytest.approx(oracle(engine, [tokenizer.end_id], ids), rel=1e-12)
    assert record["num_tokens"] == len(ids)
    assert record["num_bytes"] == len(text.encode())
