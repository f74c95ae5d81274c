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
from world_models.data.labels import LABEL
from world_models.io import load_encoder, read_config


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The E episodes that are rolled out, encoded by one world: what every dataset tells.

    Attributes:
        episodes: their indices in the dataset ``(E,)``.
        start: first states ``(E, L, C)``.
        real: states after each chunk ``(E, M, L, C)``.
        actions: ``(E, M, K, A)``.
        kinds: kind of each episode ``(E,)``.
        frames: rows of the dataset, first and after each chunk ``(E, M + 1)``.
    """

    episodes: np.ndarray
    start: Tensor
    real: Tensor
    actions: Tensor
    kinds: np.ndarray
    frames: Tensor


@dataclass(frozen=True, kw_only=True)
class HeldOut(Recorded):
    """The same, and what the simulator tells.

    Attributes:
        truth: simulator states ``(E, M, 7)`` after each chunk.
        lifted: whether the cube was lifted after each chunk ``(E, M)`` bool.
        succeeded: whether the task was achieved then ``(E, M)`` bool.
    """

    truth: Tensor
    lifted: np.ndarray
    succeeded: np.ndarray


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


def possible_chunks(dataset: EpisodeDataset, split: str, most: int, length: int) -> int:
    """Action chunks of ``length`` steps that the longest episode of a split has, at least 1 and at most ``most``."""
    longest = int(max(dataset.lengths[dataset.split(split)], default=0))
    return max(1, min(most, (longest - 1) // length))


def recorded_episodes(dataset: EpisodeDataset, split: str, features: Tensor, *, chunks: int, length: int) -> Recorded:
    """The episodes of a split that are long enough for ``chunks`` action chunks of ``length`` steps.

    Args:
        dataset: the episodes.
        split: which of them.
        features: states ``(F, L, C)`` of all frames.
        chunks: action chunks M.
        length: control steps K of a chunk.

    Raises:
        ValueError: none is long enough.
    """
    offsets, span = episode_offsets(dataset.lengths), chunks * length
    episodes = dataset.split(split, span)
    if not len(episodes):
        raise ValueError(
            f"no {split} episode of {dataset.root} is longer than {span} frames; lower --chunks or collect longer "
            "episodes"
        )
    first = torch.from_numpy(offsets[episodes])
    frames = first[:, None] + torch.arange(0, span + 1, length)
    actions = np.stack([dataset.episode(int(index), ()).actions[:span] for index in episodes])
    return Recorded(
        episodes=episodes,
        start=features[first].float(),
        real=features[frames[:, 1:]].float(),
        actions=torch.from_numpy(actions).view(len(episodes), chunks, length, -1),
        kinds=np.array([dataset.kinds[i] for i in episodes]),
        frames=frames,
    )


def held_out_episodes(
    dataset: EpisodeDataset, split: str, features: Tensor, states: Tensor, *, chunks: int, length: int
) -> HeldOut:
    """What :func:`recorded_episodes` gives, with the simulator's truth.

    Args:
        dataset, split, features, chunks, length: see there.
        states: simulator states ``(F, 7)`` of all frames.

    Raises:
        ValueError: none is long enough, or the dataset has no column ``next.success``.
    """
    if LABEL not in dataset.columns:
        raise ValueError(f"{dataset.root} has no column {LABEL}; collect data by `rla-gym collect`")
    recorded = recorded_episodes(dataset, split, features, chunks=chunks, length=length)
    labels = [dataset.episode(int(index), (LABEL,)).columns[LABEL] for index in recorded.episodes]
    # This column describes the state after an action, which is the next frame.
    succeeded = [label[length - 1 : chunks * length : length] for label in labels]
    first, after = recorded.frames[:, :1], recorded.frames[:, 1:]
    return HeldOut(
        **vars(recorded),
        truth=states[after],
        lifted=(states[after, 2] - states[first, 2] > LIFTED_METRES).numpy(),
        succeeded=np.array(succeeded, bool).reshape(after.shape),
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
