"""From items and texts to records: what a model says of each, one JSON object per item or text.

Tokens of a choice are the tokens of query and choice together, less as many as the query alone has. Spaces
at the end of the query go to the choices first, because tokenizers join a space to the word after it.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenmill.errors import InputError
from tokenmill.evaluation.metrics import ChoiceScores
from tokenmill.evaluation.tasks.items import Item
from tokenmill.inference.engine import Engine, Request, Score
from tokenmill.tokens.tokenizer import Tokenizer

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A tokenized text whose cost is to be measured."""

    id: str
    """Unique in its task."""
    task: str
    """Name of the measurement."""
    ids: tuple[int, ...]
    """Token ids without the one that ends the document."""


def encode_choices(
    tokenizer: Tokenizer, query: str, choices: Sequence[str]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Context and continuation tokens of every choice.

    The contexts of an item are equal, except for a choice whose tokens all merge into the query's: it is
    scored by its last token. An empty query is replaced by the token that ends a document.
    """
    stripped = query.rstrip()
    spaces = query[len(stripped) :]
    texts = [stripped, *(stripped + spaces + choice for choice in choices)]
    alone, *whole = map(tuple, tokenizer.encode_batch(texts))
    pairs = []
    for both in whole:
        cut = min(len(alone), len(both) - 1)
        context = alone if cut == len(alone) else both[:cut]
        pairs.append((context or (tokenizer.end_id,), both[cut:]))
    return pairs


def score_items(engine: Engine, tokenizer: Tokenizer, items: Sequence[Item]) -> Iterator[Record]:
    """Records of multiple choice items, in order; the choices of an item share its context.

    Raises:
        InputError: a choice is longer than the model's limit.
    """
    encoded = [encode_choices(tokenizer, item.query, item.choices) for item in items]
    requests: list[Request] = []
    places: list[tuple[int, tuple[int, ...]]] = []
    dropped = [0] * len(items)
    for index, pairs in enumerate(encoded):
        for context in dict.fromkeys(context for context, _ in pairs):
            choices = tuple(choice for choice, pair in enumerate(pairs) if pair[0] == context)
            whole = Request(context=context, continuations=tuple(pairs[choice][1] for choice in choices))
            request = _fit(whole, engine, f"{items[index].task}, item {items[index].id}")
            dropped[index] = max(dropped[index], len(context) - len(request.context))
            requests.append(request)
            places.append((index, choices))
    found: list[dict[int, Score]] = [{} for _ in items]
    for (index, choices), scores in zip(places, engine.loglikelihood(requests), strict=True):
        found[index].update(zip(choices, scores, strict=True))
    for index, item in enumerate(items):
        num_tokens = [len(continuation) for _, continuation in encoded[index]]
        in_order = [found[index][choice] for choice in range(len(item.choices))]
        yield _choice_record(item, in_order, num_tokens, dropped[index])


def _fit(request: Request, engine: Engine, where: str) -> Request:
    try:
        return request.fit(engine.seq_len)
    except InputError as error:
        raise InputError(
            error.what, where=where, expected=error.expected, got=error.got, fix=error.fix
        ) from error


def _choice_record(item: Item, scores: Sequence[Score], num_tokens: list[int], dropped: int) -> Record:
    # A leading space belongs to the prompt's form: lengths are those of the answer's text.
    answers = [choice.removeprefix(" ") for choice in item.choices]
    return {
        "kind": "choice",
        "task": item.task,
        "id": item.id,
        "digest": item.digest,
        "prompt_version": item.prompt_version,
        "gold": item.gold,
        "logprobs": [score.logprob for score in scores],
        "greedy": [score.is_greedy for score in scores],
        "num_characters": [len(answer) for answer in answers],
        "num_bytes": [len(answer.encode()) for answer in answers],
        "num_tokens": num_tokens,
        "dropped_tokens": dropped,
    }


def choice_scores(record: Record) -> ChoiceScores:
    """What metrics need of a multiple choice record."""
    keys = ("logprobs", "num_characters", "num_bytes", "num_tokens")
    return ChoiceScores(gold=record["gold"], **{key: tuple(record[key]) for key in keys})


def score_texts(engine: Engine, tokenizer: Tokenizer, texts: Sequence[Text]) -> Iterator[Record]:
    """Records of whole texts, in order.

    The first token is predicted from the token that ends a document, as in training. A text longer than the
    model's limit is cut into windows; the first token of a window is predicted from the one before it.
    """
    window = engine.seq_len
    requests, counts = [], []
    for text in texts:
        before = (tokenizer.end_id, *text.ids)
        starts = range(0, len(text.ids), window)
        counts.append(len(starts))
        requests += [
            Request(context=(before[start],), continuations=(text.ids[start : start + window],))
            for start in starts
        ]
    scores = iter(engine.loglikelihood(requests))
    for text, count in zip(texts, counts, strict=True):
        logprobs = [next(scores)[0].logprob for _ in range(count)]
        yield {
            "kind": "text",
            "task": text.task,
            "id": text.id,
            "digest": hashlib.sha256(",".join(map(str, text.ids)).encode()).hexdigest(),
            "logprob": math.fsum(logprobs),
            "num_tokens": len(text.ids),
            "num_bytes": len(tokenizer.decode(text.ids).encode()),
        }
