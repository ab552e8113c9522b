import pytest
import torch

from tokenmill.errors import InputError
from tokenmill.inference.kv_cache import StaticCache


def fill(cache: StaticCache, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cache.update(0, value, -value)
    return cache.update(1, 2 * value, -2 * value)


def test_updates_append_for_every_layer() -> None:
    cache = StaticCache(num_layers=2, max_len=5)
    first, second = torch.randn(2, 3, 3, 4), torch.randn(2, 3, 1, 4)
    fill(cache, first)
    assert cache.length == 3
    keys, values = fill(cache, second)
    assert cache.length == 4
    whole = torch.cat([first, second], dim=2)
    assert torch.equal(keys, 2 * whole)
    assert torch.equal(values, -2 * whole)


def test_a_fork_shares_the_past_and_not_the_future() -> None:
    cache = StaticCache(num_layers=2, max_len=4)
    past = torch.randn(2, 1, 2, 4)
    fill(cache, past)
    fork = cache.fork([1, 0, 1])
    keys, _ = fill(fork, torch.ones(3, 1, 1, 4))
    assert torch.equal(keys[:, :, :2], 2 * past[[1, 0, 1]])
    assert cache.length == 2
    keys, _ = fill(cache, torch.zeros(2, 1, 1, 4))
    assert torch.equal(keys[:, :, 2:], torch.zeros(2, 1, 1, 4))


def test_a_full_cache_is_refused() -> None:
    cache = StaticCache(num_layers=2, max_len=2)
    fill(cache, torch.zeros(1, 1, 2, 4))
    with pytest.raises(InputError, match="cache is full"):
        cache.update(0, torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
