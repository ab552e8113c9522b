"""Rotary position embedding (RoFormer, arXiv:2104.09864, section 3.2.2)."""

import torch
from torch import Tensor


def rope_tables(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions.

    Args:
        positions: [B, S] int64.
        head_dim: D, even.
        theta: base of the wave lengths.
        dtype: of the result; angles are computed in at least float32.

    Returns:
        Two tensors [B, 1, S, D].
    """
    exact = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, device=positions.device).to(exact) / head_dim
    angles = positions[:, None, :, None].to(exact) * (1.0 / theta**exponents)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope_reference(inputs: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotation written out; arguments as in ``apply_rope``."""
    first, second = inputs.chunk(2, dim=-1)
    return inputs * cos + torch.cat([-second, first], dim=-1) * sin


def apply_rope(inputs: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate every head.

    Dimension i turns with i + D/2 (Hugging Face's Llama), not with its neighbour as in the paper: weights of
    Meta's original release need a permutation.

    Args:
        inputs: [B, H, S, D].
        cos: [B, 1, S, D].
        sin: [B, 1, S, D].

    Returns:
        [B, H, S, D].
    """
    return apply_rope_reference(inputs, cos, sin)
