"""Diagonal Gaussians over action chunks: log density and divergence."""

from __future__ import annotations

import math

from torch import Tensor


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density of actions (B, D) under diagonal Gaussians, summed over D: (B,)."""
    scaled = (action - mean) / log_std.exp()
    return (-0.5 * scaled.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(-1)


def gaussian_kl(mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor) -> Tensor:
    """KL(p || q) of diagonal Gaussians, means (B, D), log stds (D,), summed over D: (B,), in nats."""
    ratio = (2.0 * (log_std_p - log_std_q)).exp()
    distance = ((mean_p - mean_q) / log_std_q.exp()).square()
    return (log_std_q - log_std_p + 0.5 * (ratio + distance - 1.0)).sum(-1)
