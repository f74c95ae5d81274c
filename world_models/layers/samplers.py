"""Solvers of the flow's ordinary differential equation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def euler(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrate from flow time 1 (noise) to 0 (data) in equal Euler steps.

    Args:
        velocity: maps a noisy sample ``(B, n, d)`` and its flow time ``(B,)`` to the velocity noise - data.
        noise: standard normal ``(B, n, d)``.
        steps: number of solver steps, at least 1.

    Returns:
        The sample ``(B, n, d)``.

    Raises:
        ValueError: ``steps`` is below 1.
    """
    if steps < 1:
        raise ValueError(f"solver steps must be at least 1, not {steps}")
    sample = noise
    for step in range(steps):
        time = torch.full((len(noise),), 1.0 - step / steps, device=noise.device, dtype=noise.dtype)
        sample = sample - velocity(sample, time) / steps
    return sample
