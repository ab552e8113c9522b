"""A decoder of the Llama family (arXiv:2302.13971, section 2.2): pre-norm, RoPE, grouped heads, SwiGLU.

Shape letters, used as suffixes:

    B batch   S positions of this call   K positions that can be attended   H hidden_size   V vocab_size
    N num_heads   KVH num_kv_heads   D head_dim   F intermediate_size
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenmill.errors import ConfigError, FormatError
from tokenmill.kernels.attention import attention
from tokenmill.kernels.norm import rms_norm
from tokenmill.kernels.rope import apply_rope, rope_tables
from tokenmill.kernels.swiglu import swiglu


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of a decoder."""

    vocab_size: int
    """Number of token ids."""
    hidden_size: int
    """Width of the residual stream."""
    num_layers: int
    """Number of blocks."""
    num_heads: int
    """Query heads per block."""
    num_kv_heads: int
    """Key and value heads per block; divides num_heads."""
    head_dim: int
    """Width of a head; even."""
    intermediate_size: int
    """Width of the gated layer."""
    rope_theta: float = 10_000.0
    """Base of the rotary wave lengths."""
    norm_eps: float = 1e-5
    """Added to the mean of squares in each norm."""
    tied_embeddings: bool = True
    """The output layer uses the embedding's weight."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "tied_embeddings" and not value > 0:
                raise ConfigError("a model size is not positive", where=name, got=str(value))
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                "query heads do not divide into groups",
                where="num_kv_heads",
                expected=f"a divisor of num_heads={self.num_heads}",
                got=str(self.num_kv_heads),
            )
        if self.head_dim % 2:
            raise ConfigError(
                "rotary embedding needs an even head_dim", where="head_dim", got=str(self.head_dim)
            )

    @property
    def num_parameters(self) -> int:
        """Number of parameters; a tied embedding counts once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return embeddings + self.num_layers * self._block_parameters + self.hidden_size

    @property
    def _block_parameters(self) -> int:
        attention_width = (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        return self.hidden_size * (attention_width + 3 * self.intermediate_size + 2)

    def flops_per_token(self, seq_len: int) -> float:
        """Floating point operations per trained token, forward and backward.

        6 per weight that multiplies (the output layer, but not the embedding's look-up) and 12·L·N·D·S for
        the attention scores, not halved for the causal mask: PaLM (arXiv:2204.02311), appendix B.
        """
        matrices = self.num_layers * (self._block_parameters - 2 * self.hidden_size)
        scores = 12 * self.num_layers * self.num_heads * self.head_dim * seq_len
        return 6.0 * (matrices + self.vocab_size * self.hidden_size) + scores


class Cache(Protocol):
    """Keeps the keys and values of earlier calls."""

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, KVH, S, D] of a layer; give all that may be attended [B, KVH, K, D]."""


class RMSNorm(nn.Module):
    """Root mean square norm with a weight."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size))
        self.eps = eps

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise [..., H]."""
        return rms_norm(inputs, self.weight, self.eps)


class Linear(nn.Module):
    """A matrix without bias, left undrawn: ``initialise`` or a checkpoint fills it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        return functional.linear(inputs, self.weight)


class Embedding(nn.Module):
    """A table of vectors, left undrawn."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up [B, S] and give [B, S, H]."""
        return functional.embedding(ids, self.weight)


class Attention(nn.Module):
    """Causal attention of one block."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.query = Linear(config.hidden_size, config.num_heads * config.head_dim)
        self.key = Linear(config.hidden_size, config.num_kv_heads * config.head_dim)
        self.value = Linear(config.hidden_size, config.num_kv_heads * config.head_dim)
        self.output = Linear(config.num_heads * config.head_dim, config.hidden_size)

    def forward(
        self, x_bsh: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """Attend from [B, S, H]; ``rope`` holds cosines and sines [B, 1, S, D]."""
        q_bnsd = apply_rope(self._heads(self.query(x_bsh)), *rope)
        k_bnsd = apply_rope(self._heads(self.key(x_bsh)), *rope)
        v_bnsd = self._heads(self.value(x_bsh))
        if cache is not None:
            k_bnsd, v_bnsd = cache.update(self.layer, k_bnsd, v_bnsd)
        mixed_bnsd = attention(q_bnsd, k_bnsd, v_bnsd, mask)
        mixed: Tensor = self.output(mixed_bnsd.transpose(1, 2).flatten(2))
        return mixed

    def _heads(self, x_bsf: Tensor) -> Tensor:
        return x_bsf.view(*x_bsf.shape[:2], -1, self.head_dim).transpose(1, 2)


class MLP(nn.Module):
    """Gated layer of one block."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate = Linear(config.hidden_size, config.intermediate_size)
        self.up = Linear(config.hidden_size, config.intermediate_size)
        self.down = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_bsh: Tensor) -> Tensor:
        """Map [B, S, H] to [B, S, H]."""
        result: Tensor = self.down(swiglu(self.gate(x_bsh), self.up(x_bsh)))
        return result


