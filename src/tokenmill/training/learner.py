"""One optimizer step, and the loss on held-out data.

count valid labels over all ranks ──► N
for each microbatch: forward, Σ nll / N, backward ──► gradients into buckets
sum over data parallel ranks ──► norm, clip ──► AdamW
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenmill.errors import TrainingError
from tokenmill.kernels.cross_entropy import cross_entropy
from tokenmill.models.transformer import Transformer
from tokenmill.parallel.collectives import Group, all_reduce
from tokenmill.parallel.data_parallel import GradientBuckets
from tokenmill.training.loader import Batch, Loader, TokenStream, stack
from tokenmill.training.lr_schedule import Schedule, learning_rate
from tokenmill.training.optimizer import AdamW, OptimizerConfig, clip_scale, gradient_norm


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """How many sequences a step takes, and how they are cut."""

    seq_len: int
    """Tokens per sequence."""
    batch_size: int
    """Sequences per step, over all ranks."""
    microbatch_size: int
    """Sequences per forward pass of a rank."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step tells."""

    loss: float
    """Mean negative log-likelihood per valid label of the global batch, in nats."""
    gradient_norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float
    """Rate used."""
    num_valid: int
    """Valid labels of the global batch."""
    stop: bool
    """Some rank was asked to stop."""


class Learner:
    """A model with its optimizer, data and peers.

    Args:
        model: the same on every rank, on the group's device.
        loader: gives batches.
        group: ranks among which the batch is divided.
        shape: sizes of the batch; the group's size divides batch_size.
        optimizer: constants of the optimizer.
        schedule: the learning rate.

    Attributes:
        model: the model.
        optimizer: the optimizer.
        buckets: the gradients.
    """

    def __init__(
        self,
        model: Transformer,
        loader: Loader,
        group: Group,
        *,
        shape: BatchShape,
        optimizer: OptimizerConfig,
        schedule: Schedule,
    ) -> None:
        parameters = dict(model.named_parameters())
        self.model, self._loader, self._group = model, loader, group
        self._shape, self._config, self._schedule = shape, optimizer, schedule
        self.optimizer = AdamW(parameters, optimizer)
        self.buckets = GradientBuckets(parameters, group)

    def learn(self, step: int, *, stop: bool = False) -> StepResult:
        """Do one step.

        Args:
            step: number of the step, from 1.
            stop: this rank was asked to stop; told to the others.

        Raises:
            TrainingError: the loss or the gradient is not finite; the parameters are untouched.
            GangError: a rank is gone.
        """
        batches = self._batches(step)
        num_valid = self._count(batches)
        losses = self._backward(batches, num_valid)
        self.buckets.finish_step()
        loss, stops = self._agree(step, losses, num_valid, stop=stop)
        norm = self._finite_norm(step)
        rate = learning_rate(self._schedule, step * self._shape.batch_size * self._shape.seq_len)
        scale = clip_scale(norm, self._config.max_gradient_norm)
        self.optimizer.step(self.buckets.gradients, step=step, learning_rate=rate, scale=scale)
        return StepResult(loss=loss, gradient_norm=norm, learning_rate=rate, num_valid=num_valid, stop=stops)

    @torch.no_grad()
    def evaluate(self, stream: TokenStream, num_windows: int) -> float | None:
        """Mean loss over evenly spaced windows of a stream, in nats per label; None without any.

        Raises:
            GangError: a rank is gone.
        """
        wanted = min(num_windows, len(stream))
        mine = [index * len(stream) // wanted for index in range(self._group.rank, wanted, self._group.size)]
        total = torch.zeros(2, dtype=torch.float64)
        size = self._shape.microbatch_size
        for start in range(0, len(mine), size):
            batch = stack([stream.window(index) for index in mine[start : start + size]])
            total += torch.tensor([self._loss(batch).item(), batch.num_valid], dtype=torch.float64)
        loss, num_valid = all_reduce(total.to(self._group.device), self._group).tolist()
        return loss / num_valid if num_valid else None

    def _batches(self, step: int) -> list[Batch]:
        """This rank's microbatches of a step."""
        per_rank = self._shape.batch_size // self._group.size
        first = (step - 1) * self._shape.batch_size + self._group.rank * per_rank
        size = self._shape.microbatch_size
        return [
            self._loader.batch(range(first + start, first + min(start + size, per_rank)))
            for start in range(0, per_rank, size)
        ]

    def _count(self, batches: list[Batch]) -> int:
        mine = torch.tensor([sum(batch.num_valid for batch in batches)], device=self._group.device)
        return max(1, int(all_reduce(mine, self._group).item()))

    def _backward(self, batches: list[Batch], num_valid: int) -> Tensor:
        """Gradients into the buckets; gives this rank's summed loss, float64."""
        total = torch.zeros((), dtype=torch.float64, device=self._group.device)
        self.buckets.start_step()
        for index, batch in enumerate(batches):
            if index == len(batches) - 1:
                self.buckets.start_last_microbatch()
            loss = self._loss(batch)
            (loss / num_valid).backward()  # type: ignore[no-untyped-call]  # torch's
            total += loss.detach()
        return total

    def _loss(self, batch: Batch) -> Tensor:
        device = self._group.device
        hidden = self.model(batch.inputs.to(device, non_blocking=True))
        labels = batch.labels.to(device, non_blocking=True)
        return cross_entropy(hidden.flatten(0, 1), self.model.head_weight, labels.flatten())

    def _agree(self, step: int, losses: Tensor, num_valid: int, *, stop: bool) -> tuple[float, bool]:
        """Loss over all ranks, and whether any was asked to stop: one message for both."""
        message = torch.zeros(2 + self._group.size, dtype=torch.float64, device=losses.device)
        message[0], message[1] = losses, float(stop)
        message[2 + self._group.rank] = float(not torch.isfinite(losses))
        loss, stops, *bad = all_reduce(message, self._group).tolist()
        if any(bad):
            ranks = ", ".join(str(self._group.ranks[index]) for index, flag in enumerate(bad) if flag)
            raise _not_finite("the loss", f"step {step}, rank {ranks}")
        return loss / num_valid, stops > 0

    def _finite_norm(self, step: int) -> float:
        norm = gradient_norm(self.buckets.gradients)
        if not math.isfinite(norm):
            raise _not_finite("the gradient", f"step {step}, all ranks")
        return norm


def _not_finite(what: str, where: str) -> TrainingError:
    return TrainingError(
        f"{what} is not finite",
        where=where,
        expected="a finite number",
        fix="lower the learning rate, lengthen the warm-up, or look at the data of this step",
    )
