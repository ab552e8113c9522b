"""AdamW (arXiv:1711.05101, algorithm 2) and gradient clipping (arXiv:1211.5063, section 3.2)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tokenmill.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Constants of AdamW.

    Raises:
        ConfigError: a constant is out of its range.
    """

    beta1: float = 0.9
    """Memory of the mean of gradients."""
    beta2: float = 0.95
    """Memory of the mean of squared gradients."""
    eps: float = 1e-8
    """Added to the root of the mean square."""
    weight_decay: float = 0.1
    """Share of a matrix taken away per step, times the learning rate; vectors do not decay."""
    max_gradient_norm: float = 1.0
    """Gradients of a larger norm are scaled down to it."""

    def __post_init__(self) -> None:
        checks = {
            "beta1": 0 <= self.beta1 < 1,
            "beta2": 0 <= self.beta2 < 1,
            "eps": self.eps > 0,
            "weight_decay": self.weight_decay >= 0,
            "max_gradient_norm": self.max_gradient_norm > 0,
        }
        for name, holds in checks.items():
            if not holds:
                raise ConfigError(
                    "an optimizer constant is out of range", where=name, got=str(getattr(self, name))
                )


def gradient_norm(gradients: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all gradients as one vector, added up in float64."""
    squares = [torch.linalg.vector_norm(value, dtype=torch.float64).square() for value in gradients.values()]
    return math.sqrt(torch.stack(squares).sum().item())


def clip_scale(norm: float, max_norm: float) -> float:
    """Factor that brings gradients of a norm down to the largest allowed one.

    >>> clip_scale(0.5, 1.0)
    1.0
    """
    return min(1.0, max_norm / (norm + 1e-6))


class AdamW:
    """AdamW over named parameters, with state and, for short dtypes, masters in at least float32.

        m = β₁ m + (1-β₁) g      v = β₂ v + (1-β₂) g²
        w = w - λ η w - η (m / (1-β₁ᵗ)) / (√(v / (1-β₂ᵗ)) + ε)

    Args:
        parameters: name -> parameter.
        config: constants.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> None:
        self._parameters, self._config = dict(parameters), config
        self._masters: dict[str, Tensor] = {}
        self._means: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            exact = torch.promote_types(parameter.dtype, torch.float32)
            # to() gives the parameter itself if it needs no master
            self._masters[name] = parameter.detach().to(exact)
            self._means[name] = torch.zeros_like(self._masters[name])
            self._squares[name] = torch.zeros_like(self._masters[name])

    @torch.no_grad()
    def step(
        self, gradients: Mapping[str, Tensor], *, step: int, learning_rate: float, scale: float = 1.0
    ) -> None:
        """Change the parameters.

        Args:
            gradients: name -> gradient, in the dtype of the state; they are overwritten.
            step: number of this step, from 1.
            learning_rate: η.
            scale: factor for the gradients.
        """
        config = self._config
        mean_bias, square_bias = 1 - config.beta1**step, 1 - config.beta2**step
        for name, parameter in self._parameters.items():
            master, gradient = self._masters[name], gradients[name].mul_(scale)
            mean = self._means[name].lerp_(gradient, 1 - config.beta1)
            square = self._squares[name].mul_(config.beta2)
            square.addcmul_(gradient, gradient, value=1 - config.beta2)
            if parameter.dim() > 1:
                master.mul_(1 - learning_rate * config.weight_decay)
            root = (square / square_bias).sqrt_().add_(config.eps)
            master.addcdiv_(mean, root, value=-learning_rate / mean_bias)
            if master.dtype != parameter.dtype:
                parameter.copy_(master)

    def state(self) -> dict[str, Tensor]:
        """All state under ``mean.<name>``, ``square.<name>`` and, where there is one, ``master.<name>``."""
        result = {f"mean.{name}": value for name, value in self._means.items()}
        result |= {f"square.{name}": value for name, value in self._squares.items()}
        for name, value in self._masters.items():
            if value.dtype != self._parameters[name].dtype:
                result[f"master.{name}"] = value
        return result
