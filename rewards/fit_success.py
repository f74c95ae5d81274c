"""Gives a trained world its success detector, from labels or goal frames of the data it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards.fit_detector import fit_success_detector
from rewards.success import SuccessDetector
from world_models.base import WorldModel
from world_models.data.episodes import SPLITS, EpisodeDataset
from world_models.data.feature_cache import cache_features, episode_offsets
from world_models.data_of_world import open_data
from world_models.io import dynamics_in, load_encoder, load_model, read_config
from world_models.open_loop import open_loop
from world_models.training.checks import check_fits
from world_models.training.model_card import write_model_card

GOAL_SECONDS = 0.25
"""Frames that an episode ends with, and that count as its goal where there are no labels."""
LEAST_LABELS = 5
"""Validation episodes of either outcome below which no calibrated probability is claimed."""
DRAWS = 8
"""Rollouts of each episode that the threshold for states of a stochastic model is calibrated on."""


def fit_world_success(world: Path, data: Path, cache: Path | None = None, *, chunks: int = 6) -> dict[str, Any]:
    """Fit a detector on the data's training episodes, calibrate it on the validation episodes, save it in ``world``.

    It is calibrated on real frames, and on states that each of the world's dynamics imagined. Its metrics also say what
    comes of no policy at all: :func:`untrained_success`.

    Args:
        world: the world's folder.
        data: folder of the LeRobotDataset v3.0 it was trained on.
        cache: folder of the feature cache; None for ``<data>/cache``.
        chunks: action chunks in an imagined episode, at most; as many as an episode of the environment has.

    Returns:
        The metrics of :func:`rewards.fit_success_detector`.

    Raises:
        FileNotFoundError, ValueError: there is no such world or data, or the data are not as they must be, or do not
            fit the world.
    """
    config = read_config(world)
    dataset = open_data(data, config)
    check_fits(dataset, config)
    features = cache_features(dataset, load_encoder(world), cache or data / "cache")
    offsets = episode_offsets(dataset.lengths)
    splits = [""] * len(dataset)
    for name in SPLITS:
        for index in dataset.split(name):
            splits[int(index)] = name
    goal_frames = config.reading.success == "goal_frames"
    detector, metrics = fit_success_detector(
        lambda index: features[offsets[index] : offsets[index + 1]], dataset.successes, splits,
        final_frames=max(1, round(GOAL_SECONDS * dataset.fps)) if goal_frames else 1,
    )  # fmt: skip
    metrics["labels"] = config.reading.success
    metrics["calibrated"] = is_calibrated(dataset)
    for dynamics in dynamics_in(world):
        model = load_model(world, dynamics)
        first, actions, real = _held_out(dataset, features, model.chunk_length, chunks)
        seeds = range(DRAWS if model.stochastic else 1)
        draws = (open_loop(model, first, actions, seed=seed).features for seed in seeds)
        detector.calibrate_imagined(dynamics, draws, real)
        metrics.setdefault("untrained", {})[dynamics] = untrained_success(model, detector, first, actions)
    detector.save(world)
    if (world / "training.json").is_file():
        write_model_card(world)
    return metrics


def is_calibrated(dataset: EpisodeDataset) -> bool:
    """Whether the validation episodes say what a success is, and what is none: :data:`LEAST_LABELS` of each."""
    labels = dataset.successes[dataset.split("validation")]
    failures = int((~labels).sum())
    return dataset.reading.success == "labels" and min(int(labels.sum()), failures) >= LEAST_LABELS


@torch.inference_mode()
def untrained_success(
    model: WorldModel, detector: SuccessDetector, first: Tensor, actions: Tensor, seed: int = 0
) -> dict[str, float]:
    """Shares of imagined episodes that succeed without a policy: an honest dream lets hardly any.

    Args:
        model: which imagines.
        detector: which decides, calibrated for these dynamics.
        first: first states ``(N, L, C)``.
        actions: recorded actions ``(N, M, K, A)``, whose shape is taken, and whose first action is where a robot rests
            that takes positions.
        seed: of the random actions.

    Returns:
        "random" (uniform actions in [-1, 1]) and "resting" (no motion).
    """
    generator = torch.Generator().manual_seed(seed)
    resting = torch.zeros_like(actions)
    if model.config.reading.action_scale is not None:
        # Unscaled actions of ours are displacements; of others they are mostly positions.
        resting = actions[:, :1, :1].expand_as(actions)
    shares = {}
    for name, taken in (("random", torch.rand(actions.shape, generator=generator) * 2 - 1), ("resting", resting)):
        states = open_loop(model, first, taken, seed=seed).features
        succeeded = [detector.imagined_success(after, model.name) for after in states.unbind(1)]
        shares[name] = float(torch.stack(succeeded).any(dim=0).float().mean())
    return shares


def _held_out(
    dataset: EpisodeDataset, features: np.ndarray, length: int, most_chunks: int
) -> tuple[Tensor, Tensor, Tensor]:
    """First states (N, L, C) of validation episodes, their actions (N, M, K, A), states (N, M, L, C) after each chunk.

    As many chunks M as the longest episode has, at most ``most_chunks``; shorter episodes are left out.
    """
    offsets = episode_offsets(dataset.lengths)
    validation = dataset.split("validation")
    chunks = min(most_chunks, (int(dataset.lengths[validation].max()) - 1) // length)
    episodes = dataset.split("validation", chunks * length)
    frames = offsets[episodes][:, None] + length * np.arange(chunks + 1)
    states = torch.from_numpy(features[frames]).float()
    actions = np.stack([dataset.episode(int(index), ()).actions[: chunks * length] for index in episodes])
    return states[:, 0], torch.from_numpy(actions).float().unflatten(1, (chunks, length)), states[:, 1:]
