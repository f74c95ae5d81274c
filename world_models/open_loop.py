"""Open-loop rollouts: predictions fed back as states, nothing re-encoded."""

from __future__ import annotations

import torch
from torch import Tensor

from world_models.base import Prediction, WorldModel


@torch.inference_mode()
def open_loop(
    model: WorldModel, features: Tensor, actions: Tensor, *, seed: int = 0, solver_steps: int | None = None
) -> Prediction:
    """Imagine the states after each of M action chunks.

    Args:
        model: the world model.
        features: first states ``(B, L, C)``, float32.
        actions: chunks ``(B, M, k, A)``.
        seed: of the noise.
        solver_steps: Euler steps of a flow; None for the world's own number.

    Returns:
        States ``(B, M, L, C)`` after chunk 1 to M, expected errors ``(B, M, L)`` and uncertainties ``(B, M)``, float32.
    """
    return roll_out(model, features, actions, torch.Generator().manual_seed(seed), solver_steps)


def roll_out(
    model: WorldModel, features: Tensor, actions: Tensor, generator: torch.Generator, solver_steps: int | None = None
) -> Prediction:
    """What :func:`open_loop` imagines, with noise from a CPU generator and with the caller's gradients."""
    steps: list[Prediction] = []
    error = None
    for chunk in actions.unbind(dim=1):
        noise = None
        if model.noise_shape is not None:
            noise = torch.randn(len(features), *model.noise_shape, generator=generator).to(features.device)
        steps.append(model.predict(features, chunk, noise, solver_steps, error))
        features, error = steps[-1].features, steps[-1].error
    return Prediction(*(torch.stack(parts, dim=1) for parts in zip(*steps, strict=True)))
