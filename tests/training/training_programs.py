"""A small training run, and programs that the tests run on every rank."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenmill.executors.job import Job, Piece, Shard, Task, TaskStopped
from tokenmill.models.transformer import Transformer, TransformerConfig, initialise
from tokenmill.parallel.collectives import Group, World
from tokenmill.tokens.shards import ShardWriter, open_shards
from tokenmill.training.learner import BatchShape, Learner
from tokenmill.training.loader import Loader, TokenStream
from tokenmill.training.lr_schedule import Schedule
from tokenmill.training.optimizer import OptimizerConfig
from tokenmill.training.trainer import ScheduleConfig, TrainerConfig, run

VOCAB_SIZE = 61
SHA256 = "ab" * 32

MODEL = TransformerConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
)

CONFIG = TrainerConfig(
    model=MODEL,
    dtype="float64",
    seq_len=16,
    batch_size=8,
    microbatch_size=3,
    num_steps=6,
    mask_document_starts=True,
    schedule=ScheduleConfig(peak_learning_rate=1e-2, warmup_steps=2),
    heldout_every_steps=3,
    heldout_sequences=5,
    checkpoint_every_steps=2,
    log_every_steps=1,
    device="cpu",
    gang_timeout_seconds=60,
)


def write_tokens(path: Path, *, seed: int, num_documents: int = 240, vocab_size: int = VOCAB_SIZE) -> str:
    """A shard of documents of very unequal lengths, whose ids follow each other by a rule."""
    draw = np.random.default_rng(seed)
    writer = ShardWriter(vocab_size=vocab_size, tokenizer_sha256=SHA256, end_id=0)
    for index in range(num_documents):
        length = int(draw.integers(1, 4)) if index % 60 < 40 else int(draw.integers(30, 60))
        start, stride = draw.integers(1, 60, size=2)
        writer.add([int(1 + (start + stride * place) % 59) for place in range(length)])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer.write(file)
    return str(path)


def learner(group: Group, urls: Sequence[str], config: TrainerConfig = CONFIG) -> Learner:
    """A learner without a task around it."""
    assert config.model is not None
    stream = TokenStream(
        open_shards(urls), seq_len=config.seq_len, mask_document_starts=config.mask_document_starts
    )
    model = Transformer(config.model).to(getattr(torch, config.dtype))
    initialise(model, seed=config.seed)
    shape = BatchShape(
        seq_len=config.seq_len, batch_size=config.batch_size, microbatch_size=config.microbatch_size
    )
    return Learner(
        model,
        Loader({"tokens": stream}, weights={"tokens": 1}, seed=config.seed),
        group,
        shape=shape,
        optimizer=config.optimizer,
        schedule=config.learning_rates(),
    )


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a few steps of one rank leave behind."""

    losses: list[float]
    norms: list[float]
    first_gradients: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    valid_here: list[int]
    """Valid labels of this rank, step by step."""
    heldout: float | None


def trace(world: World, urls: Sequence[str], config: TrainerConfig, num_steps: int) -> Trace:
    """Train without a task and tell everything."""
    subject = learner(world.group(("dp", "cp")), urls, config)
    losses, norms, valid_here = [], [], []
    first: dict[str, Tensor] = {}
    batches = vars(Learner)["_batches"]
    for step in range(1, num_steps + 1):
        valid_here.append(sum(batch.num_valid for batch in batches(subject, step)))
        result = subject.learn(step)
        losses.append(result.loss)
        norms.append(result.gradient_norm)
        # the optimizer has scaled them by the clipping factor, the same on every rank
        first = first or {name: value.clone() for name, value in subject.buckets.gradients.items()}
    stream = TokenStream(open_shards(urls), seq_len=config.seq_len)
    return Trace(
        losses=losses,
        norms=norms,
        first_gradients=first,
        parameters={name: value.detach().clone() for name, value in subject.model.named_parameters()},
        state={name: value.clone() for name, value in subject.optimizer.state().items()},
        valid_here=valid_here,
        heldout=subject.evaluate(stream, 7),
    )


def broken_on_rank_1(world: World, urls: Sequence[str]) -> None:
    """A step of which rank 1 cannot compute the loss."""
    subject = learner(world.group(("dp", "cp")), urls)
    if world.rank == 1:
        with torch.no_grad():
            subject.model.norm.weight.fill_(float("nan"))
    subject.learn(1)


def pieces(urls: Sequence[str], port: str) -> tuple[Piece, ...]:
    """Whole files as a job's input."""
    return tuple(
        Piece(url=url, name=f"{port}/{index:05d}.tokens", file_index=index, start=0, end=1, num_bytes=1)
        for index, url in enumerate(urls)
    )


class StopAfter:
    """Asks to stop once a number of steps are done; the gang's rendezvous asks too and is not counted."""

    def __init__(self, calls: int | None, world_size: int) -> None:
        self._calls, self._seen, self._world_size = calls, 0, world_size

    def __call__(self) -> bool:
        if self._world_size > 1 and not torch.distributed.is_initialized():
            return False
        self._seen += 1
        return self._calls is not None and self._seen >= self._calls


def task_for(
    folder: str,
    inputs: Mapping[str, Sequence[str]],
    *,
    rank: int = 0,
    world_size: int = 1,
    attempt: str = "a0",
) -> Task:
    """One rank's view of the gang's only shard."""
    shard = Shard(index=0, inputs={name: pieces(urls, name) for name, urls in inputs.items()})
    job = Job(name="train", entry="tokenmill.training.trainer.run", layout="gang")
    return Task(
        job=job,
        shard=shard,
        num_shards=1,
        attempt=attempt,
        job_url=folder,
        rank=rank,
        world_size=world_size,
        local_rank=rank,
        log=logging.getLogger(f"test.rank{rank}"),
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run of the trainer's entry ended."""

    stopped: bool
    outputs: list[dict[str, Any]]
    figures: list[dict[str, Any]]


def train(
    rank: int,
    folder: str,
    inputs: Mapping[str, Sequence[str]],
    config: TrainerConfig,
    attempt: str,
    stop_after: Mapping[int, int],
    world_size: int,
) -> Outcome:
    """Run the trainer's entry as one rank; ``stop_after``: rank -> step after which it is told to stop."""
    task = task_for(folder, inputs, rank=rank, world_size=world_size, attempt=attempt)
    task.stop_requested = StopAfter(stop_after.get(rank), world_size)
    try:
        run(config, task)
    except TaskStopped:
        return Outcome(stopped=True, outputs=task.outputs, figures=[])
    return Outcome(stopped=False, outputs=task.outputs, figures=task.report.figures)


def changed(**values: Any) -> TrainerConfig:
    """The test's config with other values."""
    return replace(CONFIG, **values)


def schedule(**values: Any) -> Schedule:
    """A schedule of 1000 tokens."""
    return Schedule(**{"shape": "cosine", "peak": 1.0, "warmup_tokens": 100, "total_tokens": 1000, **values})


OPTIMIZER = OptimizerConfig()
