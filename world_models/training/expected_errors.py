"""The stage that teaches a trained world model how wrong its long rollouts are; what it predicts stays as it is.

While dynamics train, they are asked for errors of one chunk, or of a few chunks by weights that still change. Over an
imagined episode errors add up, and the largest of them are seldom those of one chunk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world_models.base import WorldModel
from world_models.files import weights_digest
from world_models.open_loop import open_loop, roll_out, rollout_noise
from world_models.training.optimisation import OptimisationConfig, Scalars, optimise
from world_models.training.training_data import TrainingData

TOKEN_WEIGHT = 0.2
"""Weight of the errors of single tokens beside that of the whole state, which uncertainty is made of."""

_Runs = tuple[Tensor, Tensor, Tensor]
"""First states, actions, and states after each chunk, as :meth:`Windows.sample_sequence` gives them."""


def train_expected_errors(
    name: str,
    world: WorldModel,
    data: TrainingData,
    optimisation: OptimisationConfig,
    folder: Path,
    key: dict[str, Any],
) -> Scalars:
    """Train the head that expects errors on open-loop rollouts, of whole chunks and of halves; the rest is frozen.

    Args:
        name: of the stage.
        world: the trained model.
        data: episodes; rollouts start anywhere in those of the training split.
        optimisation: how.
        folder: of the stage's checkpoint.
        key: everything the result depends on besides, see :func:`world_models.training.optimisation.optimise`.

    Returns:
        The stage's scalars; ``error_correlation`` is that of expected and actual errors of whole states, in logarithms,
        over rollouts of validation episodes.
    """
    world.requires_grad_(False)
    head = world.expected_error.requires_grad_(True)

    def draw(generator: torch.Generator, samples: int) -> _Runs:
        # A chunk may be predicted in parts, and then errors add up twice as often.
        halved = bool(torch.rand((), generator=generator) < 0.5)
        horizon = max(1, world.chunk_length // 2) if halved else world.chunk_length
        chunks = int(torch.randint(1, data.train.longest_run(horizon) + 1, (1,), generator=generator))
        return data.train.sample_sequence(samples, horizon, chunks, generator)

    def loss(runs: _Runs, generator: torch.Generator) -> Tensor:
        states, actions, later = runs
        noise = rollout_noise(world, len(actions), actions.shape[1], generator)
        rollout = roll_out(world, states, actions, noise)
        actual = (rollout.features - later).abs().mean(dim=3)
        apart = _log(rollout.error.mean(dim=2)) - _log(actual.mean(dim=2))
        return apart.square().mean() + TOKEN_WEIGHT * (_log(rollout.error) - _log(actual)).square().mean()

    def validate() -> Scalars:
        generator = torch.Generator().manual_seed(0)
        chunks = data.validation.longest_run(world.chunk_length)
        states, actions, later = data.validation.sample_sequence(192, world.chunk_length, chunks, generator)
        rollout = open_loop(world, states, actions)
        actual = (rollout.features - later).abs().mean(dim=(2, 3))
        both = torch.stack([_log(rollout.error.mean(dim=2)).flatten(), _log(actual).flatten()])
        return {"error_correlation": float(torch.corrcoef(both)[0, 1].nan_to_num())}

    key = {**key, "world": weights_digest(world), "chunk_length": world.chunk_length}
    return optimise(name, head, draw, loss, optimisation, folder, key=key, validate=validate)


def _log(error: Tensor) -> Tensor:
    """Logarithms of errors, which are 0 where nothing moves."""
    return error.clamp_min(1e-3).log()
