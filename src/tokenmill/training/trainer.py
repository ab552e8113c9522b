"""Trains a decoder on token shards with a gang of data parallel ranks.

inputs   one or more inputs of token shards (``mixture`` names them), one of held-out shards
outputs  checkpoint/…  the files of the last checkpoint
         metrics/metrics.jsonl  a line per logged step
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from tokenmill import checkpoint, storage
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors.job import Task, TaskStopped
from tokenmill.models.presets import preset
from tokenmill.models.transformer import Transformer, TransformerConfig, initialise
from tokenmill.parallel.collectives import World
from tokenmill.parallel.mesh import Mesh
from tokenmill.telemetry import NoTracker, Tracker
from tokenmill.tokens.shards import TokenShard, open_shards
from tokenmill.training.gang import choose_device, connect
from tokenmill.training.learner import BatchShape, Learner, StepResult
from tokenmill.training.loader import Loader, TokenStream
from tokenmill.training.lr_schedule import Schedule, Shape
from tokenmill.training.metrics import (
    add_to_report,
    line_for_people,
    model_flops_utilization,
    peak_flops,
    peak_memory_bytes,
)
from tokenmill.training.optimizer import OptimizerConfig
from tokenmill.training.progress import Progress, RunIdentity


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over a run, in steps of the run's batch."""

    shape: Shape = "cosine"
    """cosine, linear, wsd or constant."""
    peak_learning_rate: float = 1e-3
    """Rate after the warm-up."""
    warmup_steps: int = 10
    """Steps of linear warm-up."""
    min_ratio: float = 0.1
    """Rate at the end, as a share of the peak."""
    decay_fraction: float = 0.2
    """Last part of the run in which wsd decays."""
    decay_shape: Literal["linear", "sqrt"] = "sqrt"
    """How wsd decays."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """A training run."""

    preset: str = "micro"
    """Name of the model's sizes."""
    model: TransformerConfig | None = None
    """Sizes of the model, in place of a preset."""
    vocab_size: int = 0
    """Token ids of a preset; 0: as many as the token shards say."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Of parameters and activations; gradients and the optimizer's state are float32 or more."""
    seq_len: int = 256
    """Tokens per sequence."""
    batch_size: int = 16
    """Sequences per step over all ranks."""
    microbatch_size: int = 8
    """Sequences per forward pass of a rank."""
    num_steps: int = 200
    """Optimizer steps."""
    mixture: Mapping[str, float] = field(default_factory=lambda: {"tokens": 1.0})
    """Name of an input with token shards -> share of the samples."""
    mask_document_starts: bool = False
    """Do not count the first token of a document as a label."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW."""
    heldout_input: str = "heldout"
    """Name of the input with held-out token shards; no held-out loss if the job has no such input."""
    heldout_every_steps: int = 50
    """Steps between two measurements of the held-out loss; the last step is always measured."""
    heldout_sequences: int = 64
    """Sequences per measurement."""
    checkpoint_every_steps: int = 100
    """Steps between two checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""
    log_every_steps: int = 10
    """Steps between two log lines."""
    seed: int = 0
    """Seed of the parameters and of the order of samples."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    num_threads: int = 1
    """CPU threads per rank; sums depend on it in their last bits."""
    gang_timeout_seconds: float = 600.0
    """How long ranks wait for each other."""

    def __post_init__(self) -> None:
        for name in (
            "seq_len",
            "batch_size",
            "microbatch_size",
            "num_steps",
            "heldout_every_steps",
            "heldout_sequences",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "log_every_steps",
            "num_threads",
        ):
            if getattr(self, name) < 1:
                raise ConfigError("a count is not positive", where=name, got=str(getattr(self, name)))
        self.learning_rates()

    @property
    def tokens_per_step(self) -> int:
        """Tokens read per step over all ranks."""
        return self.batch_size * self.seq_len

    def learning_rates(self) -> Schedule:
        """The schedule in tokens."""
        values = asdict(self.schedule)
        peak, warmup_steps = values.pop("peak_learning_rate"), values.pop("warmup_steps")
        return Schedule(
            peak=peak,
            warmup_tokens=warmup_steps * self.tokens_per_step,
            total_tokens=self.num_steps * self.tokens_per_step,
            **values,
        )


