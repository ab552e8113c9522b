"""Texts that grow together, a token at a time.

    prompts, padded at their beginning ──prefill──▶ cache ──fork──▶ a row per text ──decode──▶ … ──▶ texts

Shapes: B rows, S positions of a row, V vocab_size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tokenmill.inference.kv_cache import StaticCache
from tokenmill.inference.sampling import SamplingConfig, choose, uniform
from tokenmill.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text to go on with."""

    name: str
    """Name that seeds the draws; unique."""
    ids: tuple[int, ...]
    """Token ids, at least one."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A generated continuation."""

    ids: tuple[int, ...]
    """New token ids, the stopping token not included."""
    finish_reason: str
    """eos_token or length."""


class Decoding:
    """One batch of texts.

    Args:
        model: the model, on its device.
        prompts: what to continue, at least one.
        num_samples: texts per prompt.
        max_new_tokens: most tokens of a text.
    """

    def __init__(
        self, model: Transformer, prompts: Sequence[Prompt], num_samples: int, max_new_tokens: int
    ) -> None:
        self._model = model
        self._device = model.embed.weight.device
        self._prompts = prompts
        self._rows = [row for row in range(len(prompts)) for _ in range(num_samples)]
        self._names = [f"{prompt.name}/{sample}" for prompt in prompts for sample in range(num_samples)]
        self._max_new_tokens = max_new_tokens
        self._longest = max(len(prompt.ids) for prompt in prompts)
        num_layers = model.config.num_layers
        self._cache = StaticCache(num_layers, self._longest + max_new_tokens)

    def run(self, sampling: SamplingConfig, stop_id: int | None) -> list[Generated]:
        """Grow the texts until each has met the stopping token or is long enough."""
        texts: list[list[int]] = [[] for _ in self._rows]
        growing = set(range(len(texts)))
        logits = self._prefill()
        for step in range(self._max_new_tokens):
            chosen = [0] * len(texts)
            for row in sorted(growing):
                number = uniform(sampling.seed, self._names[row], step)
                chosen[row] = choose(logits[row].numpy(), sampling, number)
                if chosen[row] == stop_id:
                    growing.discard(row)
                else:
                    texts[row].append(chosen[row])
            if not growing or step + 1 == self._max_new_tokens:
                break
            logits = self._decode(chosen)
        reasons = ["length" if row in growing else "eos_token" for row in range(len(texts))]
        return [
            Generated(ids=tuple(ids), finish_reason=reason)
            for ids, reason in zip(texts, reasons, strict=True)
        ]

    def _prefill(self) -> Tensor:
        """Read the prompts, each once; gives logits [B, V] in float64 on the CPU."""
        model, longest = self._model, self._longest
        padding = [longest - len(prompt.ids) for prompt in self._prompts]
        ids = [[0] * pad + list(prompt.ids) for pad, prompt in zip(padding, self._prompts, strict=True)]
        columns = torch.arange(longest, device=self._device)
        padding_b1 = self._tensor(padding)[:, None]
        held_bs = columns >= padding_b1
        positions_bs = (columns - padding_b1).clamp(min=0)
        itself_ss = torch.eye(longest, dtype=torch.bool, device=self._device)
        mask_bss = held_bs[:, None, :].expand(-1, longest, -1).tril() | itself_ss
        hidden_bsh = model(
            self._tensor(ids), positions=positions_bs, mask=mask_bss[:, None], cache=self._cache
        )
        rows = self._tensor(self._rows)
        self._cache = self._cache.fork(self._rows)
        self._held_bs, self._position_b = held_bs[rows], positions_bs[rows, -1]
        return _exact(model.logits(hidden_bsh[:, -1]))[rows.cpu()]

    def _decode(self, chosen: Sequence[int]) -> Tensor:
        """Read one more token per text; gives logits [B, V] in float64 on the CPU."""
        self._position_b = self._position_b + 1
        self._held_bs = functional.pad(self._held_bs, (0, 1), value=True)
        hidden_bsh = self._model(
            self._tensor(chosen)[:, None],
            positions=self._position_b[:, None],
            mask=self._held_bs[:, None, None, :],
            cache=self._cache,
        )
        return _exact(self._model.logits(hidden_bsh[:, -1]))

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def _exact(logits_bv: Tensor) -> Tensor:
    return logits_bv.double().cpu()
