"""Whole episodes against whole demonstrations: dynamic time warping and optimal transport, neither with a clock.

Both look back on a finished episode, so they are scores and not rewards of a step. They bound what a video-aligned
reward that ignores every difference in speed can say.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from world_models.data.demonstrations import Demonstrations


def frame_distances(episodes: Tensor, demonstrations: Demonstrations, stride: int) -> tuple[Tensor, Tensor]:
    """Token L1 between the states of episodes and every ``stride``-th frame of demonstrations.

    Args:
        episodes: states (E, M, L, C).
        demonstrations: N of them.
        stride: frames between two that are compared; a demonstration's last frame counts as its end.

    Returns:
        Distances (E, N, M, J) float32, and which of the J frames each demonstration has, (N, J) bool.
    """
    times = torch.arange(0, demonstrations.features.shape[1] + stride - 1, stride)
    inside = times < demonstrations.lengths[:, None] + stride - 1  # the first beyond its end shows the end
    index = torch.arange(len(demonstrations))[:, None].expand_as(inside)
    frames = demonstrations.at(index.flatten(), times.expand_as(inside).flatten()).flatten(1)
    size = episodes.shape[2] * episodes.shape[3]
    apart = torch.cdist(episodes.reshape(-1, size).float(), frames, p=1.0) / size
    return apart.view(*episodes.shape[:2], *inside.shape).transpose(1, 2), inside


def warping_score(distances: Tensor, inside: Tensor) -> Tensor:
    """Minus the cost of the best dynamic time warping onto any demonstration's whole course, (E,) float32.

    Both are matched from their beginning to their end, in order, each state with one frame or more; the cost of a pair
    is its distance, and the sum is divided by the number of states of both.
    """
    states, frames = distances.shape[2:]
    total = torch.full_like(distances, torch.inf)
    for i in range(states):
        for j in range(frames):
            before = [total[:, :, a, b] for a, b in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if a >= 0 and b >= 0]
            total[:, :, i, j] = distances[:, :, i, j] + (torch.stack(before).amin(dim=0) if before else 0.0)
    lengths = inside.sum(dim=1)
    ends = total[:, torch.arange(len(lengths)), -1, lengths - 1]
    return -(ends / (states + lengths)).amin(dim=1)


def transport_score(distances: Tensor, inside: Tensor, *, sharpness: float = 20.0, iterations: int = 100) -> Tensor:
    """Minus the cost of the optimal transport of an episode's states to any demonstration's frames, (E,) float32.

    Uniform masses, whatever the order; entropic (Sinkhorn, arXiv 1306.0895), in logarithms.

    Args:
        distances, inside: of :func:`frame_distances`.
        sharpness: inverse of the entropy's weight, in units of the mean distance.
        iterations: of the scaling.
    """
    states = distances.shape[2]
    missing = ~inside[None, :, None, :]
    kernel = (-sharpness * distances / distances.mean()).masked_fill(missing, -torch.inf)
    rows, columns = -math.log(states), -inside.sum(dim=1).float().log()[None, :, None, None]
    right = torch.zeros_like(kernel[:, :, :1])
    for _ in range(iterations):
        left = rows - (kernel + right).logsumexp(dim=3, keepdim=True)
        right = (columns - (kernel + left).logsumexp(dim=2, keepdim=True)).masked_fill(missing, 0.0)
    plan = (kernel + left + right).exp()
    return -(plan * distances).sum(dim=(2, 3)).amin(dim=1)
