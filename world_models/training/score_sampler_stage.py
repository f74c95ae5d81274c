"""The stage that trains the sampler, from a trained regression on, by the energy score of its draws; it resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from world_models.files import weights_digest
from world_models.mixer.dynamics import ScoreSamplerWorldModel
from world_models.mixer.score_sampler import energy_score
from world_models.open_loop import rollout_noise
from world_models.training.optimisation import OptimisationConfig, Scalars, optimise
from world_models.training.stages import full_windows, validate_open_loop
from world_models.training.training_data import TrainingData

DRAWS = 4
"""Draws of each sample that the loss compares."""
RUNS_SHARE = 8
"""One sample in so many is a run of several chunks; where there are runs, half of the samples are single chunks. A run
costs as much as its chunks."""


class _Batch(NamedTuple):
    """What the sampler learns from in one step.

    Attributes:
        chunk: windows of one chunk, as :meth:`Windows.sample` says.
        runs: runs of several chunks, as :meth:`Windows.sample_sequence` says.
    """

    chunk: tuple[Tensor, Tensor, Tensor, Tensor]
    runs: tuple[Tensor, Tensor, Tensor] | None


def train_score_sampler(
    world: ScoreSamplerWorldModel,
    data: TrainingData,
    optimisation: OptimisationConfig,
    folder: Path,
    key: dict[str, Any],
    pushed_chunks: int = 0,
) -> Scalars:
    """Train the sampler and the regression within it, which has been trained before and learns more slowly.

    Beside windows of one chunk it learns from runs of up to ``pushed_chunks + 1``: several draws of a whole rollout
    are scored after each chunk, with gradients of that chunk alone. A draw goes on from its own states, never from
    another's, so the states after many chunks are as far from each other as from the truth, and what has happened in
    one of them stays so.

    Returns:
        The stage's scalars: open-loop errors of one draw each, and the energy score of one chunk, ``energy_score``,
        beside that of the single answer of the regression within, ``energy_score_regression``.
    """
    sampler, horizon = world.score_sampler, world.chunk_length

    def draw(generator: torch.Generator, samples: int) -> _Batch:
        if not pushed_chunks or samples < RUNS_SHARE:
            return _Batch(data.train.sample(samples, horizon, generator), None)
        chunk = data.train.sample(samples // 2, horizon, generator)
        chunks = int(torch.randint(2, pushed_chunks + 2, (1,), generator=generator))
        return _Batch(chunk, data.train.sample_sequence(samples // RUNS_SHARE, horizon, chunks, generator))

    def loss(batch: _Batch, generator: torch.Generator) -> Tensor:
        states, later, actions, lengths = batch.chunk
        noise = torch.randn(len(states), DRAWS, sampler.config.noise, generator=generator).to(states.device)
        scores, samples = [sampler.loss(states, actions, later, noise, lengths)], [len(states)]
        if batch.runs is not None:
            first, run, targets = batch.runs
            of_run = rollout_noise(world, DRAWS * len(first), run.shape[1], generator)
            assert of_run is not None
            states, run = first.repeat_interleave(DRAWS, dim=0), run.repeat_interleave(DRAWS, dim=0)
            for actions, of_chunk, target in zip(*(part.unbind(dim=1) for part in (run, of_run, targets)), strict=True):
                reached = states + sampler(states, actions, of_chunk.to(states.device)).change[:, 0]
                scores.append(energy_score(reached.unflatten(0, (-1, DRAWS)), target))
                samples.append(len(target))
                states = reached.detach()
        weights = torch.tensor(samples, device=scores[0].device) / sum(samples)
        return (weights * torch.stack(scores)).sum()

    def validate() -> Scalars:
        generator = torch.Generator().manual_seed(0)
        states, later, actions = full_windows(data.validation, 256, horizon)
        noise = torch.randn(len(states), 8, sampler.config.noise, generator=generator).to(states.device)
        change, predicted = sampler(states, actions, noise)
        single = (states + predicted.residual.float())[:, None].expand(-1, 2, -1, -1)
        scores = {
            "energy_score": energy_score(states[:, None] + change, later),
            "energy_score_regression": energy_score(single, later),
        }
        return {name: float(score) for name, score in scores.items()} | validate_open_loop(world, data.validation)

    key = {**key, "regression": weights_digest(sampler.base), "score_sampler": vars(sampler.config)}
    key |= {"pushed_chunks": pushed_chunks, "chunk_length": world.chunk_length, "draws": DRAWS}
    return optimise(
        "score_sampler", sampler, draw, loss, optimisation, folder, key=key, validate=validate, fine_tuned=sampler.base
    )