class Block(nn.Module):
    """Attention and gated layer, each behind a norm and added to the residual stream."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x_bsh: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """Map [B, S, H] to [B, S, H]."""
        x_bsh = x_bsh + self.attention(self.attention_norm(x_bsh), rope, mask, cache)
        result: Tensor = x_bsh + self.mlp(self.mlp_norm(x_bsh))
        return result


class Transformer(nn.Module):
    """The decoder.

    Its weights are drawn from seed 0; ``initialise`` draws others. Made on the meta device it has none.

    Args:
        config: sizes.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = None if config.tied_embeddings else Linear(config.hidden_size, config.vocab_size)
        if not self.norm.weight.is_meta:
            initialise(self, seed=0)

    @property
    def head_weight(self) -> Tensor:
        """Weight of the output layer, [V, H]."""
        return self.embed.weight if self.head is None else self.head.weight

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Hidden states after the last norm.

        Args:
            ids: [B, S] int64.
            positions: [B, S] int64; None: 0 … S-1. Needed with a cache.
            mask: [B, 1, S, K] bool, True where a query may attend; None: causal, last query at last key.
            cache: keys and values of earlier positions.

        Returns:
            [B, S, H].
        """
        assert cache is None or positions is not None
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        dtype = self.embed.weight.dtype
        rope = rope_tables(positions, self.config.head_dim, self.config.rope_theta, dtype)
        x_bsh = self.embed(ids)
        for block in self.layers:
            x_bsh = block(x_bsh, rope, mask, cache)
        result: Tensor = self.norm(x_bsh)
        return result

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., V] of hidden states [..., H], in the model's dtype."""
        return functional.linear(hidden, self.head_weight)

    @classmethod
    def from_tensors(cls, config: TransformerConfig, tensors: Mapping[str, Tensor]) -> "Transformer":
        """A decoder that uses the given weights, without a copy.

        Args:
            config: sizes.
            tensors: parameter name -> value.

        Raises:
            FormatError: a name or a shape does not belong to a decoder of these sizes.
        """
        with torch.device("meta"):
            model = cls(config)
        try:
            model.load_state_dict(dict(tensors), assign=True)
        except RuntimeError as error:
            raise FormatError("weights do not fit the model", where="Transformer", got=str(error)) from error
        return model


def initialise(model: nn.Module, *, seed: int) -> None:
    """Draw every parameter from a generator of its own.

    The value depends on seed, name and global shape alone, never on ranks or on the order of construction.
    Matrices: normal with deviation 0.02 cut at three deviations; the two matrices that write to the residual
    stream divided by √(2·num_layers) (GPT-2 report, section 2.3). Vectors: one.

    Args:
        model: anything with a list of blocks ``layers``; its parameters are overwritten.
        seed: seed of the run.
    """
    layers = model.get_submodule("layers")
    assert isinstance(layers, nn.ModuleList)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
                continue
            deviation = 0.02
            if name.endswith(("attention.output.weight", "mlp.down.weight")):
                deviation /= (2 * len(layers)) ** 0.5
            parameter.copy_(_draw(name, tuple(parameter.shape), deviation, seed))


def _draw(name: str, shape: tuple[int, ...], deviation: float, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    values = torch.empty(shape, dtype=torch.float32, device="cpu")
    return nn.init.trunc_normal_(
        values, std=deviation, a=-3 * deviation, b=3 * deviation, generator=generator
    )
