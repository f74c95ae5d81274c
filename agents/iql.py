"""Implicit Q-learning (arXiv 2110.06169) on a world's own data: what videos with actions give without a dream.

The baseline of dream training: the same episodes, the same features, the same success detector, no world model. A
value function is fitted to the upper expectile of the returns of the data's actions, and the policy is cloned from all
actions, each weighted by its advantage.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from agents.cloning_data import augment, check_augmentation
from agents.policies.base import facts_of_world
from agents.policies.token_policy import TokenCritic, TokenPolicy
from agents.settings import check_positive, json_settings
from rewards import SuccessDetector
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features, episode_offsets
from world_models.data_of_world import open_data
from world_models.devices import choose_device
from world_models.disk_space import check_writable
from world_models.files import weights_digest
from world_models.io import load_encoder, read_config, world_folder
from world_models.training.checks import check_fits
from world_models.training.optimisation import OptimisationConfig, optimise


@dataclass
class IQLConfig:
    """Settings of `train_iql`, in the range of the method's own, for an hour of data; not tuned."""

    data: Path
    """Folder of the LeRobotDataset v3.0 that the world was trained on; its training episodes are learned from."""
    world: str = "lift"
    """Bundled world's name or a world folder, for its encoder and its success detector."""
    out: Path = Path("runs/iql")
    """Policy folder to write, with its checkpoint and ``tensorboard/`` in ``training/``; a run resumes there."""
    cache: Path | None = None
    """Folder of the feature cache; None for ``<data>/cache``."""
    camera: str | None = None
    """Key of the video to read, where the data have several; None for that which the world was trained on."""
    seed: int = 0
    """Of the initial weights and the batches."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    expectile: float = 0.8
    """Of the outcomes that the value function is fitted to."""
    inverse_temperature: float = 10.0
    """How sharply better actions are preferred."""
    largest_weight: float = 100.0
    """Bound of an action's weight in the cloning loss."""
    gamma: float = 0.9
    """Discount per chunk, as in the dream's PPO."""
    target_update_rate: float = 0.01
    """How fast the target action values follow."""
    feature_noise: float = 0.5
    """Std of Gaussian noise on the features that the policy is cloned from, as in behaviour cloning."""
    token_dropout: float = 0.3
    """Share of the tokens zeroed there."""
    width: int = 128
    """Channels of a token inside the networks."""
    queries: int = 8
    """Learned queries of the attention pooling."""
    initial_std: float = 0.15
    """Std per action that is written into the policy."""
    optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=4000, batch_size=128, learning_rate=5e-4)
    )
    """Of all networks together."""


class ActionValue(nn.Module):
    """Two estimates of the return after a chunk in a state."""

    def __init__(self, policy: TokenPolicy) -> None:
        super().__init__()
        self.trunk = policy.new_trunk()
        hidden = self.trunk.hidden
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden + policy.action_size, hidden), nn.GELU(), nn.Linear(hidden, 1))
            for _ in range(2)
        )

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """features (B, L, C) and chunks (B, K*A) -> both heads' values (2, B)."""
        inputs = torch.cat([self.trunk(features), actions], dim=1)
        return torch.stack([head(inputs).squeeze(-1) for head in self.heads])


class _Learner(nn.Module):
    """The networks, and their loss on a batch of transitions."""

    def __init__(self, policy: TokenPolicy, config: IQLConfig) -> None:
        super().__init__()
        self.config = config
        self.policy, self.value, self.action_value = policy, TokenCritic(policy), ActionValue(policy)
        self.target = deepcopy(self.action_value).requires_grad_(False)

    def forward(self, now: Tensor, chunk: Tensor, later: Tensor, solved: Tensor, generator: torch.Generator) -> Tensor:
        """States (B, L, C), chunks (B, K*A), states after them, whether those are solved (B,) -> scalar loss."""
        config = self.config
        with torch.no_grad():
            for target, new in zip(self.target.parameters(), self.action_value.parameters(), strict=True):
                target.lerp_(new, config.target_update_rate)
            expected = self.target(now, chunk).amin(dim=0).float()
        value = self.value(now).float()
        with torch.no_grad():
            # A success has a reward of one and ends the episode.
            outcome = torch.where(solved, 1.0, config.gamma * self.value(later).float())
        advantage = expected - value
        asymmetry = torch.where(advantage > 0, config.expectile, 1 - config.expectile)
        value_loss = (asymmetry * advantage.square()).mean()
        action_value_loss = (self.action_value(now, chunk).float() - outcome).square().mean()
        weight = (config.inverse_temperature * advantage.detach()).exp().clamp(max=config.largest_weight)
        mean = self.policy(augment(now, config.feature_noise, config.token_dropout, generator)).float()
        cloning = nn.functional.huber_loss(mean, chunk, delta=0.1, reduction="none").mean(dim=1) / 0.1
        # Normalised, so that the cloning's step size does not depend on the batch's advantages.
        return value_loss + action_value_loss + (weight * cloning).sum() / weight.sum()


