"""Data parallelism: gradients added up in flat buckets and summed over a group.

    backward of a microbatch ──► parameter.grad ──► added to its part of a bucket, then freed
    last microbatch of a step ──► a bucket that is full ──► summed over the group, while backward goes on

Sums, never means: the loss is divided by the number of valid tokens of the whole global batch beforehand, so
ranks with fewer valid tokens weigh less, as they must.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tokenmill.parallel.collectives import Group, Pending, start_all_reduce


@dataclass(kw_only=True)
class _Bucket:
    flat: Tensor
    names: set[str]
    arrived: set[str] = field(default_factory=set)
    pending: Pending | None = None


class GradientBuckets:
    """Sums gradients over microbatches and ranks, in float32 or, for float64 parameters, float64.

    Args:
        parameters: name -> parameter, in order of the forward pass; equal on all ranks.
        group: ranks that hold the same parameters and see other data.
        bucket_bytes: size at which a bucket is closed; a larger parameter has a bucket of its own.

    Attributes:
        gradients: name -> summed gradient, a view of its bucket.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], group: Group, *, bucket_bytes: int = 40_000_000
    ) -> None:
        self._group, self._is_last = group, False
        self.gradients: dict[str, Tensor] = {}
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[str, _Bucket] = {}
        self._handles: list[Any] = []
        batch: dict[str, nn.Parameter] = {}
        for name, parameter in reversed(list(parameters.items())):  # the backward pass ends with the first
            sample = next(iter(batch.values()), parameter)
            full = sum(_bytes(value) for value in (*batch.values(), parameter)) > bucket_bytes
            if batch and (full or _exact(sample) != _exact(parameter)):
                self._close(batch)
                batch = {}
            batch[name] = parameter
            register: Any = parameter.register_post_accumulate_grad_hook
            self._handles.append(register(_Hook(self, name)))
        if batch:
            self._close(batch)

    def _close(self, batch: Mapping[str, nn.Parameter]) -> None:
        first = next(iter(batch.values()))
        size = sum(parameter.numel() for parameter in batch.values())
        bucket = _Bucket(flat=torch.zeros(size, dtype=_exact(first), device=first.device), names=set(batch))
        offset = 0
        for name, parameter in batch.items():
            view = bucket.flat[offset : offset + parameter.numel()].view(parameter.shape)
            self.gradients[name], self._bucket_of[name] = view, bucket
            offset += parameter.numel()
        self._buckets.append(bucket)

    def receive(self, name: str, parameter: Tensor) -> None:
        """Take over the gradient that backward has just finished; called by the parameter's hook."""
        assert parameter.grad is not None
        self.gradients[name] += parameter.grad
        parameter.grad = None
        if self._is_last:
            bucket = self._bucket_of[name]
            bucket.arrived.add(name)
            if bucket.arrived == bucket.names:
                bucket.pending = start_all_reduce(bucket.flat, self._group)

    def start_step(self) -> None:
        """Set all gradients to zero."""
        self._is_last = False
        for bucket in self._buckets:
            bucket.flat.zero_()
            bucket.arrived.clear()
            bucket.pending = None

    def start_last_microbatch(self) -> None:
        """Say that the next backward pass is the step's last, so that full buckets may be sent."""
        self._is_last = True

    def finish_step(self) -> None:
        """Wait until every gradient is summed over the group.

        Raises:
            GangError: a rank is gone.
        """
        for bucket in self._buckets:
            if bucket.pending is None:  # a parameter without a gradient keeps its bucket open
                bucket.pending = start_all_reduce(bucket.flat, self._group)
        for bucket in self._buckets:
            assert bucket.pending is not None
            bucket.pending.wait()

    def close(self) -> None:
        """Take the hooks off the parameters."""
        for handle in self._handles:
            handle.remove()


class _Hook:
    def __init__(self, buckets: GradientBuckets, name: str) -> None:
        self._buckets, self._name = buckets, name

    def __call__(self, parameter: Tensor) -> None:
        self._buckets.receive(self._name, parameter)


def _exact(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def _bytes(parameter: Tensor) -> int:
    return parameter.numel() * _exact(parameter).itemsize
