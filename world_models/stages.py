"""The stages that learn from encoded frames: autoencoder, flow, regression baseline, RGB decoder; each resumes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from world_models.checkpoint import tensor_bytes
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import Windows, all_actions, episode_offsets
from world_models.open_loop import open_loop, roll_out
from world_models.optimisation import OptimisationConfig, Scalars, optimise
from world_models.processes import launched
from world_models.rgb_decoder import RGBDecoder
from world_models.rla import RLA, token_loss
from world_models.world_model import RegressionWorldModel, RLAWorldModel, WorldModel

COMPONENT_PAIRS = 20_000
"""Pairs of frames that the autoencoder's components are computed from."""
LATENT_NOISE = 0.5
"""Largest noise on the latent actions that train the decoder, over their spread."""
FLOW_WEIGHT = 0.2
"""Weight of the flow-matching loss beside that of stage 1."""
READINGS_WINDOWS = 3
"""Further windows for each sample, on which only the readings are foretold: that is cheap, and contacts are rare."""


@dataclass(frozen=True)
class TrainingData:
    """What the stages share: the dataset and, for each frame of it, pixels, features and actions."""

    dataset: EpisodeDataset
    frames: np.ndarray
    features: Tensor
    actions: Tensor
    offsets: np.ndarray
    first_frame_share: float

    @classmethod
    def of(
        cls,
        dataset: EpisodeDataset,
        frames: np.ndarray,
        features: np.ndarray,
        device: torch.device,
        first_frame_share: float,
    ) -> TrainingData:
        """Cached frames ``(F, H, W, 3)`` and features ``(F, L, C)`` with the actions, ready for a device.

        Features lie on a GPU where they take less than half of its free memory; else batches are read from the file.
        """
        states = torch.from_numpy(features)
        if device.type != "cuda" or states.nbytes < 0.5 * torch.cuda.mem_get_info(device)[0]:
            states = states.to(device)
        actions = torch.from_numpy(all_actions(dataset)).to(device)
        return cls(dataset, frames, states, actions, episode_offsets(dataset.lengths), first_frame_share)

    @cached_property
    def train(self) -> Windows:
        """Windows of the training episodes, drawn mostly where something moves, and often where dreams begin."""
        episodes = self.dataset.split("train")
        return Windows.over(self.features, self.actions, self.offsets, episodes, first_share=self.first_frame_share)

    @cached_property
    def validation(self) -> Windows:
        """Windows of the validation episodes, all as likely."""
        episodes = self.dataset.split("validation")
        return Windows.over(self.features, self.actions, self.offsets, episodes, motion_share=0.0, first_share=0.0)