def train_iql(config: IQLConfig) -> Path:
    """Learn from the training episodes of ``config.data``; returns the policy folder ``config.out``.

    The episodes' actions are all used, and success is what the world's detector finds in the real frames. An
    interrupted run goes on from its checkpoint by the same call.

    Raises:
        ValueError: a setting is out of range, the data lack a success, or ``out`` holds another run.
        FileNotFoundError: no such data or world.
        OSError: a folder cannot be written, or has no room.
    """
    _check(config)
    check_writable(config.out)
    device = choose_device(config.device)
    folder = world_folder(config.world)
    world = read_config(folder)
    dataset = open_data(config.data, world, config.camera)
    check_fits(dataset, world)
    encoder = load_encoder(folder, device)
    features = cache_features(dataset, encoder, config.cache or config.data / "cache")
    detector = SuccessDetector.load(folder, device)
    first_rows, chunks, solved = transitions(dataset, features, detector, world.chunk_length)
    if not solved.any():
        raise ValueError(f"no training episode of {config.data} ever succeeds, so there is nothing to prefer")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tokens, channels = features.shape[1:]
        policy = TokenPolicy(
            tokens, channels, world.chunk_length, len(world.action_names), config.width, config.queries
        )
        policy.log_std.requires_grad_(False)
        learner = _Learner(policy, config).to(device)

    def draw(generator: torch.Generator, samples: int) -> tuple[Tensor, ...]:
        index = torch.randint(len(first_rows), (samples,), generator=generator).numpy()
        now, later = (
            torch.from_numpy(features[first_rows[index] + ahead]).to(device).float()
            for ahead in (0, world.chunk_length)
        )
        chunk, success = (torch.from_numpy(table[index]).to(device) for table in (chunks, solved))
        return now, chunk, later, success

    def loss(drawn: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        on_device = torch.Generator(device).manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
        return learner(*drawn, on_device)

    settings = json_settings(config, without=("out", "data", "cache", "camera", "world"))
    key = {name: value for name, value in settings.items() if name not in ("device", "optimisation")}
    key |= {"data": dataset.fingerprint(), "encoder": encoder.fingerprint()}
    key |= {"detector": weights_digest(detector), "threshold": detector.threshold}
    metrics = optimise("iql", learner, draw, loss, config.optimisation, config.out / "training", key=key)
    with torch.no_grad():
        policy.log_std.fill_(float(np.log(config.initial_std)))
    policy.facts = {
        "method": "iql",
        **facts_of_world(config.world, world),
        "training": {**settings, "transitions": len(first_rows), "trained_seconds": metrics["seconds"]},
    }
    return policy.eval().save(config.out)


def transitions(
    dataset: EpisodeDataset, features: np.ndarray, detector: SuccessDetector, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every chunk of the training episodes that begins in a state which is not yet a success.

    Args:
        dataset: the episodes.
        features: of all their frames, (F, L, C).
        detector: of success.
        length: control steps K of a chunk.

    Returns:
        Rows (M,) int64 of the chunks' first states in ``features``, their last ones are ``length`` rows later; the
        chunks (M, K*A) float32; whether they end in success (M,) bool.
    """
    device = next(detector.parameters()).device
    offsets = episode_offsets(dataset.lengths)
    first_rows, chunks, solved = [], [], []
    for index in dataset.split("train"):
        first, last = int(offsets[index]), int(offsets[index + 1])
        with torch.no_grad():
            success = detector.success(torch.from_numpy(features[first:last]).to(device)).cpu().numpy()
        times = np.flatnonzero(~success[: max(0, last - first - length)])
        actions = dataset.episode(int(index), ()).actions
        first_rows.append(first + times)
        chunks.append(actions[times[:, None] + np.arange(length)].reshape(len(times), length * actions.shape[1]))
        solved.append(success[times + length])
    return np.concatenate(first_rows), np.concatenate(chunks).astype(np.float32), np.concatenate(solved)


def _check(config: IQLConfig) -> None:
    check_positive(config, "inverse_temperature", "largest_weight", "width", "queries", "initial_std")
    for name in ("expectile", "gamma", "target_update_rate"):
        if not 0 < getattr(config, name) <= 1:
            raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(config, name)}")
    check_augmentation(config.feature_noise, config.token_dropout)