def run(config: TrainerConfig, task: Task) -> None:
    """Entry: train, or go on with a training that was stopped.

    Args:
        config: the run.
        task: one rank of the gang.

    Raises:
        ConfigError: sizes do not fit each other, the ranks or the tokenizer of the shards.
        InputError: there are too few tokens.
        GangError: a rank did not come or is gone.
        IdentityError: the folder holds checkpoints of another run.
        TaskStopped: the end was announced; a checkpoint is saved.
        TrainingError: the loss is not finite.
    """
    train(config, task)


def train(config: TrainerConfig, task: Task, tracker: Tracker | None = None) -> None:
    """Do what ``run`` does, and tell a tracker the metrics of each logged step."""
    mesh = Mesh.of_world(task.world_size)
    if config.batch_size % mesh.dp:
        raise ConfigError(
            "the batch does not divide among the ranks",
            where="batch_size",
            expected=f"a multiple of {mesh.dp} data parallel ranks",
            got=str(config.batch_size),
        )
    data = _Data.open(config, task)
    device = choose_device(config.device, task.local_rank)
    with (
        _threads(config.num_threads),
        connect(task, mesh, device, timeout_seconds=config.gang_timeout_seconds) as world,
    ):
        _Run(config, task, world, data, tracker or NoTracker()).go()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads; the number decides in which order sums are taken."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class _Data:
    loader: Loader
    heldout: TokenStream
    model: TransformerConfig
    tokenizer_sha256: str

    @classmethod
    def open(cls, config: TrainerConfig, task: Task) -> "_Data":
        """Open all shards; they must be of one tokenizer, the model's."""
        urls = {name: [piece.url for piece in task.inputs(name)] for name in config.mixture}
        present = sorted(name for name, pieces in task.shard.inputs.items() if pieces)
        for name, found in urls.items():
            if not found:
                raise InputError(
                    "an input of the mixture has no files",
                    where=name,
                    got=f"inputs with files: {', '.join(present) or 'none'}",
                    fix="name the job's input in the mixture",
                )
        wanted_size = config.model.vocab_size if config.model else config.vocab_size
        heldout_urls = [piece.url for piece in task.inputs(config.heldout_input)]
        shards = open_shards(
            [url for found in (*urls.values(), heldout_urls) for url in found], vocab_size=wanted_size
        )
        opened = iter(shards)
        streams = {name: _stream(config, [next(opened) for _ in found]) for name, found in urls.items()}
        return cls(
            loader=Loader(streams, weights=config.mixture, seed=config.seed),
            heldout=_stream(config, list(opened)),
            model=config.model or preset(config.preset, shards[0].vocab_size),
            tokenizer_sha256=shards[0].tokenizer_sha256,
        )


def _stream(config: TrainerConfig, shards: list[TokenShard]) -> TokenStream:
    return TokenStream(shards, seq_len=config.seq_len, mask_document_starts=config.mask_document_starts)


