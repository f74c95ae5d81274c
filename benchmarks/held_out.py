"""Held-out episodes: what rollouts start from and are compared with, and what probes read off their frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.probes import AttentiveProbe, ProbeConfig, fit_probe
from benchmarks.rollout_errors import LIFTED_METRES, QUANTITIES, simulator_states
from rla_gym.tasks import episode_chunks
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features, episode_offsets
from world_models.io import load_encoder, read_config


@dataclass(frozen=True)
class HeldOut:
    """The E episodes that are rolled out, encoded by one world.

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


@dataclass(frozen=True)
class View:
    """A dataset as the encoder of a world gives it.

    Attributes:
        dataset: the episodes.
        features: states ``(F, L, C)`` of all frames, memory-mapped.
        patch_tokens: tokens of the picture, which come first.
        states: simulator states ``(F, 7)`` of all frames.
        held_out: the episodes that are rolled out.
        probe_config: size and schedule of :attr:`probe`.
    """

    dataset: EpisodeDataset
    features: Tensor
    patch_tokens: int
    states: Tensor
    held_out: HeldOut
    probe_config: ProbeConfig

    @cached_property
    def probe(self) -> AttentiveProbe:
        """Reads quantities off states; fitted on the training episodes when first asked for."""
        return fit_probe(*training_rows(self.dataset, self.features, self.states), self.probe_config)


class Views:
    """The views of several worlds on one dataset; worlds of one encoder share theirs.

    Args:
        dataset: the episodes.
        split: which of them are held out.
        cache: folder of the feature cache.
        chunks: action chunks in a rollout; None for as many as an episode of a world's task has.
        probe: size and schedule of the probes; None for the usual ones.

    Raises:
        ValueError: the dataset has no simulator columns.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        split: str,
        cache: Path,
        *,
        chunks: int | None = None,
        probe: ProbeConfig | None = None,
    ) -> None:
        self._states = simulator_states(dataset)
        self._dataset, self._split, self._cache, self._chunks = dataset, split, cache, chunks
        self._probe = probe or ProbeConfig()
        self._views: dict[tuple[str, int, int], View] = {}

    def of(self, folder: Path) -> View:
        """The view of the world in a folder.

        Raises:
            ValueError: no episode is long enough.
        """
        world, encoder = read_config(folder), load_encoder(folder)
        chunks = self._chunks or episode_chunks(world.task, world.max_chunks)
        key = encoder.fingerprint(), chunks, world.chunk_length
        if key not in self._views:
            features = torch.from_numpy(cache_features(self._dataset, encoder, self._cache))
            held_out = held_out_episodes(
                self._dataset, self._split, features, self._states, chunks=chunks, length=world.chunk_length
            )
            self._views[key] = View(self._dataset, features, encoder.patch_tokens, self._states, held_out, self._probe)
        return self._views[key]


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
        ValueError: none is long enough, or the dataset has no column ``next.success``.
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
    # This column describes the state after an action, which is the next frame.
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


def probe_errors(
    dataset: EpisodeDataset, split: str, probe: AttentiveProbe, features: Tensor, states: Tensor
) -> dict[str, tuple[float, float]]:
    """Error in cm and R2 of what the probe reads off real frames: no error of a rollout is smaller than that."""
    offsets = episode_offsets(dataset.lengths)
    rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in dataset.split(split)])
    read, truth = torch.cat([probe(batch.float()) for batch in features[rows].split(512)]), states[rows]
    errors = {}
    for name, part in QUANTITIES.items():
        squares = (read[:, part] - truth[:, part]).square().sum(dim=1)
        variance = (truth[:, part] - truth[:, part].mean(dim=0)).square().sum()
        errors[name] = float(squares.sqrt().mean() * 100), float(1 - squares.sum() / variance)
    return errors
