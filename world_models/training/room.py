"""Whether what a training writes has room, asked before it starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import frame_file
from world_models.disk_space import CACHE_OPTION, OUT_OPTION, check_room, check_writable, nearest_folder
from world_models.encoders.features import EncoderConfig, FeatureEncoder
from world_models.training.feature_encoder import DistillationConfig, teacher_config


def check_training_room(
    dataset: EpisodeDataset,
    fingerprint: str,
    encoder: EncoderConfig,
    distillation: DistillationConfig | None,
    cache: Path,
    stages: Path,
) -> None:
    """Check that the folders of a training can be written and have room for what is not there yet.

    Args:
        dataset: the episodes.
        fingerprint: of the dataset.
        encoder: structure of the encoder.
        distillation: how it is trained; None where it is given.
        cache: folder of decoded frames and encoded features.
        stages: folder of the stages.

    Raises:
        OSError: a folder cannot be written, or is too small.
    """
    parts: list[tuple[Path, str, str, int]] = []
    frames = frame_file(dataset, cache, fingerprint)
    if not frames.whole():
        parts.append((cache, CACHE_OPTION, "decoded frames", frames.size))
    with torch.random.fork_rng(devices=[]):
        student = FeatureEncoder(encoder, load_weights=False)
        # Features and targets of another encoder's may be there: what is counted wrongly then is asked for once more
        # before it is made.
        if not _any(cache, f"features-{fingerprint}-*.npy"):
            size = 2 * dataset.num_frames * (student.num_tokens + 1) * student.channels
            parts.append((cache, CACHE_OPTION, "features", size))
        if distillation is not None and not _any(stages, "targets-*.npy"):
            rows = dataset.num_frames // distillation.frame_stride
            width = _target_width(student, encoder, distillation)
            parts.append((stages, OUT_OPTION, "targets of the encoder", 2 * rows * student.num_tokens * width))
    check_writable(stages)
    if any(folder == cache for folder, *_ in parts):
        check_writable(cache, CACHE_OPTION)
    _check_parts(parts)


def _check_parts(parts: Iterable[tuple[Path, str, str, int]]) -> None:
    """Check folders, those of one disk together; of each its option, what comes there and its bytes."""
    disks: dict[int, list[tuple[Path, str, str, int]]] = {}
    for part in parts:
        disks.setdefault(os.stat(nearest_folder(part[0])).st_dev, []).append(part)
    for together in disks.values():
        folder, option, *_ = max(together, key=lambda part: part[3])
        what = " and ".join(name for _, _, name, _ in together)
        check_room(folder, sum(size for *_, size in together), what, option)


def _any(folder: Path, pattern: str) -> bool:
    return folder.is_dir() and any(folder.glob(pattern))


def _target_width(student: FeatureEncoder, encoder: EncoderConfig, distillation: DistillationConfig) -> int:
    """Channels of the teacher's targets; a frozen backbone is its own teacher."""
    if isinstance(student.projection, nn.Identity):
        return 0
    if encoder.pretrained or encoder.checkpoint is not None:
        assert isinstance(student.projection, nn.Linear)
        return student.projection.in_features
    return FeatureEncoder(teacher_config(distillation, student), load_weights=False).channels