class _Run:
    """One rank's part in a training run."""

    def __init__(
        self, config: TrainerConfig, task: Task, world: World, data: _Data, tracker: Tracker
    ) -> None:
        self._config, self._task, self._world, self._data = config, task, world, data
        self._tracker = tracker
        group = world.group(("dp", "cp"))
        dtype = getattr(torch, config.dtype)
        self._peak = peak_flops(world.device, dtype)
        self._learner = Learner(
            _build(data.model, config.seed, dtype, world.device),
            data.loader,
            group,
            shape=BatchShape(
                seq_len=config.seq_len, batch_size=config.batch_size, microbatch_size=config.microbatch_size
            ),
            optimizer=config.optimizer,
            schedule=config.learning_rates(),
        )
        identity = RunIdentity(
            model=asdict(data.model), config=asdict(config), tokenizer_sha256=data.tokenizer_sha256
        )
        self._progress = Progress(task.progress_url, identity, group, task.log)
        self._steps_since, self._seconds_since = 0, 0.0

    def go(self) -> None:
        """Train up to the last step and hand over the outputs."""
        self._announce()
        state = self._progress.restore(self._learner)
        done = state.step if state else 0
        for step in range(done + 1, self._config.num_steps + 1):
            self._step(step)
        if self._task.rank == 0:
            self._hand_over()
        self._tracker.close()

    def _step(self, step: int) -> None:
        config, is_last = self._config, step == self._config.num_steps
        started = time.monotonic()
        result = self._learner.learn(step, stop=self._task.stop_requested())
        self._steps_since += 1
        self._seconds_since += time.monotonic() - started
        heldout = None
        if is_last or step % config.heldout_every_steps == 0:
            heldout = self._learner.evaluate(self._data.heldout, config.heldout_sequences)
        if is_last or heldout is not None or step == 1 or step % config.log_every_steps == 0:
            self._record(step, result, heldout)
        if is_last or result.stop or step % config.checkpoint_every_steps == 0:
            self._save(step)
        if result.stop and not is_last:
            self._task.log.info("stopped after step %d as asked; the checkpoint is saved", step)
            raise TaskStopped

    def _save(self, step: int) -> None:
        self._progress.save(
            self._learner,
            step=step,
            consumed_tokens=step * self._config.tokens_per_step,
            keep=self._config.keep_checkpoints,
        )

    def _record(self, step: int, result: StepResult, heldout: float | None) -> None:
        speed = self._steps_since * self._config.tokens_per_step / max(self._seconds_since, 1e-9)
        per_rank = speed / self._world.mesh.world_size
        flops = per_rank * self._data.model.flops_per_token(self._config.seq_len)
        record: dict[str, Any] = {
            "step": step,
            "consumed_tokens": step * self._config.tokens_per_step,
            "loss": result.loss,
            "heldout_loss": heldout,
            "learning_rate": result.learning_rate,
            "gradient_norm": result.gradient_norm,
            "num_valid": result.num_valid,
            "tokens_per_second": speed,
            "tokens_per_second_per_rank": per_rank,
            "mfu": model_flops_utilization(flops, self._peak),
            "peak_memory_bytes": peak_memory_bytes(self._world.device),
        }
        self._steps_since, self._seconds_since = 0, 0.0
        if self._task.rank == 0:
            self._progress.metrics.append(record)
            self._task.log.info(line_for_people(record, self._config.num_steps))
            self._task.tell(f"step {step} of {self._config.num_steps}, loss {record['loss']:.3f}")
            if heldout is not None:
                self._task.log.info("step %d: held-out loss %.4f", step, heldout)
            numbers = {key: value for key, value in record.items() if isinstance(value, (int, float))}
            self._tracker.log(numbers, step=step)

    def _announce(self) -> None:
        mesh, model = self._world.mesh, self._data.model
        self._task.log.info(
            "rank %d of %d (dp %d) on %s: %.2f million parameters, %d steps of %d tokens",
            self._task.rank,
            mesh.world_size,
            mesh.dp,
            self._world.device,
            model.num_parameters / 1e6,
            self._config.num_steps,
            self._config.tokens_per_step,
        )
        if not len(self._data.heldout):
            self._task.log.info("no held-out tokens: the held-out loss stays unknown")

    def _hand_over(self) -> None:
        """Make the last checkpoint and the metrics the job's outputs."""
        opened = checkpoint.open_folder(self._progress.folder(self._config.num_steps))
        for name, url in opened.files.items():
            self._task.adopt(url, f"checkpoint/{name}")
        with self._task.output("metrics/metrics.jsonl") as file:
            for record in self._progress.metrics:
                file.write(storage.dump_json(record))
        add_to_report(self._task.report, self._progress.metrics)
        self._task.counters.add("train_steps", self._config.num_steps)
        self._task.counters.add("train_tokens", self._config.num_steps * self._config.tokens_per_step)


def _build(config: TransformerConfig, seed: int, dtype: torch.dtype, device: torch.device) -> Transformer:
    """A freshly drawn model on its device."""
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to_empty(device=device).to(dtype)
    initialise(model, seed=seed)
    return model
