"""Named model sizes.

A preset names everything but the vocabulary, which comes with the tokenizer.
"""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from tokenmill.errors import ConfigError
from tokenmill.models.transformer import TransformerConfig


def _llama(
    hidden_size: int, num_layers: int, heads: tuple[int, int], intermediate_size: int
) -> TransformerConfig:
    num_heads, num_kv_heads = heads
    return TransformerConfig(
        vocab_size=32_000,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=hidden_size // num_heads,
        intermediate_size=intermediate_size,
    )


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "test": _llama(32, 2, (4, 2), 64),
        "nano": _llama(256, 6, (4, 2), 704),
        "micro": _llama(256, 8, (4, 2), 704),
        "small": _llama(384, 6, (6, 2), 1024),
        # SmolLM2 (arXiv:2502.02737) 135M and 360M
        "smollm2-135m": replace(_llama(576, 30, (9, 3), 1536), rope_theta=100_000.0),
        "smollm2-360m": replace(_llama(960, 32, (15, 5), 2560), rope_theta=100_000.0),
        # Llama 3.2 1B
        "llama-1b": replace(_llama(2048, 16, (32, 8), 8192), rope_theta=500_000.0),
    }
)
"""Preset name -> sizes, with a vocabulary of 32 000 until ``preset`` sets the real one."""


def preset(name: str, vocab_size: int) -> TransformerConfig:
    """Sizes of a named model.

    >>> preset("test", 512).hidden_size
    32

    Args:
        name: a key of ``PRESETS``.
        vocab_size: number of token ids.

    Raises:
        ConfigError: no such preset.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        raise ConfigError(
            "unknown model preset",
            where="preset",
            expected=", ".join(PRESETS),
            got=name,
            fix=f"did you mean {near[0]}?" if near else "",
        )
    return replace(PRESETS[name], vocab_size=vocab_size)
