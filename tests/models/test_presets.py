"""Named sizes."""

import pytest

from tokenmill.errors import ConfigError
from tokenmill.models.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_model(name: str) -> None:
    config = preset(name, 1000)
    assert config.vocab_size == 1000
    assert config.num_heads * config.head_dim == config.hidden_size


@pytest.mark.parametrize(
    ("name", "vocab_size", "millions"),
    [("smollm2-135m", 49_152, 134.5), ("smollm2-360m", 49_152, 361.8), ("llama-1b", 128_256, 1235.8)],
)
def test_sizes_of_published_models(name: str, vocab_size: int, millions: float) -> None:
    assert preset(name, vocab_size).num_parameters / 1e6 == pytest.approx(millions, abs=0.05)


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"unknown model preset(.|\n)*did you mean micro\?"):
        preset("mikro", 10)
