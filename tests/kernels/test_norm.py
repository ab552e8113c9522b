"""Root mean square norm."""

import pytest
import torch
from torch.nn import functional

from tokenmill.kernels.norm import rms_norm


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.bfloat16, 8e-3)]
)
def test_equals_torch(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 5, 16, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(16, generator=generator, dtype=torch.float64).to(dtype)
    want = functional.rms_norm(inputs.double(), (16,), weight.double(), 1e-3)
    got = rms_norm(inputs, weight, 1e-3)
    assert got.dtype == dtype
    assert (got.double() - want).norm() <= tolerance * want.norm()


def test_the_mean_is_taken_in_float32() -> None:
    inputs = torch.full((1, 512), 300.0, dtype=torch.float16)  # its square is no float16
    assert rms_norm(
        inputs, torch.ones(512, dtype=torch.float16), 1e-5
    ).float().mean().item() == pytest.approx(1.0)


def test_eps_stands_inside_the_root() -> None:
    assert rms_norm(torch.zeros(1, 4), torch.ones(4), 1e-5).tolist() == [[0.0] * 4]
    assert rms_norm(torch.ones(1, 1), torch.ones(1), 3.0).item() == pytest.approx(0.5)


def test_gradients() -> None:
    inputs = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 1e-5), (inputs, weight))
