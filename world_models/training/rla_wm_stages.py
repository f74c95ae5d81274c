"""The stages of RLA-WM (arXiv 2605.07079): the autoencoder on frames alone, then the flow on its latent actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world_models.files import weights_digest
from world_models.rla_wm.autoencoder import RLAutoencoder
from world_models.rla_wm.dynamics import RLAWorldModel
from world_models.training.optimisation import OptimisationConfig, Scalars, optimise
from world_models.training.stages import full_windows, relative_l1, validate_open_loop
from world_models.training.training_data import TrainingData

SHORTEST = 2
"""Least number of frames between the two states of the autoencoder's pairs."""
LATENT_PAIRS = 4096
"""Pairs of frames from which mean and spread of the latent actions are taken."""

_Pairs = tuple[Tensor, Tensor, Tensor, Tensor]
"""States, later states, actions and their valid steps, as :meth:`Windows.sample` gives them."""


def train_rla(
    rla: RLAutoencoder, data: TrainingData, optimisation: OptimisationConfig, folder: Path, key: dict[str, Any]
) -> Scalars:
    """Train encoder and decoder to rebuild later states, L1 + MSE; no actions are read.

    Pairs are 2 to ``horizon`` frames apart, drawn mostly where something moves.
    """
    horizon = rla.config.horizon

    def draw(generator: torch.Generator, samples: int) -> _Pairs:
        return data.train.sample(samples, horizon, generator, full_share=0.0, shortest=SHORTEST)

    def loss(pairs: _Pairs, generator: torch.Generator) -> Tensor:
        states, later, _, _ = pairs
        error = rla(states, later) - later
        return (error.abs() + error.square()).mean()

    def validate() -> Scalars:
        states, later, _ = full_windows(data.validation, 512, min(8, horizon))
        return {"token_l1_vs_persistence": relative_l1(rla(states, later), states, later)}

    key = {**key, "rla": vars(rla.config)}
    return optimise("rla", rla, draw, loss, optimisation, folder, key=key, validate=validate)


def train_latent_flow(
    world: RLAWorldModel, data: TrainingData, optimisation: OptimisationConfig, folder: Path, key: dict[str, Any]
) -> Scalars:
    """Train the flow to generate the latent actions that the frozen encoder gives for chunks of any length."""
    rla, flow = world.rla.requires_grad_(False), world.latent_flow
    states, later, _, _ = data.train.sample(LATENT_PAIRS, world.chunk_length, torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = zip(states.split(256), later.split(256), strict=True)
        flow.fit_latents(torch.cat([rla.encode(one, other) for one, other in parts]))
    del states, later

    def draw(generator: torch.Generator, samples: int) -> _Pairs:
        return data.train.sample(samples, world.chunk_length, generator)

    def loss(pairs: _Pairs, generator: torch.Generator) -> Tensor:
        states, later, actions, lengths = pairs
        with torch.no_grad():
            latent = rla.encode(states, later)
        return flow.loss(*flow.read(states, actions, lengths), latent, generator)

    key = {**key, "rla": weights_digest(rla), "latent_flow": vars(flow.config), "chunk_length": world.chunk_length}
    return optimise(
        "latent_flow", flow, draw, loss, optimisation, folder, key=key,
        validate=lambda: validate_open_loop(world, data.validation),
    )  # fmt: skip
