"""The stages that learn from encoded frames: latent projection, residual flow, regression, RGB decoder; all resume."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from world_models.base import WorldModel
from world_models.data.windows import Windows
from world_models.distributed.processes import launched
from world_models.file_lock import only_maker
from world_models.files import check_tensors, read_metadata, read_tensors, save_tensors, weights_digest
from world_models.heads.rgb_decoder import RGBDecoder
from world_models.mixer.dynamics import MixerWorldModel, RegressionWorldModel, ResidualFlowWorldModel
from world_models.mixer.latent_projection import LatentProjection
from world_models.open_loop import open_loop, roll_out, rollout_noise
from world_models.training.checkpoint import FIX
from world_models.training.optimisation import OptimisationConfig, Scalars, optimise
from world_models.training.training_data import TrainingData

COMPONENT_PAIRS = 20_000
"""Pairs of frames that the latent projection's components are computed from."""
FLOW_WEIGHT = 0.2
"""Weight of the flow-matching loss beside that of the base predictor."""
PROPRIOCEPTION_WINDOWS = 3
"""Further windows for each sample on which only proprioception is predicted: that is cheap, and contacts are rare."""


def fit_projection(
    projection: LatentProjection, data: TrainingData, horizon: int, folder: Path, key: dict[str, Any]
) -> Scalars:
    """Solve the latent projection on pairs of frames; no actions are needed.

    The components are computed once in a folder: another machine's rounding would turn some of them round.

    Args:
        projection: what is solved, in place.
        data: episodes; pairs are drawn from those of the training split.
        horizon: most frames between the two of a pair.
        folder: of the stage's file.
        key: everything the result depends on besides.

    Returns:
        ``token_l1_vs_persistence``: what is lost of changes over a chunk of validation episodes.

    Raises:
        ValueError: the folder holds components of another key, or a damaged file of them.
    """
    path = Path(folder) / "latent_projection.safetensors"
    identity = json.dumps({**key, "horizon": horizon, "shape": projection.latent_shape}, sort_keys=True, default=str)
    with launched(data.actions.device.type).main_first(), only_maker(path):
        if not os.path.lexists(path):
            generator = torch.Generator().manual_seed(0)
            states, later, _, _ = data.train.sample(COMPONENT_PAIRS, horizon, generator)
            projection.fit(later - states)
            save_tensors(path, {"components": projection.components}, {"identity": identity})
            del states, later
        if read_metadata(path, fix=FIX).get("identity") != identity:
            raise ValueError(
                f"{path} was computed with other settings or on other data than this run asks for; choose another "
                "--out, or delete that file to compute it anew"
            )
        tensors = read_tensors(path, fix=FIX)
        check_tensors(tensors, {"components": projection.components}, source=str(path), fix=FIX, exact=True)
        projection.components.copy_(tensors["components"])
    states, later, _ = full_windows(data.validation, 512, min(8, horizon))
    reached = states + projection.decode(projection.encode(states, later))
    return {"token_l1_vs_persistence": relative_l1(reached, states, later)}


def train_residual_flow(
    world: ResidualFlowWorldModel,
    data: TrainingData,
    optimisation: OptimisationConfig,
    folder: Path,
    key: dict[str, Any],
    pushed_chunks: int = 0,
) -> Scalars:
    """Train base predictor and flow on the latent actions that the frozen projection gives."""
    flow, projection = world.residual_flow, world.latent_projection

    def loss(batch: Batch, generator: torch.Generator) -> Tensor:
        states, later, actions, lengths, error = with_rollouts(world, batch, generator)
        predicted = flow.base(states, actions, lengths, error)
        # What the base predictor leaves leads from the predicted state to the one that came.
        latent = projection.encode(states + predicted.residual.detach().float(), later)
        matching = flow.loss(flow.context(predicted), latent, generator)
        loss = flow.base.loss(predicted, states, later) + FLOW_WEIGHT * matching
        return loss + _proprioception_loss(world, batch)

    key = {**key, "projection": weights_digest(projection), "residual_flow": vars(flow.config)}
    key |= {"pushed_chunks": pushed_chunks, "chunk_length": world.chunk_length}
    average = launched(data.actions.device.type).average
    return optimise(
        "residual_flow", flow, partial(draw_batch, world, data.train, pushed_chunks), loss, optimisation, folder,
        key=key, validate=partial(validate_open_loop, world, data.validation),
        after_step=lambda: flow.update_latent_scale(average),
    )  # fmt: skip