def train_rla(
    rla: RLA, data: TrainingData, optimisation: OptimisationConfig, folder: Path, key: dict[str, Any]
) -> Scalars:
    """Solve the autoencoder's encoder and train its decoder on pairs of frames; no actions are needed."""
    windows, held_out = data.train, data.validation
    states, later, _, _ = windows.sample(COMPONENT_PAIRS, rla.config.horizon, torch.Generator().manual_seed(0))
    rla.fit_components(later - states)
    # The decoder will be given predicted latent actions, which are a little wrong.
    spread = rla.encode(states[:1024], later[:1024]).std(dim=0)
    del states, later

    def draw(generator: torch.Generator, samples: int) -> tuple[Tensor, Tensor]:
        states, later, _, _ = windows.sample(samples, rla.config.horizon, generator, full_share=0.0)
        return states, later

    def loss(drawn: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        states, later = drawn
        latent = rla.encode(states, later)
        noise = torch.randn(latent.shape, generator=generator) * torch.rand(len(latent), 1, 1, generator=generator)
        return token_loss(rla.decode(states, latent + LATENT_NOISE * spread * noise.to(latent)), later)

    def validate() -> Scalars:
        states, later, _ = _full_windows(held_out, 512, min(8, rla.config.horizon))
        return {"token_l1_vs_persistence": _relative_l1(rla(states, later), states, later)}

    key = {**key, "rla": vars(rla.config)}
    return optimise("rla", rla, draw, loss, optimisation, folder, key=key, validate=validate)


def train_flow(
    world: RLAWorldModel,
    data: TrainingData,
    optimisation: OptimisationConfig,
    folder: Path,
    key: dict[str, Any],
    pushed_chunks: int = 0,
) -> Scalars:
    """Train both stages of the flow on latent actions that the frozen autoencoder gives."""
    rla, flow = world.rla, world.flow
    rla.requires_grad_(False)

    def loss(drawn: _Drawn, generator: torch.Generator) -> Tensor:
        states, later, actions, lengths, error = _batch(world, drawn, generator)
        foretold = flow.stage1(states, actions, lengths, error)
        # What cannot be foretold leads from the foretold state to the one that came.
        latent = rla.encode(states + foretold.residual.detach().float(), later)
        matching = flow.loss(flow.context(foretold), latent, generator)
        loss = flow.stage1.loss(foretold, states, later) + FLOW_WEIGHT * matching
        return loss + _readings_loss(world, drawn)

    key = {**key, "rla": weights_digest(rla), "flow": vars(flow.config), "pushed_chunks": pushed_chunks}
    key |= {"chunk_length": world.chunk_length}
    average = launched(data.actions.device.type).average
    return optimise(
        "flow", flow, partial(_draw, world, data.train, pushed_chunks), loss, optimisation, folder, key=key,
        validate=partial(_validate, world, data.validation), after_step=lambda: flow.update_latent_scale(average),
    )  # fmt: skip


def train_regression(
    world: RegressionWorldModel,
    data: TrainingData,
    optimisation: OptimisationConfig,
    folder: Path,
    key: dict[str, Any],
    pushed_chunks: int = 0,
) -> Scalars:
    """Train the deterministic baseline on the same windows."""
    regression = world.regression

    def loss(drawn: _Drawn, generator: torch.Generator) -> Tensor:
        states, later, actions, lengths, error = _batch(world, drawn, generator)
        loss = regression.loss(regression(states, actions, lengths, error), states, later)
        return loss + _readings_loss(world, drawn)

    key = {**key, "regression": vars(regression.config), "pushed_chunks": pushed_chunks}
    key |= {"chunk_length": world.chunk_length}
    return optimise(
        "regression", regression, partial(_draw, world, data.train, pushed_chunks), loss, optimisation, folder,
        key=key, validate=partial(_validate, world, data.validation),
    )  # fmt: skip


class _Drawn(NamedTuple):
    """What dynamics learn from in one step: windows as :meth:`Windows.sample` and :meth:`Windows.sample_sequence` say.

    Attributes:
        chunk: windows of one chunk.
        runs: windows of several chunks and the states after them; the last chunk is learned from the state that is
            predicted before it.
        readings: windows of one chunk of which the readings alone are foretold.
    """

    chunk: tuple[Tensor, Tensor, Tensor, Tensor]
    runs: tuple[Tensor, Tensor, Tensor] | None
    readings: tuple[Tensor, Tensor, Tensor, Tensor] | None


def _draw(world: WorldModel, windows: Windows, pushed_chunks: int, generator: torch.Generator, samples: int) -> _Drawn:
    """Windows for dynamics; a quarter of them are runs, where states may be pushed on by as many chunks."""
    horizon = world.chunk_length
    pushed = samples // 4 if pushed_chunks else 0
    chunk = windows.sample(samples - pushed, horizon, generator)
    runs = readings = None
    if pushed:
        chunks = int(torch.randint(1, pushed_chunks + 1, (1,), generator=generator))
        states, actions, later = windows.sample_sequence(pushed, horizon, chunks + 1, generator)
        runs = states, actions, later[:, -1]
    if world.readings:
        readings = windows.sample(READINGS_WINDOWS * samples, horizon, generator)
    return _Drawn(chunk, runs, readings)


def _batch(
    world: WorldModel, drawn: _Drawn, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The windows of one chunk, those of runs from the state that the model predicts over the chunks before.

    Returns:
        States ``(B, L, C)``, later states, actions, their valid steps, and the error ``(B, L)`` expected of the states.
    """
    states, later, actions, lengths = drawn.chunk
    no_error = states.new_zeros(states.shape[:2])
    if drawn.runs is None:
        return states, later, actions, lengths, no_error
    imagined, run, target = drawn.runs
    with torch.no_grad():
        pushed = roll_out(world, imagined, run[:, :-1], generator, solver_steps=1)
    full = torch.full((len(run),), world.chunk_length, dtype=lengths.dtype, device=lengths.device)
    return (
        torch.cat([states, pushed.features[:, -1]]),
        torch.cat([later, target]),
        torch.cat([actions, run[:, -1]]),
        torch.cat([lengths, full]),
        torch.cat([no_error, pushed.error[:, -1]]),
    )


def _readings_loss(world: WorldModel, drawn: _Drawn) -> Tensor | float:
    """Loss of the foretold readings; 0 for a world from video alone."""
    if drawn.readings is None:
        return 0.0
    states, later, actions, lengths = drawn.readings
    return world.foreteller.foretold_readings_loss(states, actions, lengths, later)


def _validate(world: WorldModel, held_out: Windows, runs: int = 192) -> Scalars:
    """Open-loop error over one chunk and over as many as the episodes hold, at most six."""
    scalars = {}
    for chunks in sorted({1, min(6, held_out.longest_run(world.chunk_length))}):
        generator = torch.Generator().manual_seed(0)
        states, actions, later = held_out.sample_sequence(runs, world.chunk_length, chunks, generator)
        name = "token_l1_vs_persistence" if chunks == 1 else f"token_l1_vs_persistence_{chunks}_chunks"
        scalars[name] = _relative_l1(open_loop(world, states, actions).features[:, -1], states, later[:, -1])
    return scalars


def train_rgb_decoder(
    decoder: RGBDecoder, data: TrainingData, optimisation: OptimisationConfig, folder: Path, key: dict[str, Any]
) -> Scalars:
    """Train tokens -> pixels on real frames."""
    device = data.actions.device
    windows, held_out = data.train, data.validation

    def read(rows: Tensor) -> tuple[Tensor, Tensor]:
        """States ``(B, L, C)`` and pictures ``(B, 3, H, W)`` in [0, 1] of rows ``(B,)``, from memory-mapped files."""
        states = data.features[rows.to(data.features.device)][:, : decoder.grid**2].to(device)
        pictures = torch.from_numpy(data.frames[rows.numpy()]).to(device)
        return states.float(), pictures.permute(0, 3, 1, 2).float() / 255

    def draw(generator: torch.Generator, samples: int) -> tuple[Tensor, Tensor]:
        return read(windows.starts[windows.draw(samples, generator)])

    def error(states: Tensor, pictures: Tensor) -> Tensor:
        return F.l1_loss(decoder(states).float(), pictures)

    def loss(drawn: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        return error(*drawn)

    def validate() -> Scalars:
        return {"pixel_l1": float(error(*read(held_out.starts[:: max(1, len(held_out.starts) // 256)])))}

    decoder.fit_background(read(windows.starts[:: max(1, len(windows.starts) // 256)])[1])

    key = {**key, "rgb_decoder": vars(decoder.config)}
    return optimise("rgb_decoder", decoder, draw, loss, optimisation, folder, key=key, validate=validate)


def weights_digest(module: torch.nn.Module) -> str:
    """Short digest of a module's weights, for the keys of later stages."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:16]


def _full_windows(windows: Windows, count: int, horizon: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same windows of exactly ``horizon`` frames at every call: states, later states, actions."""
    states, later, actions, lengths = windows.sample(count, horizon, torch.Generator().manual_seed(0), full_share=1.0)
    full = lengths == horizon
    return states[full], later[full], actions[full]


def _relative_l1(predicted: Tensor, states: Tensor, later: Tensor) -> float:
    return float((predicted.float() - later).abs().mean() / (states - later).abs().mean().clamp_min(1e-6))
