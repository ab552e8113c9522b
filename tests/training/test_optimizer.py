"""AdamW against torch's own, clipping against torch's own, masters for short dtypes."""

import pytest
import torch
from torch import nn

from tokenmill.errors import ConfigError
from tokenmill.training.optimizer import AdamW, OptimizerConfig, clip_scale, gradient_norm

CONFIG = OptimizerConfig(beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.2)


def parameters(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (5, 4), "vector": (4,)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for name, shape in shapes.items()
    }


def gradients(step: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, value in parameters(dtype).items()
    }


def test_equals_torch() -> None:
    mine, theirs = parameters(torch.float64), parameters(torch.float64)
    groups = [
        {"params": [theirs["matrix"]], "weight_decay": 0.2},
        {"params": [theirs["vector"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.0, betas=(0.8, 0.9), eps=1e-6, foreach=False)
    subject = AdamW(mine, CONFIG)
    for step in range(1, 21):
        rate = 0.1 / step
        for group in reference.param_groups:
            group["lr"] = rate
        for name, gradient in gradients(step, torch.float64).items():
            theirs[name].grad = gradient * 0.5
        reference.step()
        subject.step(gradients(step, torch.float64), step=step, learning_rate=rate, scale=0.5)
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-13, atol=1e-13)


def test_only_matrices_decay() -> None:
    mine = parameters(torch.float64)
    before = {name: value.detach().clone() for name, value in mine.items()}
    zeros = {name: torch.zeros_like(value) for name, value in mine.items()}
    AdamW(mine, CONFIG).step(zeros, step=1, learning_rate=0.5)
    torch.testing.assert_close(mine["matrix"].detach(), before["matrix"] * 0.9)
    assert torch.equal(mine["vector"], before["vector"])


def test_short_dtypes_move_by_less_than_their_own_steps() -> None:
    mine = {"matrix": nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))}
    subject = AdamW(mine, OptimizerConfig(weight_decay=0.0))
    for step in range(1, 101):  # 1e-4 is far below bfloat16's resolution at one
        subject.step({"matrix": torch.ones(2, 2)}, step=step, learning_rate=1e-4)
    assert subject.state()["master.matrix"].dtype == torch.float32
    assert mine["matrix"].dtype == torch.bfloat16
    assert mine["matrix"][0, 0].item() == pytest.approx(0.99, abs=0.004)


def test_float32_has_no_second_copy() -> None:
    mine = parameters(torch.float32)
    subject = AdamW(mine, CONFIG)
    assert set(subject.state()) == {"mean.matrix", "mean.vector", "square.matrix", "square.vector"}
    subject.step(gradients(1, torch.float32), step=1, learning_rate=0.1)
    assert not torch.equal(mine["matrix"], parameters(torch.float32)["matrix"])


def test_norm_and_clipping_equal_torch() -> None:
    values = {name: value * 3 for name, value in gradients(1, torch.float64).items()}
    holders = [nn.Parameter(torch.zeros_like(value)) for value in values.values()]
    for holder, value in zip(holders, values.values(), strict=True):
        holder.grad = value.clone()
    reference = nn.utils.clip_grad_norm_(holders, 1.0).item()
    norm = gradient_norm(values)
    assert norm == pytest.approx(reference, rel=1e-14)
    assert holders[0].grad is not None
    torch.testing.assert_close(values["matrix"] * clip_scale(norm, 1.0), holders[0].grad)


def test_small_gradients_are_not_scaled_up() -> None:
    assert clip_scale(0.0, 1.0) == clip_scale(0.999, 1.0) == 1.0
    assert clip_scale(4.0, 1.0) == pytest.approx(0.25, rel=1e-6)


def test_norm_adds_up_in_float64() -> None:
    values = {str(index): torch.full((1,), 1e25) for index in range(4)}  # the square of 1e25 is no float32
    assert gradient_norm(values) == pytest.approx(2e25)


@pytest.mark.parametrize(
    ("name", "value"),
    [("beta1", 1.0), ("beta2", -0.1), ("eps", 0.0), ("weight_decay", -1.0), ("max_gradient_norm", 0.0)],
)
def test_constants_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"where: {name}"):
        OptimizerConfig(**{name: value})
