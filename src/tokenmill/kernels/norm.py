"""Root mean square normalisation (arXiv:1910.07467, section 4)."""

import torch
from torch import Tensor


def rms_norm_reference(inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalisation written out; arguments as in ``rms_norm``."""
    exact = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    scale = torch.rsqrt(exact.square().mean(dim=-1, keepdim=True) + eps)
    return weight * (exact * scale).to(inputs.dtype)


def rms_norm(inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square: x / √(mean(x²) + eps) · weight, the mean in at least float32.

    Args:
        inputs: [..., H].
        weight: [H].
        eps: added to the mean of squares, inside the root.

    Returns:
        [..., H]. As in Llama of Hugging Face the cast to the input's dtype comes before the weight.
    """
    return rms_norm_reference(inputs, weight, eps)
