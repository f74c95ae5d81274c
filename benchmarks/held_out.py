"""Held-out episodes: what roll-outs start from and are compared with, and what probes read off their real frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.probes import AttentiveProbe
from benchmarks.rollout_errors import LIFTED_METRES, QUANTITIES
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import episode_offsets


@dataclass(frozen=True)
class HeldOut:
    """The E episodes that are rolled out, as one world's encoder sees them.

    Attributes:
        start: first states ``(E, L, C)``.
        real: states after each chunk ``(E, M, L, C)``.
        actions: ``(E, M, K, A)``.
        truth: simulator states ``(E, M, 7)`` after each chunk.
        lifted: whether the cube was lifted after each chunk ``(E, M)`` bool.
        succeeded: whether the task was achieved then ``(E, M)`` bool.
        kinds: kind of each episode ``(E,)``.
        frames: rows of the dataset, first and after each chunk ``(E, M + 1)``.
    """

    start: Tensor
    real: Tensor
    actions: Tensor
    truth: Tensor
    lifted: np.ndarray
    succeeded: np.ndarray
    kinds: np.ndarray
    frames: Tensor


def training_rows(dataset: EpisodeDataset, features: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Features and simulator states of all training frames: what probes are fitted on."""
    offsets = episode_offsets(dataset.lengths)
    rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in dataset.split("train")])
    return features[rows], states[rows]


def held_out_episodes(
    dataset: EpisodeDataset, split: str, features: Tensor, states: Tensor, *, chunks: int, length: int
) -> HeldOut:
    """The episodes of a split that are long enough for ``chunks`` action chunks of ``length`` steps.

    Args:
        dataset: the episodes.
        split: which of them.
        features: states ``(F, L, C)`` of all frames.
        states: simulator states ``(F, 7)`` of all frames.
        chunks: action chunks M.
        length: control steps K of a chunk.

    Raises:
        ValueError: none is long enough, or they do not say when they succeeded.
    """
    if "next.success" not in dataset.columns:
        raise ValueError(f"{dataset.root} has no column next.success; collect data by `rla-gym collect`")
    offsets, span = episode_offsets(dataset.lengths), chunks * length
    episodes = [int(i) for i in dataset.split(split) if dataset.lengths[i] > span]
    if not episodes:
        raise ValueError(
            f"no {split} episode of {dataset.root} is longer than {span} frames; lower --chunks or collect longer "
            "episodes"
        )
    first = torch.tensor([int(offsets[i]) for i in episodes])
    frames = first[:, None] + torch.arange(0, span + 1, length)
    recorded = [dataset.episode(i) for i in episodes]
    actions = torch.stack([torch.from_numpy(episode.actions[:span]) for episode in recorded])
    # said of the state after an action, which is the next frame
    succeeded = [episode.columns["next.success"][length - 1 : span : length] for episode in recorded]
    return HeldOut(
        features[first].float(),
        features[frames[:, 1:]].float(),
        actions.view(len(episodes), chunks, length, -1),
        states[frames[:, 1:]],
        (states[frames[:, 1:], 2] - states[first, None, 2] > LIFTED_METRES).numpy(),
        np.array(succeeded, bool).reshape(len(episodes), chunks),
        np.array([dataset.kinds[i] for i in episodes]),
        frames,
    )


def probe_floor(
    dataset: EpisodeDataset, split: str, probe: AttentiveProbe, features: Tensor, states: Tensor
) -> dict[str, tuple[float, float]]:
    """Error in cm and R2 of what the probe reads off real frames: the floor under every error of a roll-out."""
    offsets = episode_offsets(dataset.lengths)
    rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in dataset.split(split)])
    read, truth = torch.cat([probe(batch.float()) for batch in features[rows].split(512)]), states[rows]
    floor = {}
    for name, part in QUANTITIES.items():
        squares = (read[:, part] - truth[:, part]).square().sum(dim=1)
        variance = (truth[:, part] - truth[:, part].mean(dim=0)).square().sum()
        floor[name] = float(squares.sqrt().mean() * 100), float(1 - squares.sum() / variance)
    return floor
