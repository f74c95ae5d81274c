"""Opening a dataset as a world reads it: its cameras, its columns, its scale of actions, its shape of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from world_models.config import WorldConfig
from world_models.data.episodes import EpisodeDataset


def open_data(root: str | Path, world: WorldConfig, camera: str | Sequence[str] | None = None) -> EpisodeDataset:
    """The dataset in a folder, for a world that was trained on it or on more of the same robot.

    Args:
        root: the dataset's folder.
        world: config of the world.
        camera: key of the video to read, or keys of several, instead of the world's own.

    Raises:
        FileNotFoundError, ValueError: as of :class:`world_models.data.episodes.EpisodeDataset`.
    """
    return EpisodeDataset(root, camera=camera, usual_camera=world.camera, reading=world.reading)
