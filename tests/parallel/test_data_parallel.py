"""Gradients over buckets, microbatches and ranks equal those of one backward pass."""

import pytest
import torch
from parallel_programs import TwoPaths, gradients
from ranks import pool, succeeded

from tokenmill.parallel.collectives import World
from tokenmill.parallel.data_parallel import GradientBuckets
from tokenmill.parallel.mesh import Mesh


def expected(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    model = TwoPaths(dtype)
    rows = torch.randn(12, 7, generator=torch.Generator().manual_seed(2)).to(dtype)
    model(rows).backward()
    zeros = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    return zeros | {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("num_microbatches", [1, 3])
@pytest.mark.parametrize("bucket_bytes", [1, 8 * 8, 1_000_000])
def test_two_ranks_equal_one_backward_pass(bucket_bytes: int, num_microbatches: int) -> None:
    results = succeeded(pool(2).run(gradients, torch.float64, bucket_bytes, num_microbatches))
    for name, value in expected(torch.float64).items():
        for result in results:
            torch.testing.assert_close(result["gradients"][name], value, rtol=1e-13, atol=1e-13)
        assert torch.equal(results[0]["gradients"][name], results[1]["gradients"][name])
    num_buckets = {1: 3, 64: 2, 1_000_000: 1}[bucket_bytes]
    assert len(results[0]["sent"]) == num_buckets
    assert sum(results[0]["sent"]) == 7 * 5 + 3 + 5
    # the bucket with the unused parameter never fills, all others are sent while backward goes on
    assert results[0]["sent_in_backward"] == num_buckets - 1


def test_one_rank_runs_the_same_code() -> None:
    with World(rank=0, mesh=Mesh(), device=torch.device("cpu"), store=None, timeout_seconds=1) as world:
        result = gradients(world, torch.float64, 1, 3)
    for name, value in expected(torch.float64).items():
        torch.testing.assert_close(result["gradients"][name], value, rtol=1e-13, atol=1e-13)
    assert result["sent"] == [5, 35, 3]


def test_short_dtypes_add_up_in_float32() -> None:
    with World(rank=0, mesh=Mesh(), device=torch.device("cpu"), store=None, timeout_seconds=1) as world:
        model = TwoPaths(torch.bfloat16)
        buckets = GradientBuckets(dict(model.named_parameters()), world.everyone)
    assert {value.dtype for value in buckets.gradients.values()} == {torch.float32}
    buckets.start_step()
    for _ in range(300):  # in bfloat16 a sum of ones stops at 256
        torch.autograd.backward(model.second.sum())
    buckets.finish_step()
    assert buckets.gradients["second"].tolist() == [300.0] * 5
