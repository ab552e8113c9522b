"""A small model as the jobs before inference leave it, for the tests of inference and evaluation."""

from dataclasses import dataclass
from pathlib import Path

import torch

from tokenmill.checkpoint import Box, State, write_index, write_shard
from tokenmill.executors.job import Job, Piece, Shard, Sharding, Task
from tokenmill.models.presets import preset
from tokenmill.models.transformer import Transformer, initialise
from tokenmill.tokens.shards import ShardWriter
from tokenmill.tokens.tokenizer import Tokenizer, train

torch.set_num_threads(1)  # threads of tiny operations wait for each other on a busy machine

TEXTS = ["the cat sat on the mat, the dog on the log", "Question: why?\nAnswer: because!", "grüße 12"]
HELDOUT = ["the cat sat on the dog", "", "grüße, why? because! " * 12]


def pieces_of(*paths: Path) -> tuple[Piece, ...]:
    """Whole files as the pieces of one input."""
    sizes = [path.stat().st_size for path in paths]
    return tuple(
        Piece(url=str(path), name=f"port/{path.name}", file_index=index, start=0, end=size, num_bytes=size)
        for index, (path, size) in enumerate(zip(paths, sizes, strict=True))
    )


@dataclass(frozen=True)
class TrainedModel:
    """Its files as inputs of a job."""

    checkpoint: tuple[Piece, ...]
    tokenizer: tuple[Piece, ...]
    heldout: tuple[Piece, ...]

    def task(
        self,
        folder: Path,
        *,
        shard: int = 0,
        num_shards: int = 1,
        sharding: Sharding | None = None,
        **inputs: tuple[Piece, ...],
    ) -> Task:
        """Attempt at a shard of a job that reads the model and further inputs."""
        every = {"checkpoint": self.checkpoint, "tokenizer": self.tokenizer, **inputs}
        return Task(
            job=Job(
                name="job",
                entry="x.y",
                inputs=dict.fromkeys(every, ""),
                sharding=sharding or Sharding(mode="whole" if num_shards == 1 else "count"),
            ),
            shard=Shard(index=shard, inputs=every),
            num_shards=num_shards,
            attempt=f"a{shard}",
            job_url=str(folder),
        )


def make_trained_model(folder: Path) -> TrainedModel:
    """Write a model of two layers with drawn weights, its tokenizer, and held-out documents."""
    tokenizer = train(TEXTS, vocab_size=300)
    (folder / "tokenizer.json").write_bytes(tokenizer.data)
    _write_checkpoint(folder / "step", tokenizer)
    writer = ShardWriter(
        vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.sha256, end_id=tokenizer.end_id
    )
    for text in HELDOUT:
        writer.add(tokenizer.encode(text))
    with (folder / "heldout.tokens").open("wb") as file:
        writer.write(file)
    return TrainedModel(
        checkpoint=pieces_of(*sorted((folder / "step").iterdir())),
        tokenizer=pieces_of(folder / "tokenizer.json"),
        heldout=pieces_of(folder / "heldout.tokens"),
    )


def _write_checkpoint(folder: Path, tokenizer: Tokenizer) -> None:
    config = preset("test", vocab_size=tokenizer.vocab_size)
    model = Transformer(config)
    initialise(model, seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that predictions are far from even
    boxes = {f"model.{name}": Box.whole(value) for name, value in model.state_dict().items()}
    extra = {"tokenizer_sha256": tokenizer.sha256, "config": {"seq_len": 64}}
    state = State(step=7, consumed_tokens=700, model=vars(config), extra=extra)
    write_index(str(folder), state, [write_shard(str(folder), 0, boxes)])
