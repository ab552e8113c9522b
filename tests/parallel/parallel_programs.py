"""Programs that the tests of this folder run on every rank."""

from typing import Any

import torch
from torch import nn

from tokenmill.parallel import data_parallel
from tokenmill.parallel.collectives import (
    Group,
    Pending,
    World,
    all_reduce,
    barrier,
    broadcast,
    gather_objects,
)
from tokenmill.parallel.data_parallel import GradientBuckets


def reduces(world: World) -> dict[str, Any]:
    group = world.everyone
    value = torch.tensor([1.0 + group.rank, -1.0 * group.rank], dtype=torch.float64)
    barrier(group)
    return {
        "sum": all_reduce(value.clone(), group).tolist(),
        "max": all_reduce(value.clone(), group, operation="max").tolist(),
        "min": all_reduce(value.clone(), group, operation="min").tolist(),
        "from_last": broadcast(value.clone(), group, source=group.size - 1).tolist(),
        "objects": gather_objects({"rank": group.rank}, group),
    }


def axis_sums(world: World) -> dict[str, float]:
    """Sum of global ranks over every axis: tells who is in the group."""
    result = {}
    for axes in (("tp",), ("dp",), ("dp", "cp"), ("pp",), ("dp", "tp")):
        group = world.group(axes)
        result["+".join(axes)] = all_reduce(torch.tensor([float(world.rank)]), group).item()
    result["ep"] = all_reduce(torch.tensor([float(world.rank)]), world.expert_group()).item()
    return result


def lost_peer(world: World) -> None:
    """Rank 1 leaves without a word."""
    if world.rank == 1:
        raise ValueError("gone")
    all_reduce(torch.ones(1), world.everyone)


class TwoPaths(nn.Module):
    """A model with a weight used twice, one that never gets a gradient, and odd sizes."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(torch.randn(7, 5, generator=generator).to(dtype))
        self.unused = nn.Parameter(torch.zeros(3, dtype=dtype))
        self.second = nn.Parameter(torch.randn(5, generator=generator).to(dtype))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return ((inputs @ self.first).tanh() * self.second @ self.first.T).square().sum()


def gradients(world: World, dtype: torch.dtype, bucket_bytes: int, num_microbatches: int) -> dict[str, Any]:
    """Gradients of 12 rows, divided among the ranks and microbatches."""
    group = world.group(("dp", "cp"))
    model = TwoPaths(dtype)
    buckets = GradientBuckets(dict(model.named_parameters()), group, bucket_bytes=bucket_bytes)
    rows = torch.randn(12, 7, generator=torch.Generator().manual_seed(2)).to(dtype)
    mine = rows.chunk(group.size)[group.rank].chunk(num_microbatches)
    sent: list[int] = []
    original: Any = vars(data_parallel)["start_all_reduce"]

    def counted(tensor: torch.Tensor, to: Group) -> Pending:
        sent.append(tensor.numel())
        pending: Pending = original(tensor, to)
        return pending

    vars(data_parallel)["start_all_reduce"] = counted
    try:
        for _ in range(2):  # the second step must not see the first
            sent.clear()
            buckets.start_step()
            for index, microbatch in enumerate(mine):
                if index == len(mine) - 1:
                    assert not sent, "sent before the last microbatch"
                    buckets.start_last_microbatch()
                model(microbatch).backward()
            sent_in_backward = len(sent)
            buckets.finish_step()
    finally:
        vars(data_parallel)["start_all_reduce"] = original
    assert all(parameter.grad is None for parameter in model.parameters())
    result = {name: value.clone() for name, value in buckets.gradients.items()}
    buckets.close()
    model(rows).backward()  # without hooks the gradients stay where torch puts them
    assert model.first.grad is not None
    return {"gradients": result, "sent": sent, "sent_in_backward": sent_in_backward}
