"""What policies are cloned from: frames of demonstrations, and the chunk of actions or latent action that follows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from world_models.data.demonstrations import Demonstrations
from world_models.io import load_model
from world_models.mixer.dynamics import ResidualFlowWorldModel


def choose_demonstrations(demonstrations: Demonstrations, count: int, seed: int) -> Tensor:
    """Indices (count,) int64 of the first ``count`` demonstrations in an order shuffled by ``seed``.

    A larger count with the same seed adds demonstrations to a smaller one and drops none.

    Raises:
        ValueError: ``count`` is not between 1 and the number of demonstrations.
    """
    available = len(demonstrations.lengths)
    if not 1 <= count <= available:
        raise ValueError(f"demonstrations={count}, but the world has {available}; choose between 1 and {available}")
    return torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]


def chunk_samples(demonstrations: Demonstrations, indices: Tensor, chunk_length: int) -> tuple[Tensor, Tensor]:
    """Every frame of the chosen demonstrations with the chunk of actions that follows it.

    Returns:
        features (F, L, C) in the demonstrations' own dtype and actions (F, K*A) float32; past the end of a
        demonstration its last action is repeated.
    """
    features, actions = [], []
    for index in indices.tolist():
        length = int(demonstrations.lengths[index])
        times = torch.arange(length)[:, None] + torch.arange(chunk_length)
        features.append(demonstrations.features[index, :length])
        actions.append(demonstrations.actions[index, times.clamp(max=length - 1)].flatten(1))
    return torch.cat(features), torch.cat(actions).float()


def latent_samples(
    demonstrations: Demonstrations, indices: Tensor, world: Path, chunk_length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Every frame of the chosen demonstrations with the latent action to the frame a chunk later; actions are not read.

    Returns:
        features (F, L, C) and latent actions (F, n*d) float32 of unit variance over all their numbers, on ``device``;
        past the end of a demonstration its last frame is repeated.

    Raises:
        ValueError: the world has no residual flow, whose latent projection gives the latent actions.
    """
    model = load_model(world, "residual_flow", device)
    assert isinstance(model, ResidualFlowWorldModel)
    features, latents = [], []
    for index in indices.tolist():
        length = int(demonstrations.lengths[index])
        states = demonstrations.features[index, :length].to(device).float()
        later = states[(torch.arange(length) + chunk_length).clamp(max=length - 1)]
        features.append(states)
        latents.append(model.latent_projection.encode(states, later).flatten(1))
    latent = torch.cat(latents)
    return torch.cat(features), latent / latent.std()


def augment(features: Tensor, noise: float, dropout: float, generator: torch.Generator) -> Tensor:
    """Features (B, L, C) with Gaussian noise and zeroed tokens: without both, few demonstrations are memorised.

    Args:
        features: float.
        noise: std of the noise.
        dropout: share of the tokens that are zeroed.
        generator: on the device of the features.
    """
    if noise:
        features = features + noise * torch.randn(features.shape, device=features.device, generator=generator)
    if dropout:
        kept = torch.rand(features.shape[:2], device=features.device, generator=generator) >= dropout
        features = features * kept.unsqueeze(-1)
    return features


def check_augmentation(feature_noise: float, token_dropout: float) -> None:
    """ValueError unless :func:`augment` can take these."""
    if feature_noise < 0 or not 0 <= token_dropout < 1:
        raise ValueError(
            f"feature_noise must be >= 0 and token_dropout in [0, 1), got {feature_noise} and {token_dropout}"
        )


def choose_chunk_length(asked: int | None, longest: int) -> int:
    """The chunk length asked for, or the world's longest for None.

    Raises:
        ValueError: it is not between 1 and the longest chunk that the world was trained on.
    """
    if asked is not None and not 1 <= asked <= longest:
        raise ValueError(f"chunk_length={asked}, but the world predicts chunks of 1 to {longest} control steps")
    return asked or longest
