"""Gives a trained world its success detector, from the episode labels of the data it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewards.success import fit_success_detector
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features, episode_offsets
from world_models.model_card import write_model_card
from world_models.world_model import load_encoder


def fit_world_success(world: Path, data: Path, cache: Path | None = None) -> dict[str, Any]:
    """Fit a detector on the data's training episodes, calibrate it on the validation episodes, save it in ``world``.

    Args:
        world: the world's folder.
        data: folder of the LeRobotDataset v3.0 it was trained on.
        cache: folder of the feature cache; None for ``<data>/cache``.

    Returns:
        The metrics of :func:`rewards.success.fit_success_detector`.
    """
    dataset = EpisodeDataset(data)
    features = cache_features(dataset, load_encoder(world), cache or data / "cache")
    offsets = episode_offsets(dataset.lengths)
    splits = [""] * len(dataset)
    for name in ("train", "validation", "report"):
        for index in dataset.split(name):
            splits[int(index)] = name
    detector, metrics = fit_success_detector(
        lambda index: features[offsets[index] : offsets[index + 1]], dataset.successes, splits
    )
    detector.save(world)
    if (world / "training.json").is_file():
        write_model_card(world)
    return metrics
