"""Attention: fused against written out against a loop over queries, values and gradients."""

import pytest
import torch
from torch import Tensor

from tokenmill.kernels.attention import attention, attention_fused, attention_reference, causal_mask

KERNELS = {"reference": attention_reference, "fused": attention_fused, "choice": attention}


def inputs(num_queries: int, num_keys: int, heads: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads[0], num_queries, 8), (2, heads[1], num_keys, 8), (2, heads[1], num_keys, 8)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def slow(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """One query at a time, straight from the formula."""
    group = query.shape[1] // key.shape[1]
    result = torch.empty_like(query)
    for batch in range(query.shape[0]):
        for head in range(query.shape[1]):
            for place in range(query.shape[2]):
                keys = key[batch, head // group][mask[batch, place]]
                values = value[batch, head // group][mask[batch, place]]
                weights = (keys @ query[batch, head, place] / 8**0.5).softmax(0)
                result[batch, head, place] = weights @ values
    return result


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(6, 6), (1, 6), (3, 6)])
def test_causal(kernel: object, heads: tuple[int, int], num_queries: int, num_keys: int) -> None:
    assert callable(kernel)
    query, key, value = inputs(num_queries, num_keys, heads, torch.float64)
    rows = [
        [place <= num_keys - num_queries + row for place in range(num_keys)] for row in range(num_queries)
    ]
    mask = torch.tensor(rows).expand(2, -1, -1)
    torch.testing.assert_close(
        kernel(query, key, value), slow(query, key, value, mask), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_mask(kernel: object) -> None:
    assert callable(kernel)
    query, key, value = inputs(5, 7, (4, 2), torch.float64)
    mask = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True
    want = slow(query, key, value, mask[:, 0])
    torch.testing.assert_close(kernel(query, key, value, mask), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_gradients_of_the_fused_kernel(dtype: torch.dtype, tolerance: float) -> None:
    exact = [value.requires_grad_() for value in inputs(6, 6, (4, 2), torch.float64)]
    weights = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    want = torch.autograd.grad((attention_reference(*exact) * weights).sum(), exact)
    short = [value.requires_grad_() for value in inputs(6, 6, (4, 2), dtype)]
    got = torch.autograd.grad((attention_fused(*short) * weights.to(dtype)).sum(), short)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - theirs).norm() <= tolerance * theirs.norm()


def test_the_reference_adds_up_in_float32() -> None:
    query, key, value = inputs(64, 64, (4, 4), torch.float64)
    short = attention_reference(*(part.bfloat16() for part in (query, key, value)))
    assert short.dtype == torch.bfloat16
    rounded = attention_reference(*(part.bfloat16().double() for part in (query, key, value)))
    torch.testing.assert_close(short.double(), rounded, rtol=2**-8, atol=1e-6)


def test_the_mask_of_a_cache_ends_at_the_last_key() -> None:
    assert causal_mask(2, 4, torch.device("cpu")).tolist() == [[True] * 3 + [False], [True] * 4]
