"""Counter-based random numbers on the device: the same key gives the same numbers, in any batch and any order.

A key is an int64 tensor made by :func:`fold` from integers such as (seed, slot, episode, step). From it the
numbers are a pure function, so slot ``i`` of a vector environment draws the same noise whether it runs alone or
among a thousand others, and nothing has to be stored, seeded or synchronised. The mixing is splitmix64.

torch has no unsigned 64-bit arithmetic on every device, so the words are int64: products and sums wrap around,
and right shifts, which would drag the sign along, are masked.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FACTOR_1 = _signed(0xBF58476D1CE4E5B9)
_FACTOR_2 = _signed(0x94D049BB133111EB)
_SEED_BITS = (1 << 63) - 1


def _shift_right(word: Tensor, bits: int) -> Tensor:
    """Logical (zero-filling) right shift of int64 words."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def _mix(word: Tensor) -> Tensor:
    """The output function of splitmix64: a bijection of 64-bit words in which every bit moves every other."""
    word = (word ^ _shift_right(word, 30)) * _FACTOR_1
    word = (word ^ _shift_right(word, 27)) * _FACTOR_2
    return word ^ _shift_right(word, 31)


def seed_word(seed: int) -> int:
    """Any non-negative Python integer as a word that fits int64 (seeds under 2**63 are kept as they are)."""
    return (seed ^ (seed >> 63)) & _SEED_BITS


def fold(key: Tensor, *parts: Tensor | int) -> Tensor:
    """A new key from a key and further integers, in order: ``fold(key, a, b) == fold(fold(key, a), b)``.

    Args:
        key: int64 tensor of any shape.
        parts: int64 tensors that broadcast with ``key``, or Python integers of at most 63 bits.

    Returns:
        int64 tensor, the broadcast shape.
    """
    for part in parts:
        key = _mix(_mix(key + _GOLDEN) ^ part)
    return key


def words(key: Tensor, count: int) -> Tensor:
    """``count`` uniform 64-bit words for each key: (B,) int64 -> (B, count) int64, splitmix64 started at the key."""
    counter = torch.arange(1, count + 1, device=key.device)
    return _mix(key.unsqueeze(-1) + counter * _GOLDEN)


def integers(key: Tensor, high: Tensor | int) -> Tensor:
    """One integer in [0, high) for each key: (B,) int64 -> (B,) int64; ``high`` is an int or (B,) int64, >= 1."""
    return _shift_right(words(key, 1).squeeze(-1), 1) % high


def normal(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise for each key (Box-Muller): (B,) int64 -> (B, *shape) float32."""
    count = math.prod(shape)
    pairs = words(key, (count + 1) // 2)
    # The half keeps the radius finite: the smallest argument of the logarithm is 2**-33.
    radius = (-2.0 * ((_shift_right(pairs, 32).float() + 0.5) * 2.0**-32).log()).clamp_min(0.0).sqrt()
    angle = (pairs & 0xFFFFFFFF).float() * (2.0 * math.pi * 2.0**-32)
    noise = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return noise.reshape(key.shape[0], -1)[:, :count].reshape(key.shape[0], *shape)
