"""The decoder: an independent Llama agrees, nothing leaks from the future, weights are drawn by name."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokenmill.errors import ConfigError, FormatError
from tokenmill.models.transformer import Transformer, TransformerConfig, initialise

CONFIG = TransformerConfig(
    vocab_size=50,
    hidden_size=24,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=40,
    rope_theta=500.0,
)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest) -> Transformer:
    subject = Transformer(replace(CONFIG, tied_embeddings=request.param)).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for (
            parameter
        ) in subject.parameters():  # far from the drawn values: norms matter, scores are not small
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3 + 0.1
            )
    return subject


IDS = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(6))


def hugging_face_llama(model: Transformer, ids: Tensor) -> Tensor:
    """Logits of modeling_llama.py of Hugging Face's transformers, written anew step by step.

    Names of its weights stand beside ours; shapes and the order of operations are its own.
    """
    config, weights = model.config, dict(model.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        return weights[name] * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config.norm_eps))

    def rotate_half(x: Tensor) -> Tensor:
        return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)

    inv_freq = 1.0 / (config.rope_theta ** (torch.arange(0, config.head_dim, 2).double() / config.head_dim))
    freqs = torch.outer(torch.arange(ids.shape[1]).double(), inv_freq)
    angles = torch.cat((freqs, freqs), dim=-1)
    cos, sin = angles.cos(), angles.sin()
    x = weights["embed.weight"][ids]  # model.embed_tokens
    for layer in range(config.num_layers):
        name = f"layers.{layer}"
        h = norm(x, f"{name}.attention_norm.weight")  # input_layernorm
        shape = (*ids.shape, -1, config.head_dim)
        q = (h @ weights[f"{name}.attention.query.weight"].T).view(shape).transpose(1, 2)  # q_proj
        k = (h @ weights[f"{name}.attention.key.weight"].T).view(shape).transpose(1, 2)  # k_proj
        v = (h @ weights[f"{name}.attention.value.weight"].T).view(shape).transpose(1, 2)  # v_proj
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        groups = config.num_heads // config.num_kv_heads
        k, v = (part[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for part in (k, v))
        scores = q @ k.transpose(2, 3) / config.head_dim**0.5
        future = torch.full((ids.shape[1], ids.shape[1]), float("-inf"), dtype=torch.float64).triu(1)
        mixed = ((scores + future).softmax(-1) @ v).transpose(1, 2).reshape(*ids.shape, -1)
        x = x + mixed @ weights[f"{name}.attention.output.weight"].T  # o_proj
        h = norm(x, f"{name}.mlp_norm.weight")  # post_attention_layernorm
        gate = h @ weights[f"{name}.mlp.gate.weight"].T
        up = h @ weights[f"{name}.mlp.up.weight"].T
        x = x + (gate * gate.sigmoid() * up) @ weights[f"{name}.mlp.down.weight"].T
    head = "embed.weight" if config.tied_embeddings else "head.weight"  # lm_head
    return norm(x, "norm.weight") @ weights[head].T


def test_equals_the_llama_of_hugging_face(model: Transformer) -> None:
    want = hugging_face_llama(model, IDS)
    got = model.logits(model(IDS))
    assert want.std() > 0.1
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_nothing_leaks_from_the_future(model: Transformer) -> None:
    changed = IDS.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 50
    before, after = model(IDS), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


class ListCache:
    """The simplest cache: everything in order."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.kept:
            old_key, old_value = self.kept[layer]
            key, value = torch.cat([old_key, key], dim=2), torch.cat([old_value, value], dim=2)
        self.kept[layer] = (key, value)
        return key, value


@pytest.mark.parametrize("cuts", [(9,), (4, 5), (1,) * 9, (5, 1, 3)])
def test_with_a_cache(model: Transformer, cuts: tuple[int, ...]) -> None:
    cache, start, parts = ListCache(), 0, []
    for length in cuts:
        positions = torch.arange(start, start + length).expand(2, -1)
        parts.append(model(IDS[:, start : start + length], positions=positions, cache=cache))
        start += length
    torch.testing.assert_close(torch.cat(parts, dim=1), model(IDS), rtol=1e-11, atol=1e-11)


def test_a_cache_needs_positions(model: Transformer) -> None:
    with pytest.raises(AssertionError):
        model(IDS, cache=ListCache())


