"""From items and texts to records: what a model says of each, one JSON object per item or text.

Tokens of a choice are the tokens of query and choice together, less as many as the query alone has. Spaces
at the end of the query go to the choices first, because tokenizers join a space to the word after it.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenmill.evaluation.metrics import ChoiceScores
from tokenmill.evaluation.tasks.items import Item
from tokenmill.inference.engine import Engine, Request, Score
from tokenmill.tokens.tokenizer import Tokenizer

Record = dict[str, Any]
Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A tokenized text whose cost is to be measured."""

    id: str
    """Unique in its task."""
    task: str
    """Name of the measurement."""
    ids: tuple[int, ...]
    """Token ids without the one that ends the document."""


def encode_choices(tokenizer: Tokenizer, query: str, choices: Sequence[str]) -> list[tuple[Ids, Ids]]:
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


def windows(context: Ids, continuation: Ids, seq_len: int) -> Iterator[tuple[Ids, Ids]]:
    """Parts of a continuation, each with what stands before it, that a model with a limit can score.

    A continuation is cut only where its context would lose more than half of the limit: into parts of half
    the limit, so that every token still sees at least the other half.

    >>> list(windows((1,), (2, 3, 4, 5), seq_len=4))
    [((1,), (2, 3, 4, 5))]
    >>> list(windows((1, 2), (3, 4, 5, 6), seq_len=4))
    [((1, 2), (3, 4)), ((2, 3, 4), (5, 6))]
    """
    half = max(seq_len // 2, 1)
    if len(continuation) <= half or len(context) + len(continuation) - 1 <= seq_len:
        yield context, continuation
        return
    yield context, continuation[:half]
    whole = context + continuation
    for start in range(len(context) + half, len(whole), half):
        part = whole[start : start + half]
        yield whole[max(start + len(part) - 1 - seq_len, 0) : start], part


def score_items(engine: Engine, tokenizer: Tokenizer, items: Sequence[Item]) -> Iterator[Record]:
    """Records of multiple choice items, in order; the choices of an item share its context.

    A context too long for the model loses its beginning, for all choices alike.
    """
    encoded = [encode_choices(tokenizer, item.query, item.choices) for item in items]
    parts: dict[tuple[int, Ids], list[tuple[int, Ids]]] = {}
    for index, pairs in enumerate(encoded):
        for choice, (context, continuation) in enumerate(pairs):
            for before, part in windows(context, continuation, engine.seq_len):
                parts.setdefault((index, before), []).append((choice, part))
    requests = [
        Request(context=before, continuations=tuple(part for _, part in shared)).fit(engine.seq_len)
        for (_, before), shared in parts.items()
    ]
    found: dict[tuple[int, int], list[Score]] = {}
    for ((index, _), shared), scores in zip(parts.items(), engine.loglikelihood(requests), strict=True):
        for (choice, _), score in zip(shared, scores, strict=True):
            found.setdefault((index, choice), []).append(score)
    for index, item in enumerate(items):
        in_order = [_joined(found[index, choice]) for choice in range(len(item.choices))]
        yield _choice_record(item, encoded[index], in_order, engine.seq_len)


def _joined(parts: Sequence[Score]) -> Score:
    return Score(
        logprob=math.fsum(part.logprob for part in parts), is_greedy=all(part.is_greedy for part in parts)
    )


def _choice_record(
    item: Item, encoded: Sequence[tuple[Ids, Ids]], scores: Sequence[Score], seq_len: int
) -> Record:
    longest = max(len(context) + len(continuation) - 1 for context, continuation in encoded)
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
        "num_tokens": [len(continuation) for _, continuation in encoded],
        "dropped_tokens": max(longest - seq_len, 0),
    }


def choice_scores(record: Record) -> ChoiceScores:
    """What metrics need of a multiple choice record."""
    keys = ("logprobs", "num_characters", "num_bytes", "num_tokens")
    return ChoiceScores(gold=record["gold"], **{key: tuple(record[key]) for key in keys})


def score_texts(engine: Engine, tokenizer: Tokenizer, texts: Sequence[Text]) -> Iterator[Record]:
    """Records of whole texts, in order.

    The first token is predicted from the token that ends a document, as in training. A text longer than the
    model's limit is scored in ``windows``.
    """
    parts = [list(windows((tokenizer.end_id,), text.ids, engine.seq_len)) for text in texts]
    requests = [Request(context=before, continuations=(part,)) for cut in parts for before, part in cut]
    scores = iter(engine.loglikelihood(requests))
    for text, cut in zip(texts, parts, strict=True):
        yield {
            "kind": "text",
            "task": text.task,
            "id": text.id,
            "digest": hashlib.sha256(",".join(map(str, text.ids)).encode()).hexdigest(),
            "logprob": math.fsum(next(scores)[0].logprob for _ in cut),
            "num_tokens": len(text.ids),
            "num_bytes": len(tokenizer.decode(text.ids).encode()),
        }
