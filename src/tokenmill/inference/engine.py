"""A model that answers: log-likelihoods of continuations, and generated text.

Shapes: B rows, S positions of a row, R scored positions, V vocab_size.

Continuations of one context share a row. The context comes once, then every continuation but its last
token; a mask lets a continuation see the context and itself, and positions restart after the context::

    context       c0 c1 c2        positions  0 1 2
    continuation  a0 a1 a2        row        c0 c1 c2 a0 a1 b0        positions  0 1 2 3 4 3
    continuation  b0 b1           scored at        c2 a0 a1 b0        so c2 predicts a0 and b0

Only the scored positions meet the output layer. The result is that of one forward per continuation.
"""

import contextlib
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from tokenmill import storage
from tokenmill.checkpoint import Checkpoint, State, open_pieces
from tokenmill.errors import ConfigError, IdentityError, InputError
from tokenmill.executors.job import Piece, Task
from tokenmill.inference.decoding import Decoding, Generated, Prompt
from tokenmill.inference.sampling import SamplingConfig
from tokenmill.models.transformer import Transformer, TransformerConfig
from tokenmill.tokens.tokenizer import Tokenizer

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
_ROW_MULTIPLE = 16
"""Rows of a matrix product come in multiples of this: on common CPUs the rounding of a row then does not
depend on how many others stand beside it, so results do not change with the batch."""
_UNKNOWN_SEQ_LEN = 2048
"""Limit of a model of which nobody says how it was trained."""
_LOGIT_VALUES = 1 << 24
"""Logits held at once; larger batches meet the output layer in parts."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How a model is run."""

    device: str = "cpu"
    """Device of torch, for example cpu or cuda."""
    dtype: str = "float32"
    """Dtype of the weights: float32, bfloat16 or float64."""
    batch_tokens: int = 0
    """Most positions of one forward pass, padding included; a longer row runs alone. 0: by device."""
    seq_len: int = 0
    """Most positions a token may attend; longer contexts lose their beginning. 0: as in training."""
    num_threads: int = 1
    """CPU threads; sums depend on it in their last bits."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A context and what may follow it."""

    context: tuple[int, ...]
    """Token ids, at least one."""
    continuations: tuple[tuple[int, ...], ...]
    """Token ids of each continuation, at least one each."""

    @property
    def num_positions(self) -> int:
        """Length of the shared row."""
        return len(self.context) + sum(len(continuation) - 1 for continuation in self.continuations)

    @property
    def is_branched(self) -> bool:
        """True if causal order alone does not keep the continuations apart."""
        return sum(len(continuation) > 1 for continuation in self.continuations) > 1

    def fit(self, seq_len: int) -> "Request":
        """Request whose context has lost as many first tokens as its longest continuation demands.

        Raises:
            InputError: a continuation leaves no room for any context.
        """
        room = seq_len + 1 - max(len(continuation) for continuation in self.continuations)
        if room < 1:
            raise InputError(
                "a continuation is longer than the model's limit",
                expected=f"at most {seq_len} tokens",
                got=f"{seq_len + 1 - room} tokens",
                fix="raise seq_len or shorten the text",
            )
        return Request(context=self.context[-room:], continuations=self.continuations)


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model says of a continuation."""

    logprob: float
    """Log-probability in nats."""
    is_greedy: bool
    """True if every token is the model's first choice."""


