"""Cross-entropy of the output layer, summed over valid labels.

The fused version never holds the scores of all tokens: for a large vocabulary they are the largest tensor
of a step. As in Liger Kernel (arXiv:2410.10989, section 3.2) the gradients of a chunk are made right after
its forward pass, because they need the same scores.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""Label of a position that does not count."""

_CHUNK_VALUES = 1 << 22  # scores held at a time: 16 MiB in float32


def cross_entropy_reference(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """All scores at once, softmax in at least float32; arguments as in ``cross_entropy``."""
    scores = functional.linear(hidden, weight)
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return functional.cross_entropy(exact, labels, ignore_index=IGNORED, reduction="sum")


def cross_entropy_fused(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Scores in chunks of tokens; arguments as in ``cross_entropy``."""
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, labels)  # type: ignore[no-untyped-call]  # torch's
    return loss


def cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Sum over valid labels of -log softmax(W h)[label].

    Args:
        hidden: [T, H].
        weight: [V, H].
        labels: [T] int64; ``IGNORED`` where a position does not count.

    Returns:
        Scalar in at least float32.
    """
    if hidden.shape[0] * weight.shape[0] <= _CHUNK_VALUES:
        return cross_entropy_reference(hidden, weight, labels)
    return cross_entropy_fused(hidden, weight, labels)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        wanted = any(ctx.needs_input_grad)
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight = torch.zeros(weight.shape, dtype=exact, device=weight.device) if wanted else None
        chunk = max(1, _CHUNK_VALUES // weight.shape[0])
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            loss, grad_scores = _chunk(hidden[part], weight, labels[part])
            total += loss
            if grad_hidden is not None and grad_weight is not None:
                grad_scores = grad_scores.to(hidden.dtype)
                grad_hidden[part] = grad_scores @ weight
                grad_weight += grad_scores.T @ hidden[part]
        if wanted:
            ctx.save_for_backward(grad_hidden, grad_weight)
            ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_outputs[0]
        return (grad_hidden * scale).to(grad_hidden.dtype), (grad_weight * scale).to(ctx.weight_dtype), None


def _chunk(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss of some tokens and its gradient by their scores."""
    scores = functional.linear(hidden, weight)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    valid = labels != IGNORED
    safe = labels.where(valid, 0)[:, None]
    normaliser = scores.logsumexp(dim=-1, keepdim=True)
    losses = (normaliser - scores.gather(-1, safe)).where(valid[:, None], 0.0)
    gradient = scores.sub_(normaliser).exp_()
    gradient.scatter_add_(-1, safe, torch.full_like(losses, -1.0))
    return losses.sum(), gradient * valid[:, None]
