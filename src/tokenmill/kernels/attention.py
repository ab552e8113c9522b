"""Scaled dot-product attention with grouped key and value heads.

Paper: Attention Is All You Need (arXiv:1706.03762), section 3.2.1; grouped heads: GQA (arXiv:2305.13245).
"""

import torch
from torch import Tensor
from torch.nn import functional


def causal_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Mask of a causal model whose last query stands at the last key.

    Args:
        num_queries: queries S.
        num_keys: keys K, at least S.
        device: where the mask is made.

    Returns:
        [S, K] bool, True where a query may attend.
    """
    assert num_queries <= num_keys
    last_key = torch.arange(num_keys - num_queries, num_keys, device=device)
    return torch.arange(num_keys, device=device) <= last_key[:, None]


def attention_reference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention written out, softmax in at least float32; arguments as in ``attention``."""
    key, value = _repeat_heads(query, key, value)
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = (query.to(exact) @ key.to(exact).transpose(-1, -2)) * query.shape[-1] ** -0.5
    if mask is None:
        mask = causal_mask(query.shape[-2], key.shape[-2], query.device)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    mixed: Tensor = weights @ value.to(exact)
    return mixed.to(query.dtype)


def attention_fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention by torch's fused kernel of the device; arguments as in ``attention``."""
    key, value = _repeat_heads(query, key, value)
    num_queries, num_keys = query.shape[-2], key.shape[-2]
    if mask is None and num_queries == num_keys:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    if mask is None:  # torch aligns its own causal mask to the first key, a cache needs the last
        mask = causal_mask(num_queries, num_keys, query.device)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention: softmax(Q Kᵀ / √D) V.

    Args:
        query: [B, H, S, D].
        key: [B, KVH, K, D], H a multiple of KVH.
        value: [B, KVH, K, D].
        mask: bool, broadcast to [B, H, S, K], True where a query may attend; None: causal, the last query
            at the last key. A row of a mask without any True is undefined.

    Returns:
        [B, H, S, D].
    """
    return attention_fused(query, key, value, mask)


def _repeat_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    repeats = query.shape[-3] // key.shape[-3]
    if repeats == 1:
        return key, value
    return key.repeat_interleave(repeats, dim=-3), value.repeat_interleave(repeats, dim=-3)
