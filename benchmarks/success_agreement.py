"""Whether the detector says of an imagined last state what the episode's label says of the real one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.held_out import Recorded
from world_models.base import WorldModel
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import episode_offsets
from world_models.open_loop import open_loop


def last_states(
    model: WorldModel, dataset: EpisodeDataset, features: Tensor, recorded: Recorded, chunks: int, seed: int
) -> Tensor:
    """The last state of each episode, imagined from that of ``chunks`` chunks before: ``(E, L, C)`` float32.

    Args:
        model: of the world.
        dataset: the episodes.
        features: states ``(F, L, C)`` of all frames.
        recorded: which episodes; each is longer than these chunks.
        chunks: action chunks, 1 or more.
        seed: of the noise.
    """
    length = recorded.actions.shape[2]
    last = dataset.lengths[recorded.episodes] - 1
    pairs = zip(recorded.episodes, last, strict=True)
    # The last action has no following frame.
    actions = np.stack([dataset.episode(int(i), ()).actions[end - chunks * length : end] for i, end in pairs])
    first = episode_offsets(dataset.lengths)[recorded.episodes] + last - chunks * length
    start = features[torch.from_numpy(first)].float()
    split = torch.from_numpy(actions).view(len(actions), chunks, length, -1)
    return open_loop(model, start, split, seed=seed).features[:, -1]


def real_last_states(dataset: EpisodeDataset, features: Tensor, recorded: Recorded) -> Tensor:
    """The real last state of each episode ``(E, L, C)`` float32."""
    return features[torch.from_numpy(episode_offsets(dataset.lengths)[recorded.episodes + 1] - 1)].float()


def agreement(detected: Tensor, labels: np.ndarray) -> np.ndarray:
    """Whether what was detected ``(E,)`` bool is what the labels ``(E,)`` bool say: ``(E,)`` bool."""
    return np.asarray(detected.numpy() == labels)


def commoner_label(labels: np.ndarray) -> np.ndarray:
    """Agreement ``(E,)`` bool of always giving the commoner of the labels ``(E,)`` bool."""
    return np.asarray(labels == (labels.mean() >= 0.5))
