"""Gated unit."""

import math

import pytest
import torch

from tokenmill.kernels.swiglu import swiglu


def test_formula() -> None:
    gate, up = torch.tensor([2.0, -1.0]), torch.tensor([3.0, 5.0])
    want = [2 / (1 + math.exp(-2)) * 3, -1 / (1 + math.exp(1)) * 5]
    assert swiglu(gate, up).tolist() == pytest.approx(want, rel=1e-6)


def test_gradients() -> None:
    gate = torch.randn(7, dtype=torch.float64, requires_grad=True)
    up = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(swiglu, (gate, up))
