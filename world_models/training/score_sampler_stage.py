"""The stage that trains the sampler around a trained regression by the energy score of its draws; it resumes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world_models.files import weights_digest
from world_models.mixer.dynamics import ScoreSamplerWorldModel
from world_models.mixer.score_sampler import energy_score
from world_models.training.optimisation import OptimisationConfig, Scalars, optimise
from world_models.training.stages import Batch, draw_batch, full_windows, validate_open_loop, with_rollouts
from world_models.training.training_data import TrainingData

DRAWS = 4
"""Draws of each sample that the loss compares."""


def train_score_sampler(
    world: ScoreSamplerWorldModel,
    data: TrainingData,
    optimisation: OptimisationConfig,
    folder: Path,
    key: dict[str, Any],
    pushed_chunks: int = 0,
) -> Scalars:
    """Train the sampler; the regression stays as it is.

    A quarter of the states that it learns from are its own samples, up to ``pushed_chunks`` chunks on.

    Returns:
        The stage's scalars: open-loop errors of one draw each, and the energy score of one chunk, ``energy_score``,
        beside that of the regression's single answer, ``energy_score_regression``.
    """
    sampler, regression = world.score_sampler, world.regression.requires_grad_(False)

    def loss(batch: Batch, generator: torch.Generator) -> Tensor:
        states, later, actions, lengths, error = with_rollouts(world, batch, generator)
        with torch.no_grad():
            predicted = regression(states, actions, lengths)
        noise = torch.randn(len(states), DRAWS, sampler.config.noise, generator=generator).to(states.device)
        draws = states[:, None] + sampler(states, predicted, noise).float()
        expected = sampler.expected_error(predicted.tokens, error)
        actual = (draws[:, 0].detach() - later).abs().mean(dim=2)
        return energy_score(draws, later) + 0.1 * (expected - actual).square().mean()

    def validate() -> Scalars:
        generator = torch.Generator().manual_seed(0)
        states, later, actions = full_windows(data.validation, 256, world.chunk_length)
        predicted = regression(states, actions)
        noise = torch.randn(len(states), 8, sampler.config.noise, generator=generator).to(states.device)
        draws = states[:, None] + sampler(states, predicted, noise).float()
        single = (states + predicted.residual.float())[:, None].expand(-1, 2, -1, -1)
        scores = {"energy_score": energy_score(draws, later), "energy_score_regression": energy_score(single, later)}
        return {name: float(score) for name, score in scores.items()} | validate_open_loop(world, data.validation)

    key = {**key, "regression": weights_digest(regression), "score_sampler": vars(sampler.config)}
    key |= {"pushed_chunks": pushed_chunks, "chunk_length": world.chunk_length, "draws": DRAWS}
    return optimise(
        "score_sampler", sampler, partial(draw_batch, world, data.train, pushed_chunks, proprioception=False), loss,
        optimisation, folder, key=key, validate=validate,
    )  # fmt: skip
