"""Keys and values of the tokens a model has read, in buffers of fixed size.

Shapes: B rows, KVH key-value heads, D head dimension, S new tokens, K tokens held so far.

    prompt ──prefill──▶ [B, KVH, max_len, D] ──fork──▶ rows that share the prompt go on alone
"""

from collections.abc import Sequence
from typing import Self

import torch

from tokenmill.errors import InputError


class StaticCache:
    """Cache of one batch; rows advance together.

    Args:
        num_layers: layers of the model.
        max_len: tokens a row can hold.

    Attributes:
        length: tokens that every row holds once the last layer has been updated.
    """

    def __init__(self, num_layers: int, max_len: int) -> None:
        self.max_len = max_len
        self.length = 0
        self._keys: list[torch.Tensor | None] = [None] * num_layers
        self._values: list[torch.Tensor | None] = [None] * num_layers

    def update(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the keys and values of new tokens to a layer.

        Args:
            layer: index of the layer; layers are updated in order, each once per forward.
            key: keys [B, KVH, S, D].
            value: values [B, KVH, S, D].

        Returns:
            all keys and all values of the layer [B, KVH, K, D], views of the buffers.

        Raises:
            InputError: the buffers are full.
        """
        end = self.length + key.shape[2]
        if end > self.max_len:
            raise InputError("the key-value cache is full", expected=f"at most {self.max_len}", got=str(end))
        keys = self._filled(self._keys, layer, key, end)
        values = self._filled(self._values, layer, value, end)
        if layer == len(self._keys) - 1:
            self.length = end
        return keys, values

    def _filled(
        self, buffers: list[torch.Tensor | None], layer: int, new_bhsd: torch.Tensor, end: int
    ) -> torch.Tensor:
        buffer = buffers[layer]
        if buffer is None:
            rows, heads, _, head_dim = new_bhsd.shape
            buffer = new_bhsd.new_zeros((rows, heads, self.max_len, head_dim))
            buffers[layer] = buffer
        buffer[:, :, self.length : end] = new_bhsd
        return buffer[:, :, :end]

    def fork(self, rows: Sequence[int]) -> Self:
        """Copy of the cache whose row ``i`` continues row ``rows[i]``: what was read once serves many."""
        fork = type(self)(len(self._keys), self.max_len)
        fork.length = self.length
        fork._keys = [_take(buffer, rows) for buffer in self._keys]
        fork._values = [_take(buffer, rows) for buffer in self._values]
        return fork


def _take(buffer: torch.Tensor | None, rows: Sequence[int]) -> torch.Tensor | None:
    return None if buffer is None else buffer[torch.tensor(rows, device=buffer.device)]
