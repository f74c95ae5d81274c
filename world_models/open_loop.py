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
    noise = rollout_noise(model, len(actions), actions.shape[1], torch.Generator().manual_seed(seed))
    return roll_out(model, features, actions, noise, solver_steps)


def roll_out(
    model: WorldModel, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None = None
) -> Prediction:
    """What :func:`open_loop` imagines, with the noise of :func:`rollout_noise` and with the caller's gradients."""
    steps: list[Prediction] = []
    error = None
    for number, chunk in enumerate(actions.unbind(dim=1)):
        of_chunk = None if noise is None else noise[:, number].to(features.device)
        steps.append(model.predict(features, chunk, of_chunk, solver_steps, error))
        features, error = steps[-1].features, steps[-1].error
    return Prediction(*(torch.stack(parts, dim=1) for parts in zip(*steps, strict=True)))


def rollout_noise(model: WorldModel, rollouts: int, chunks: int, generator: torch.Generator) -> Tensor | None:
    """Noise ``(B, M, *noise_shape)`` of B rollouts of M chunks from a CPU generator; None if the model takes none."""
    if model.noise_shape is None or model.prediction_noise is None:
        return None
    shape = rollouts, *model.noise_shape
    of_chunks = [torch.randn(shape, generator=generator, dtype=torch.float32) for _ in range(chunks)]
    lasting = of_chunks[0][:, : model.prediction_noise[0], : model.lasting_noise]
    return torch.stack([model.with_lasting(noise, lasting) for noise in of_chunks], dim=1)