def test_padding_on_the_left_changes_nothing(model: Transformer) -> None:
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), IDS], dim=1)
    positions = (torch.arange(12) - 3).clamp(min=0).expand(2, -1)
    real = torch.arange(12) >= 3
    mask = torch.ones(12, 12, dtype=torch.bool).tril() & real
    mask |= torch.eye(12, dtype=torch.bool)  # a row of padding must see something
    hidden = model(padded, positions=positions, mask=mask.expand(2, 1, -1, -1))
    torch.testing.assert_close(hidden[:, 3:], model(IDS), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tied", [True, False])
def test_num_parameters(tied: bool) -> None:
    config = replace(CONFIG, tied_embeddings=tied)
    assert config.num_parameters == sum(value.numel() for value in Transformer(config).parameters())


def test_flops_count_the_multiplications(model: Transformer) -> None:
    """Two per weight and token forward, twice that backward, counted by torch itself."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(model.logits(model(IDS)).sum())
    counted = counter.get_total_flops() / IDS.numel()
    scores = 12 * 3 * 4 * 8 * 9
    # torch counts the fused attention of a CPU not at all; the rest must agree to the last operation
    assert counted in (
        pytest.approx(CONFIG.flops_per_token(9) - scores),
        pytest.approx(CONFIG.flops_per_token(9)),
    )


def test_weights_depend_on_seed_and_name_alone() -> None:
    one, deeper = Transformer(CONFIG), Transformer(replace(CONFIG, num_layers=5))
    other = Transformer(CONFIG)
    initialise(other, seed=1)
    parameters, theirs = dict(one.named_parameters()), dict(deeper.named_parameters())
    for name in ("embed.weight", "layers.1.attention.query.weight", "layers.2.mlp.up.weight"):
        assert torch.equal(parameters[name], theirs[name])
        assert not torch.equal(parameters[name], dict(other.named_parameters())[name])
    assert not torch.equal(parameters["layers.0.mlp.up.weight"], parameters["layers.1.mlp.up.weight"])
    torch.rand(7)  # the global generator plays no part
    assert torch.equal(parameters["embed.weight"], Transformer(CONFIG).embed.weight)


def test_drawn_values() -> None:
    wide = replace(CONFIG, hidden_size=256, vocab_size=500)
    parameters = dict(Transformer(wide).named_parameters())
    assert all(bool((value == 1).all()) for value in parameters.values() if value.dim() == 1)
    for name, value in parameters.items():
        if value.dim() > 1:
            small = name.endswith(("attention.output.weight", "mlp.down.weight"))
            deviation = 0.02 / (2 * 3) ** 0.5 if small else 0.02
            # a normal cut at three deviations has 0.9866 of the deviation
            assert value.std().item() == pytest.approx(0.9866 * deviation, rel=0.05), name
            assert value.abs().max().item() <= 3 * deviation


def test_from_tensors_uses_the_given_memory(model: Transformer) -> None:
    tensors = {name: value.detach() for name, value in model.named_parameters()}
    again = Transformer.from_tensors(model.config, tensors)
    assert torch.equal(again(IDS), model(IDS))
    assert again.embed.weight.data_ptr() == model.embed.weight.data_ptr()


def test_from_tensors_that_do_not_fit(model: Transformer) -> None:
    tensors = {name: value.detach() for name, value in model.named_parameters()}
    with pytest.raises(FormatError, match=r"do not fit the model(.|\n)*size mismatch"):
        Transformer.from_tensors(replace(model.config, intermediate_size=41), tensors)
    tensors.pop("norm.weight")
    with pytest.raises(FormatError, match=r"Missing key(.|\n)*norm\.weight"):
        Transformer.from_tensors(model.config, tensors)


@pytest.mark.parametrize(
    ("values", "where"),
    [({"num_kv_heads": 3}, "num_kv_heads"), ({"head_dim": 7}, "head_dim"), ({"num_layers": 0}, "num_layers")],
)
def test_sizes_that_do_not_fit(values: dict[str, int], where: str) -> None:
    with pytest.raises(ConfigError, match=rf"where: {where}"):
        replace(CONFIG, **values)  # type: ignore[arg-type]  # only sizes are given
