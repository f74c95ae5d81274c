"""Calibrate what a world model expects of its own errors: on episodes that it was not trained on, these are larger."""

from __future__ import annotations

import torch
from torch import Tensor

from world_models.base import WorldModel
from world_models.data.windows import Windows
from world_models.open_loop import open_loop


@torch.no_grad()
def calibrate_uncertainty(world: WorldModel, held_out: Windows, *, runs: int = 256) -> None:
    """Fit uncertainty = a * error ** b to open-loop rollouts, and keep (a, b) in the model.

    The power is the least-squares line between the logarithms; the factor then makes mean uncertainty and mean error
    equal over all rollouts. A model that was calibrated before is calibrated anew.

    Args:
        world: the trained model.
        held_out: windows of validation episodes.
        runs: rollouts of each length, from one chunk up to as many as the episodes hold.
    """
    expected, actual = [], []
    for chunks in range(1, held_out.longest_run(world.chunk_length) + 1):
        generator = torch.Generator().manual_seed(chunks)
        states, actions, later = held_out.sample_sequence(runs, world.chunk_length, chunks, generator)
        rollout = open_loop(world, states, actions, seed=chunks)
        expected.append(rollout.error[:, -1].mean(dim=1))
        actual.append((rollout.features[:, -1] - later[:, -1]).abs().mean(dim=(1, 2)))
    factor, power = fit_power_law(torch.cat(expected), torch.cat(actual))
    world.expected_error.calibration.copy_(torch.stack([factor, power]))


def fit_power_law(expected: Tensor, actual: Tensor) -> tuple[Tensor, Tensor]:
    """Factor a and power b, scalars, so that a * expected ** b follows ``actual``; both ``(N,)`` and positive."""
    x, y = expected.clamp_min(1e-8).log(), actual.clamp_min(1e-8).log()
    centred = x - x.mean()
    # A model whose errors are all alike has a line of any slope: it must not turn the ranking round, nor overflow.
    power = ((centred * (y - y.mean())).sum() / centred.square().sum().clamp_min(1e-8)).clamp(0.1, 4.0)
    return actual.mean() / (expected.clamp_min(1e-8) ** power).mean(), power
