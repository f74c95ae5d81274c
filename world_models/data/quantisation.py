"""States as eight-bit integers: a quarter of float32's size, for what ships with a world."""

from __future__ import annotations

import torch
from torch import Tensor


def quantise(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round states to 255 levels between the least and the largest value of each of their numbers.

    Args:
        states: ``(..., L, C)`` floating point.

    Returns:
        Levels ``(..., L, C)`` int8; scale and offset ``(L, C)`` float32, so that states are levels * scale + offset.
    """
    flat = states.float().flatten(0, -3)
    low, high = flat.amin(dim=0), flat.amax(dim=0)
    scale, offset = ((high - low) / 254).clamp_min(1e-12), (high + low) / 2
    levels = ((states.float() - offset) / scale).round().clamp(-127, 127).to(torch.int8)
    return levels, scale, offset


def dequantise(levels: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """States ``(..., L, C)`` float16 from what :func:`quantise` gave."""
    return (levels.float() * scale + offset).half()
