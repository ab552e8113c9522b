"""Rotary embedding: a rotation, relative, and in Hugging Face's order of dimensions."""

import cmath

import torch

from tokenmill.kernels.rope import apply_rope, rope_tables

THETA = 100.0


def rotate(inputs: torch.Tensor, positions: list[int]) -> torch.Tensor:
    """Rotate [S, D] at positions."""
    cos, sin = rope_tables(torch.tensor([positions]), inputs.shape[-1], THETA, inputs.dtype)
    return apply_rope(inputs[None, None], cos, sin)[0, 0]


def test_dimension_i_turns_with_i_plus_half() -> None:
    inputs = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    rotated = rotate(inputs, [5])[0].tolist()
    for index, speed in ((0, 1.0), (1, THETA**-0.5)):
        number = complex(inputs[0, index], inputs[0, index + 2]) * cmath.exp(1j * 5 * speed)
        assert abs(complex(rotated[index], rotated[index + 2]) - number) < 1e-12


def test_scores_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 8, generator=generator, dtype=torch.float64)
    scores = [rotate(query, [7 + shift]) @ rotate(key, [3 + shift]).T for shift in (0, 1, 1000)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scores[0], scores[2], rtol=1e-10, atol=1e-10)
    assert (rotate(query, [8]) @ rotate(key, [3]).T - scores[0]).abs().item() > 1e-3


def test_lengths_stay_and_position_zero_is_still() -> None:
    inputs = torch.randn(3, 8, dtype=torch.float64)
    rotated = rotate(inputs, [0, 9, 4])
    torch.testing.assert_close(rotated.norm(dim=-1), inputs.norm(dim=-1))
    assert torch.equal(rotated[0], inputs[0])


def test_every_sequence_has_its_own_positions() -> None:
    cos, sin = rope_tables(torch.tensor([[0, 1], [5, 6]]), 8, THETA, torch.float32)
    assert cos.shape == sin.shape == (2, 1, 2, 8)
    other, _ = rope_tables(torch.tensor([[5, 6]]), 8, THETA, torch.float32)
    assert torch.equal(cos[1], other[0])


def test_angles_of_short_dtypes_are_exact() -> None:
    cos, _ = rope_tables(torch.tensor([[4097]]), 2, THETA, torch.bfloat16)  # 4097 itself is no bfloat16
    want, _ = rope_tables(torch.tensor([[4097]]), 2, THETA, torch.float64)
    assert cos.dtype == torch.bfloat16
    torch.testing.assert_close(cos.double(), want, rtol=0, atol=4e-3)
