"""Cross-entropy: chunked against written out, values and gradients, ignored labels, extreme scores."""

import pytest
import torch
from torch import Tensor

from tokenmill.kernels import cross_entropy as module
from tokenmill.kernels.cross_entropy import (
    IGNORED,
    cross_entropy,
    cross_entropy_fused,
    cross_entropy_reference,
)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(31, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(31, (23,), generator=generator)
    labels[[0, 7, 22]] = IGNORED
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels


def test_reference_is_the_formula() -> None:
    hidden, weight, labels = inputs()
    scores = hidden @ weight.T
    rows = [
        scores[row].softmax(0)[label].log() for row, label in enumerate(labels.tolist()) if label != IGNORED
    ]
    torch.testing.assert_close(cross_entropy_reference(hidden, weight, labels), -torch.stack(rows).sum())


@pytest.mark.parametrize("chunk_values", [1, 31 * 4, 31 * 23, 1 << 20])
def test_fused_equals_reference(chunk_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_VALUES", chunk_values)
    hidden, weight, labels = inputs()
    want = cross_entropy_reference(hidden, weight, labels)
    got = cross_entropy_fused(hidden, weight, labels)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=0)
    want_gradients = torch.autograd.grad(want / 7, (hidden, weight))
    got_gradients = torch.autograd.grad(got / 7, (hidden, weight))
    for mine, theirs in zip(got_gradients, want_gradients, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_short_dtypes(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_VALUES", 100)
    exact_hidden, exact_weight, labels = inputs()
    hidden, weight, _ = inputs(dtype)
    want = torch.autograd.grad(
        cross_entropy_reference(exact_hidden, exact_weight, labels), (exact_hidden, exact_weight)
    )
    loss = cross_entropy_fused(hidden, weight, labels)
    got = torch.autograd.grad(loss, (hidden, weight))
    assert loss.dtype == torch.float32
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("kernel", [cross_entropy_reference, cross_entropy_fused])
def test_extreme_scores_stay_finite(kernel: object) -> None:
    assert callable(kernel)
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = kernel(hidden, weight, torch.tensor([1, 1]))
    assert loss.item() == pytest.approx(2e4)
    for gradient in torch.autograd.grad(loss, (hidden, weight)):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kernel", [cross_entropy_reference, cross_entropy_fused])
def test_nothing_valid(kernel: object) -> None:
    assert callable(kernel)
    hidden, weight, labels = inputs()
    loss = kernel(hidden, weight, torch.full_like(labels, IGNORED))
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def test_the_choice_is_made_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    for name in ("cross_entropy_reference", "cross_entropy_fused"):
        monkeypatch.setattr(module, name, lambda *_, name=name: used.append(name))
    hidden, weight, labels = inputs()
    cross_entropy(hidden, weight, labels)
    monkeypatch.setattr(module, "_CHUNK_VALUES", 23 * 31 - 1)
    cross_entropy(hidden, weight, labels)
    assert used == ["cross_entropy_reference", "cross_entropy_fused"]


def test_without_gradients_none_are_made() -> None:
    hidden, weight, labels = inputs()
    with torch.no_grad():
        loss = cross_entropy_fused(hidden, weight, labels)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, cross_entropy_reference(hidden, weight, labels).detach())
