"""Behaviour cloning: a few demonstrations of a world, features at frame t to the actions of the chunk from t on.

Dream training starts at the clone and is anchored to it. Cloning takes about a minute on one CPU thread.

With ``videos`` it is a world action model (arXiv 2605.07079): of further demonstrations the frames alone are used, and
the trunk learns on them to predict the latent action of the coming chunk, which needs no action labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from agents.cloning_data import (
    augment,
    check_augmentation,
    choose_chunk_length,
    choose_demonstrations,
    chunk_samples,
    latent_samples,
)
from agents.policies.base import facts_of_world
from agents.policies.token_policy import TokenPolicy
from agents.settings import check_positive, json_settings
from world_models.data.demonstrations import Demonstrations
from world_models.devices import choose_device
from world_models.disk_space import check_writable
from world_models.io import read_config, world_folder
from world_models.training.fit import fit


@dataclass(kw_only=True)
class BCConfig:
    """Settings of `train_bc`."""

    world: str = "lift"
    """Bundled world's name or a world folder; its demonstrations are cloned."""
    out: Path = Path("runs/bc")
    """Policy folder to write."""
    demonstrations: int = 10
    """How many of the world's demonstrations, taken in an order shuffled by the seed."""
    videos: int = 0
    """Further demonstrations, next in that order, whose frames alone are used."""
    latent_weight: float = 1.0
    """Weight of the loss on predicted latent actions, where there are videos."""
    seed: int = 0
    """Of the choice of demonstrations, the initial weights and the batches."""
    chunk_length: int | None = None
    """Control steps per action chunk; None takes the world's."""
    gradient_steps: int = 2000
    """Batches that the policy is trained on."""
    batch_size: int = 64
    """Frames per gradient step."""
    learning_rate: float = 1e-3
    """Peak of a warm-up and cosine schedule (AdamW)."""
    weight_decay: float = 1e-2
    """AdamW's decay of the weights."""
    feature_noise: float = 0.5
    """Std of Gaussian noise on the (standardised) features in training."""
    token_dropout: float = 0.3
    """Share of tokens zeroed in training. Without noise and dropout, unseen demonstrations had a third more error."""
    width: int = 128
    """Channels of a token inside the policy."""
    queries: int = 8
    """Learned queries of the attention pooling."""
    initial_std: float = 0.15
    """Std per action that is written into the policy: the exploration that PPO starts with."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    progress: bool = True
    """Show a progress bar."""


def train_bc(config: BCConfig) -> Path:
    """Clone ``config.demonstrations`` demonstrations of ``config.world`` into a policy folder; returns the folder.

    The same config gives the same policy on the same hardware. ``config.json`` records the training loss of the first
    and last gradient steps and, where the world has demonstrations that were not cloned, the mean absolute action error
    on them (for information; nothing is selected by it).

    Raises:
        ValueError: a setting is out of range, or the world has too few demonstrations.
        FileNotFoundError: no such world.
        OSError: ``config.out`` cannot be written.
    """
    _check(config)
    check_writable(config.out)
    device = choose_device(config.device)
    folder = world_folder(config.world)
    world, demonstrations = read_config(folder), Demonstrations.load(folder)
    chunk_length = choose_chunk_length(config.chunk_length, world.chunk_length)
    watched = choose_demonstrations(demonstrations, config.demonstrations + config.videos, config.seed)
    cloned = watched[: config.demonstrations]
    features, targets = (part.to(device) for part in chunk_samples(demonstrations, cloned, chunk_length))

    with torch.random.fork_rng(devices=[]):
        videos = latent_samples(demonstrations, watched, folder, chunk_length, device) if config.videos else None
        torch.manual_seed(config.seed)
        tokens, channels = features.shape[1:]
        policy = TokenPolicy(
            tokens, channels, chunk_length, demonstrations.actions.shape[2], config.width, config.queries
        ).to(device)
        latent_head = nn.Linear(policy.head.in_features, videos[1].shape[1], device=device) if videos else None
    losses = _fit(policy, (features, targets), latent_head, videos, config)
    with torch.no_grad():
        policy.log_std.fill_(math.log(config.initial_std))
    policy.eval()

    ends = max(1, config.gradient_steps // 20)
    policy.facts = {
        "method": "bc_videos" if config.videos else "bc",
        **facts_of_world(config.world, world),
        "training": {
            **json_settings(config, without=("out", "progress", "world")),
            "demonstration_indices": cloned.tolist(),
            "frames": len(features),
            "first_loss": losses[:ends].mean().item(),
            "last_loss": losses[-ends:].mean().item(),
            "training_error": action_error(policy, features, targets),
            "held_out_error": _held_out_error(policy, demonstrations, watched),
        },
    }
    return policy.save(config.out)


def _fit(
    policy: TokenPolicy,
    cloned: tuple[Tensor, Tensor],
    latent_head: nn.Linear | None,
    videos: tuple[Tensor, Tensor] | None,
    config: BCConfig,
) -> Tensor:
    """Train policy and latent head in place; returns the losses (gradient_steps,).

    Args:
        policy: predicts chunks of actions.
        cloned: features (F, L, C) and chunks of actions (F, K*A).
        latent_head: predicts latent actions from the policy's trunk, where there are videos.
        videos: features (V, L, C) and latent actions (V, n*d).
        config: how.
    """
    device, steps = policy.log_std.device, config.gradient_steps
    generator = torch.Generator(device).manual_seed(config.seed)

    def draw(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(features), (config.batch_size,), device=device, generator=generator)
        batch = augment(features[index].float(), config.feature_noise, config.token_dropout, generator)
        return batch, targets[index]

    def loss() -> Tensor:
        features, actions = draw(*cloned)
        # Linear from an error of 0.1 on, so that gripper switches do not dominate; divided by it, the slope is one.
        value = nn.functional.huber_loss(policy(features), actions, delta=0.1) / 0.1
        if latent_head is not None and videos is not None:
            features, latents = draw(*videos)
            error = nn.functional.mse_loss(latent_head(policy.trunk(features)), latents)
            value = value + config.latent_weight * error
        return value

    parameters = [*policy.parameters(), *(latent_head.parameters() if latent_head is not None else ())]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    return fit(optimizer, schedule, loss, steps, title="bc", clipped=policy.parameters(), progress=config.progress)


def action_error(policy: TokenPolicy, features: Tensor, targets: Tensor) -> float:
    """Mean absolute error of the clipped mean action over (F, L, C) features and (F, K*A) targets."""
    errors = [
        (policy.act(part.float()) - target).abs().sum().item()
        for part, target in zip(features.split(256), targets.split(256), strict=True)
    ]
    return sum(errors) / targets.numel()


def _held_out_error(policy: TokenPolicy, demonstrations: Demonstrations, watched: Tensor) -> float | None:
    others = [index for index in range(len(demonstrations.lengths)) if index not in set(watched.tolist())][:20]
    if not others:
        return None
    device = policy.log_std.device
    features, targets = chunk_samples(demonstrations, torch.tensor(others), policy.chunk_length)
    return action_error(policy, features.to(device), targets.to(device))


def _check(config: BCConfig) -> None:
    check_positive(config, "gradient_steps", "batch_size", "learning_rate", "initial_std", "width", "queries")
    if config.videos < 0 or not config.latent_weight > 0:
        raise ValueError(
            f"videos must be >= 0 and latent_weight positive, got {config.videos} and {config.latent_weight}"
        )
    check_augmentation(config.feature_noise, config.token_dropout)