def train_regression(
    world: RegressionWorldModel,
    data: TrainingData,
    optimisation: OptimisationConfig,
    folder: Path,
    key: dict[str, Any],
    pushed_chunks: int = 0,
) -> Scalars:
    """Train the deterministic regression on the same windows."""
    regression = world.regression

    def loss(batch: Batch, generator: torch.Generator) -> Tensor:
        states, later, actions, lengths, error = with_rollouts(world, batch, generator)
        loss = regression.loss(regression(states, actions, lengths, error), states, later)
        return loss + _proprioception_loss(world, batch)

    key = {**key, "regression": vars(regression.config), "pushed_chunks": pushed_chunks}
    key |= {"chunk_length": world.chunk_length}
    return optimise(
        "regression", regression, partial(draw_batch, world, data.train, pushed_chunks), loss, optimisation, folder,
        key=key, validate=partial(validate_open_loop, world, data.validation),
    )  # fmt: skip


def train_rgb_decoder(
    decoder: RGBDecoder, data: TrainingData, optimisation: OptimisationConfig, folder: Path, key: dict[str, Any]
) -> Scalars:
    """Train tokens -> pixels on real frames.

    Returns:
        ``pixel_l1`` on held-out frames, and ``pixel_l1_vs_background``, over the error of the median picture: from 1 on
        the decoder shows nothing but the background.
    """
    device = data.actions.device
    windows, held_out = data.train, data.validation

    def read(rows: Tensor) -> tuple[Tensor, Tensor]:
        """States ``(B, L, C)`` and pictures ``(B, 3, H, W)`` in [0, 1] of rows ``(B,)``, from memory-mapped files."""
        states = data.features[rows.to(data.features.device)][:, : decoder.num_tokens].to(device)
        pictures = torch.from_numpy(data.frames[rows.numpy()]).to(device)
        return states.float(), pictures.permute(0, 3, 1, 2).float() / 255

    def draw(generator: torch.Generator, samples: int) -> tuple[Tensor, Tensor]:
        return read(windows.first_frames[windows.draw(samples, generator)])

    def error(states: Tensor, pictures: Tensor) -> Tensor:
        return F.l1_loss(decoder(states).float(), pictures)

    def loss(batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        return error(*batch)

    def spread(frames: Tensor) -> Tensor:
        return frames[:: max(1, len(frames) // 256)]

    pictures = read(spread(windows.first_frames))[1]
    decoder.fit_background(pictures)
    background = pictures.median(dim=0).values

    def validate() -> Scalars:
        states, pictures = read(spread(held_out.first_frames))
        decoded, still = float(error(states, pictures)), float(F.l1_loss(background.expand_as(pictures), pictures))
        return {"pixel_l1": decoded, "pixel_l1_vs_background": decoded / max(still, 1e-6)}

    key = {**key, "rgb_decoder": vars(decoder.config)}
    return optimise("rgb_decoder", decoder, draw, loss, optimisation, folder, key=key, validate=validate)


class Batch(NamedTuple):
    """What dynamics learn from in one step: windows as :meth:`Windows.sample` and :meth:`Windows.sample_sequence` say.

    Attributes:
        chunk: windows of one chunk.
        runs: windows of several chunks and the states after them; the last chunk is learned from the state that is
            predicted before it.
        proprioception: windows of one chunk on which proprioception alone is predicted.
    """

    chunk: tuple[Tensor, Tensor, Tensor, Tensor]
    runs: tuple[Tensor, Tensor, Tensor] | None
    proprioception: tuple[Tensor, Tensor, Tensor, Tensor] | None


def draw_batch(
    world: MixerWorldModel,
    windows: Windows,
    pushed_chunks: int,
    generator: torch.Generator,
    samples: int,
) -> Batch:
    """Windows for dynamics; a quarter of them are runs, where states may be pushed on by as many chunks.

    There are further windows on which only proprioception is predicted, where the world has it.
    """
    horizon = world.chunk_length
    pushed = samples // 4 if pushed_chunks else 0
    chunk = windows.sample(samples - pushed, horizon, generator)
    runs = further = None
    if pushed:
        chunks = int(torch.randint(1, pushed_chunks + 1, (1,), generator=generator))
        states, actions, later = windows.sample_sequence(pushed, horizon, chunks + 1, generator)
        runs = states, actions, later[:, -1]
    if world.proprioception_dim:
        further = windows.sample(PROPRIOCEPTION_WINDOWS * samples, horizon, generator)
    return Batch(chunk, runs, further)


def with_rollouts(
    world: MixerWorldModel, batch: Batch, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The windows of one chunk, those of runs from the state that the model predicts over the chunks before.

    Returns:
        States ``(B, L, C)``, later states, actions, their valid steps, and the error ``(B, L)`` expected of the states.
    """
    states, later, actions, lengths = batch.chunk
    no_error = states.new_zeros(states.shape[:2])
    if batch.runs is None:
        return states, later, actions, lengths, no_error
    first, run, target = batch.runs
    with torch.no_grad():
        noise = rollout_noise(world, len(first), run.shape[1] - 1, generator)
        pushed = roll_out(world, first, run[:, :-1], noise, solver_steps=1)
    full = torch.full((len(run),), world.chunk_length, dtype=lengths.dtype, device=lengths.device)
    return (
        torch.cat([states, pushed.features[:, -1]]),
        torch.cat([later, target]),
        torch.cat([actions, run[:, -1]]),
        torch.cat([lengths, full]),
        torch.cat([no_error, pushed.error[:, -1]]),
    )


def _proprioception_loss(world: MixerWorldModel, batch: Batch) -> Tensor | float:
    """Loss of the predicted proprioception; 0 for a world from video alone."""
    if batch.proprioception is None:
        return 0.0
    states, later, actions, lengths = batch.proprioception
    return world.base_predictor.proprioception_loss(states, actions, lengths, later)


def validate_open_loop(world: WorldModel, held_out: Windows, runs: int = 192) -> Scalars:
    """Open-loop error over one chunk and over as many as the episodes hold, at most six."""
    scalars = {}
    for chunks in sorted({1, min(6, held_out.longest_run(world.chunk_length))}):
        generator = torch.Generator().manual_seed(0)
        states, actions, later = held_out.sample_sequence(runs, world.chunk_length, chunks, generator)
        name = "token_l1_vs_persistence" if chunks == 1 else f"token_l1_vs_persistence_{chunks}_chunks"
        scalars[name] = relative_l1(open_loop(world, states, actions).features[:, -1], states, later[:, -1])
    return scalars


def full_windows(windows: Windows, count: int, horizon: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same windows of exactly ``horizon`` frames at every call: states, later states, actions."""
    states, later, actions, lengths = windows.sample(count, horizon, torch.Generator().manual_seed(0), full_share=1.0)
    full = lengths == horizon
    return states[full], later[full], actions[full]


def relative_l1(predicted: Tensor, states: Tensor, later: Tensor) -> float:
    """Mean absolute error of predicted states ``(B, L, C)`` over that of predicting no change."""
    return float((predicted.float() - later).abs().mean() / (states - later).abs().mean().clamp_min(1e-6))
