"""Counter-based noise: the published sequence, the right distribution, and nothing that depends on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rla_gym import counter_noise

SEEDS = st.integers(0, 2**63 - 1)


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return counter_noise.fold(torch.full((count,), seed), torch.arange(count))


def test_words_are_the_published_splitmix64_sequence() -> None:
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    words = counter_noise.words(torch.tensor([1234567]), 5)[0].tolist()
    assert [word % 2**64 for word in words] == expected


def test_normal_has_the_moments_and_the_distribution_of_a_normal() -> None:
    noise = counter_noise.normal(keys(2000), (8, 16))
    assert noise.shape == (2000, 8, 16)
    assert noise.dtype == torch.float32
    assert noise.isfinite().all()
    flat = noise.flatten().double().numpy()
    assert abs(flat.mean()) < 5 / np.sqrt(flat.size)
    assert abs(flat.var() - 1) < 5 * np.sqrt(2 / flat.size)
    assert abs(stats.skew(flat)) < 5 * np.sqrt(6 / flat.size)
    assert abs(stats.kurtosis(flat)) < 5 * np.sqrt(24 / flat.size)
    assert stats.kstest(flat, "norm").pvalue > 1e-3
    assert np.abs(flat).max() > 4  # tails are there


def test_bits_and_integers_are_uniform() -> None:
    words = counter_noise.words(keys(4096), 16).flatten()
    for shift in (0, 8, 24, 40, 56):
        counts = torch.bincount((words >> shift) & 0xFF, minlength=256).numpy()
        assert stats.chisquare(counts).pvalue > 1e-4, shift
    drawn = counter_noise.integers(keys(60_000), 6)
    assert stats.chisquare(torch.bincount(drawn, minlength=6).numpy()).pvalue > 1e-4
    high = torch.arange(1, 60_001)
    drawn = counter_noise.integers(keys(60_000), high)
    assert (drawn >= 0).all()
    assert (drawn < high).all()


@pytest.mark.parametrize("moved", ["seed", "slot", "episode", "step"])
def test_neighbouring_keys_are_uncorrelated(moved: str) -> None:
    names = ("seed", "slot", "episode", "step")
    count = 50_000
    ramp = torch.arange(count)
    parts = [ramp if name == moved else torch.full((count,), 3) for name in names]
    noise = counter_noise.normal(counter_noise.fold(*parts), (2,)).double()
    limit = 5 / np.sqrt(count)
    assert abs((noise[1:] * noise[:-1]).mean(0)).max() < limit
    assert abs((noise[:, 0] * noise[:, 1]).mean()) < limit
    assert len(noise[:, 0].unique()) > 0.99 * count


def test_the_order_of_parts_matters() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    assert counter_noise.fold(zero, 1, 2) != counter_noise.fold(zero, 2, 1)
    assert counter_noise.fold(zero, 1, 2) == counter_noise.fold(counter_noise.fold(zero, 1), 2)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=SEEDS, count=st.integers(1, 33), odd=st.integers(1, 9))
def test_a_row_is_the_same_in_every_batch(seed: int, count: int, odd: int) -> None:
    batch = counter_noise.normal(keys(count, seed), (odd, 3))
    row = count // 2
    alone = counter_noise.normal(keys(count, seed)[row : row + 1], (odd, 3))
    assert torch.equal(counter_noise.words(keys(count, seed), 5)[row], counter_noise.words(keys(count, seed)[row], 5))
    # Vectorised logarithms may round differently in another place of the tensor.
    torch.testing.assert_close(alone[0], batch[row], rtol=1e-6, atol=1e-6)
    assert torch.equal(batch, counter_noise.normal(keys(count, seed), (odd, 3)))


@given(seed=st.integers(0, 2**200))
def test_any_seed_fits(seed: int) -> None:
    word = counter_noise.seed_word(seed)
    assert 0 <= word < 2**63
    if seed < 2**63:
        assert word == seed
