"""Gated linear unit with the SiLU gate (arXiv:2002.05202, section 2)."""

from torch import Tensor
from torch.nn import functional


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """Gate written out; arguments as in ``swiglu``."""
    return functional.silu(gate) * up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """SiLU(gate) · up.

    Args:
        gate: [..., F].
        up: [..., F].

    Returns:
        [..., F].
    """
    return swiglu_reference(gate, up)