class Engine:
    """A model on a device.

    Args:
        model: the model.
        config: how to run it.
        state: what its checkpoint says beside the weights, if it comes from one.

    Attributes:
        seq_len: most positions a token may attend.
        batch_tokens: most positions of one forward pass.
        vocab_size: number of ids the model knows.

    Raises:
        ConfigError: the config names an unknown dtype or device, or leaves no room for a token.
    """

    def __init__(self, model: Transformer, config: EngineConfig, state: State | None = None) -> None:
        _check(config)
        self.config, self.state = config, state
        self.seq_len = config.seq_len or _trained_seq_len(state)
        self.batch_tokens = config.batch_tokens or (512 if config.device == "cpu" else 1 << 15)
        self.vocab_size = model.config.vocab_size
        self.device = torch.device(config.device)
        self.model = model.to(device=self.device, dtype=_DTYPES[config.dtype]).eval().requires_grad_(False)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, config: EngineConfig) -> Self:
        """Engine with the weights of a checkpoint; raises also what reading it raises."""
        model = Transformer.from_tensors(
            TransformerConfig(**checkpoint.state.model), checkpoint.tensors("model.")
        )
        return cls(model, config, checkpoint.state)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer that the model was not trained with.

        A vocabulary smaller than the model's passes, because models pad theirs.

        Raises:
            IdentityError: the tokenizer has ids that the model lacks, or is not the one the checkpoint names.
        """
        trained = (
            self.state.extra.get("tokenizer_sha256", tokenizer.sha256) if self.state else tokenizer.sha256
        )
        facts = [
            (f"at most {self.vocab_size} ids", f"{tokenizer.vocab_size} ids"),
            (f"sha256 {trained}", f"sha256 {tokenizer.sha256}"),
        ]
        good = [tokenizer.vocab_size <= self.vocab_size, trained == tokenizer.sha256]
        for (expected, got), passed in zip(facts, good, strict=True):
            if not passed:
                raise IdentityError(
                    "the model was trained with another tokenizer",
                    expected=expected,
                    got=got,
                    fix="give the tokenizer of the checkpoint's run",
                )

    @torch.inference_mode()
    def loglikelihood(self, requests: Sequence[Request]) -> list[tuple[Score, ...]]:
        """Score the continuations of every request.

        Args:
            requests: what to score; long and short ones may come in any order.

        Returns:
            for every request a score per continuation, in the order given.

        Raises:
            InputError: a request is empty, too long, or holds an id the model does not know.
        """
        for request in requests:
            self._check_request(request)
        lengths = [_padded(request.num_positions) for request in requests]
        scores: dict[int, tuple[Score, ...]] = {}
        for branched in (False, True):  # apart, so that a row's attention kernel does not depend on others
            group = [index for index, request in enumerate(requests) if request.is_branched == branched]
            for batch in _batches(group, lengths, self.batch_tokens):
                found = self._score([requests[index] for index in batch], lengths[batch[0]], branched)
                scores.update(zip(batch, found, strict=True))
        return [scores[index] for index in range(len(requests))]

    def _check_request(self, request: Request) -> None:
        parts = (request.context, *request.continuations)
        if len(parts) == 1 or not all(parts):
            raise InputError("a request without context or without continuation", got=str(request)[:200])
        if request.fit(self.seq_len) != request:
            raise InputError(
                "a context is longer than the model's limit",
                expected=f"at most {self.seq_len} positions",
                got=f"{len(request.context)} context tokens",
                fix="use Request.fit",
            )
        self._check_ids(max(max(part) for part in parts))

    def _check_ids(self, largest: int) -> None:
        if largest >= self.vocab_size:
            raise InputError(
                "a token id is not in the model's vocabulary",
                expected=f"less than {self.vocab_size}",
                got=str(largest),
                fix="use the tokenizer the model was trained with",
            )

    def _score(self, requests: Sequence[Request], length: int, branched: bool) -> list[tuple[Score, ...]]:
        rows = [_Row(request, length) for request in requests]
        hidden_bsh = self.model(
            self._tensor([row.ids for row in rows]),
            positions=self._tensor([row.positions for row in rows]),
            mask=self._mask(rows) if branched else None,
        )
        first = [index * length for index in range(len(rows))]
        wanted = [start + at for start, row in zip(first, rows, strict=True) for at in row.scored_at]
        targets = [target for row in rows for target in row.targets]
        logprobs, greedy = self._at(hidden_bsh.flatten(0, 1), wanted, targets)
        scores, place = [], 0
        for request in requests:
            scores.append(tuple(_sum_scores(request, logprobs[place:], greedy[place:])))
            place += sum(map(len, request.continuations))
        return scores

    def _mask(self, rows: Sequence["_Row"]) -> Tensor:
        """Mask [B, 1, S, S]: a continuation sees the context and itself."""
        branch_bs = self._tensor([row.branches for row in rows])
        own_bss = branch_bs[:, :, None] == branch_bs[:, None, :]
        context_b1s = (branch_bs == 0)[:, None, :]
        return (own_bss | context_b1s).tril()[:, None]

    def _at(
        self, hidden_th: Tensor, wanted: Sequence[int], targets: Sequence[int]
    ) -> tuple[list[float], list[bool]]:
        """Log-probability of each target at its place, and if it is the first choice."""
        places = sorted(set(wanted))
        row_of = {place: row for row, place in enumerate(places)}
        places += places[-1:] * (-len(places) % _ROW_MULTIPLE)
        rows_r, targets_r = self._tensor([row_of[place] for place in wanted]), self._tensor(targets)
        logprob_r = torch.zeros(len(targets), dtype=torch.float64)
        greedy_r = torch.zeros(len(targets), dtype=torch.bool)
        step = max(_LOGIT_VALUES // self.vocab_size // _ROW_MULTIPLE, 1) * _ROW_MULTIPLE
        for start in range(0, len(places), step):
            part = self._tensor(places[start : start + step])
            logits_rv = self.model.logits(hidden_th[part])
            logits_rv = logits_rv.to(torch.promote_types(logits_rv.dtype, torch.float32))
            inside = ((rows_r >= start) & (rows_r < start + step)).nonzero().squeeze(1)
            row, target = rows_r[inside] - start, targets_r[inside]
            found = logits_rv[row, target] - logits_rv.logsumexp(-1)[row]
            logprob_r[inside.cpu()] = found.double().cpu()
            greedy_r[inside.cpu()] = (logits_rv.argmax(-1)[row] == target).cpu()
        return logprob_r.tolist(), greedy_r.tolist()

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: SamplingConfig,
        num_samples: int = 1,
        stop_id: int | None = None,
    ) -> list[tuple[Generated, ...]]:
        """Continue every prompt.

        Args:
            prompts: what to continue; a prompt is read once for all its samples.
            max_new_tokens: most tokens of a continuation.
            sampling: how the next token is chosen.
            num_samples: continuations per prompt.
            stop_id: token that ends a continuation.

        Returns:
            for every prompt its continuations, in the order given.

        Raises:
            ConfigError: a value is out of range.
            InputError: a prompt is empty, too long, or holds an id the model does not know.
        """
        sampling.check()
        if not 0 < max_new_tokens < self.seq_len:
            raise ConfigError(
                "a number of new tokens that the model cannot write",
                where="max_new_tokens",
                expected=f"from 1 to {self.seq_len - 1}",
                got=str(max_new_tokens),
            )
        for prompt in prompts:
            self._check_prompt(prompt, max_new_tokens)
        lengths = [len(prompt.ids) + max_new_tokens for prompt in prompts]
        texts: dict[int, tuple[Generated, ...]] = {}
        costs = [length * num_samples for length in lengths]
        for batch in _batches(range(len(prompts)), costs, self.batch_tokens):
            chosen = [prompts[index] for index in batch]
            decoding = Decoding(self.model, chosen, num_samples, max_new_tokens)
            found = decoding.run(sampling, stop_id)
            for place, index in enumerate(batch):
                texts[index] = tuple(found[place * num_samples : (place + 1) * num_samples])
        return [texts[index] for index in range(len(prompts))]

    def _check_prompt(self, prompt: Prompt, max_new_tokens: int) -> None:
        if not prompt.ids:
            raise InputError("a prompt without tokens", where=prompt.name)
        if len(prompt.ids) + max_new_tokens > self.seq_len:
            raise InputError(
                "a prompt is longer than the model's limit",
                where=prompt.name,
                expected=f"at most {self.seq_len - max_new_tokens} tokens",
                got=f"{len(prompt.ids)} tokens",
            )
        self._check_ids(max(prompt.ids))


class _Row:
    """The row that the continuations of a request share, padded at its end."""

    def __init__(self, request: Request, length: int) -> None:
        context = len(request.context)
        self.ids = list(request.context)
        self.positions = list(range(context))
        self.branches = [0] * context
        self.scored_at: list[int] = []
        self.targets: list[int] = []
        for branch, continuation in enumerate(request.continuations, start=1):
            tail = continuation[:-1]
            self.scored_at += [context - 1, *range(len(self.ids), len(self.ids) + len(tail))]
            self.targets += continuation
            self.ids += tail
            self.positions += range(context, context + len(tail))
            self.branches += [branch] * len(tail)
        padding = length - len(self.ids)
        self.ids += [0] * padding
        self.positions += [0] * padding
        self.branches += [-1] * padding


def _trained_seq_len(state: State | None) -> int:
    trained = state.extra.get("config", {}).get("seq_len") if state else None
    return int(trained) if trained else _UNKNOWN_SEQ_LEN


def _check(config: EngineConfig) -> None:
    if config.dtype not in _DTYPES:
        raise ConfigError("unknown dtype", where="dtype", expected=", ".join(_DTYPES), got=config.dtype)
    for name in ("batch_tokens", "seq_len"):
        if getattr(config, name) < 0:
            raise ConfigError(
                "a size is negative", where=name, expected="0 or more", got=str(getattr(config, name))
            )
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:  # torch built without the device asserts
        raise ConfigError(
            "the device is not available", where="device", got=config.device, fix="use cpu"
        ) from error


def _padded(length: int) -> int:
    return -(-length // _ROW_MULTIPLE) * _ROW_MULTIPLE


def _batches(indices: Iterable[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of rows that run together, longest first, at most ``budget`` padded positions.

    >>> list(_batches([0, 1, 2], [2, 4, 1], budget=8))
    [[1, 0], [2]]
    """
    batch: list[int] = []
    for index in sorted(indices, key=lambda index: (-lengths[index], index)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _sum_scores(request: Request, logprobs: Sequence[float], greedy: Sequence[bool]) -> Iterator[Score]:
    place = 0
    for continuation in request.continuations:
        end = place + len(continuation)
        logprob = math.fsum(logprobs[place:end])
        if not math.isfinite(logprob):
            raise InputError(
                "the model gives a log-probability that is not finite",
                got=str(logprob),
                fix="use an earlier checkpoint: training has diverged",
            )
        yield Score(logprob=logprob, is_greedy=all(greedy[place:end]))
        place = end


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Config of ``run``."""

    prompts: tuple[str, ...]
    """Texts to go on with; an empty text starts a new document."""
    max_new_tokens: int = 64
    """Most tokens of a continuation."""
    num_samples: int = 1
    """Continuations per prompt."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How the next token is chosen."""
    engine: EngineConfig = EngineConfig()
    """How the model is run."""


def run(config: GenerateConfig, task: Task) -> None:
    """Write generated texts: ``text/<shard>.jsonl``, one JSON object per continuation.

    Inputs: ``checkpoint``, ``tokenizer``. Of several shards each takes its share of the prompts.

    Raises:
        ConfigError: a value of the config has no meaning.
        IdentityError: the tokenizer is not the model's.
        InputError: there is no checkpoint or no tokenizer.
    """
    _check_counts(config)
    tokenizer = load_tokenizer(task.inputs("tokenizer"))
    engine = load_engine(task.inputs("checkpoint"), config.engine)
    engine.check_tokenizer(tokenizer)
    mine = range(task.shard.index, len(config.prompts), task.num_shards)
    room = max(engine.seq_len - config.max_new_tokens, 1)
    encoded = {index: tuple(tokenizer.encode(config.prompts[index])) or (tokenizer.end_id,) for index in mine}
    task.counters.add("truncated_prompts", sum(len(ids) > room for ids in encoded.values()))
    prompts = [Prompt(name=str(index), ids=ids[-room:]) for index, ids in encoded.items()]
    task.log.info("%d prompts, %d continuations each", len(prompts), config.num_samples)
    with threads(config.engine.num_threads):
        found = engine.generate(
            prompts,
            max_new_tokens=config.max_new_tokens,
            sampling=config.sampling,
            num_samples=config.num_samples,
            stop_id=tokenizer.end_id,
        )
    lines = [
        {
            "prompt": config.prompts[index],
            "prompt_index": index,
            "sample": sample,
            "text": tokenizer.decode(generated.ids),
            "ids": generated.ids,
            "finish_reason": generated.finish_reason,
        }
        for index, samples in zip(mine, found, strict=True)
        for sample, generated in enumerate(samples)
    ]
    with task.output(f"text/{task.shard_name}.jsonl") as file:
        for line in lines:
            file.write(storage.dump_json(line))
    _report(lines, task)


def _check_counts(config: GenerateConfig) -> None:
    for name, value in (
        ("prompts", len(config.prompts)),
        ("num_samples", config.num_samples),
    ):
        if value < 1:
            raise ConfigError("nothing to generate", where=name, expected="1 or more", got=str(value))


def _report(lines: Sequence[Mapping[str, Any]], task: Task) -> None:
    task.counters.add("texts", len(lines))
    task.counters.add("generated_tokens", sum(len(line["ids"]) for line in lines))
    items = [
        {
            "title": line["prompt"] or "(a new document)",
            "text": line["text"],
            "note": f"ended by {line['finish_reason']}",
        }
        for line in lines
    ]
    task.report.texts("Generated text", items=items)


def load_tokenizer(pieces: Sequence[Piece]) -> Tokenizer:
    """The tokenizer among an input's files.

    Raises:
        InputError: no piece is a ``tokenizer.json``.
    """
    for piece in pieces:
        if piece.name.endswith("tokenizer.json"):
            return Tokenizer.load(piece.url)
    names = ", ".join(piece.name for piece in pieces) or "no files"
    raise InputError("no tokenizer in this input", expected="tokenizer.json", got=names)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many CPU threads; two processes with a thread per core each wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(count, 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.lru_cache(maxsize=1)
def load_engine(pieces: tuple[Piece, ...], config: EngineConfig) -> Engine:
    """Engine of the checkpoint among an input's files; kept for the next shard of this process."""
    return Engine.from_checkpoint(open_pieces(pieces), config)
