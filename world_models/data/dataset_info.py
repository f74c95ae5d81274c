"""What `meta/info.json` of a LeRobotDataset v3.0 says, checked."""

from __future__ import annotations

import math
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world_models.data.episode_writer import DEFAULT_FEATURES, INFO_PATH
from world_models.data.labels import LABEL
from world_models.files import read_json

_NO_NUMBERS = ("video", "image", "string")
_LARGEST = 1 << 14
"""Most pixels of a side, and most dimensions of an action, that a file is believed to have."""


@dataclass(frozen=True)
class DatasetInfo:
    """The layout of a dataset.

    Attributes:
        root: the dataset's folder.
        fps: frames per second, positive; fractions are kept.
        cameras: keys of its videos.
        action_names: one name per action dimension; empty if the dataset has no actions.
        shapes: shape of one row of every numeric column but those that every dataset has.
        total_episodes: how many episodes there are; None if the file does not say.
    """

    root: Path
    fps: float
    cameras: tuple[str, ...]
    action_names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    total_episodes: int | None
    _features: dict[str, Any]
    _data_path: str
    _video_path: str

    def data_path(self, chunk: int, file: int) -> Path:
        """The parquet file of this number."""
        return self.root / self._data_path.format(chunk_index=chunk, file_index=file)

    def video_path(self, camera: str, chunk: int, file: int) -> Path:
        """The video of this number."""
        return self.root / self._video_path.format(video_key=camera, chunk_index=chunk, file_index=file)

    def image_size(self, camera: str) -> tuple[int, int]:
        """Height and width of a camera's pictures.

        Raises:
            ValueError: the file does not say.
        """
        shape = _shape(self._features[camera])
        if shape is None or len(shape) != 3 or not 1 <= min(shape) <= max(shape) <= _LARGEST:
            raise _malformed(self.root, f"features[{camera!r}].shape", self._features[camera].get("shape"), "[H, W, 3]")
        channels_first = shape[0] in (1, 3) and shape[2] not in (1, 3)
        height, width = shape[1:] if channels_first else shape[:2]
        return height, width

    def choose_camera(self, asked: str | None, usual: str | None) -> str:
        """The camera asked for, else the usual one if it is there, else the first.

        Raises:
            ValueError: there is no video, or no such camera.
        """
        cameras = ", ".join(self.cameras)
        if not self.cameras:
            raise ValueError(
                f"{self.root} has no video in {INFO_PATH}; datasets of single images must be converted to video"
            )
        if asked is not None and asked not in self.cameras:
            raise ValueError(f"camera is {asked!r}, but {self.root} has {cameras}; choose one of these")
        if asked is None and usual in self.cameras:
            return usual
        return asked or self.cameras[0]


def read_info(root: Path) -> DatasetInfo:
    """Read `meta/info.json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, of another version, or a value in it makes no sense.
    """
    path = root / INFO_PATH
    if not path.is_file():
        raise FileNotFoundError(
            f"{root} is no dataset: it has no {INFO_PATH}; give a folder in the LeRobotDataset v3.0 layout, "
            "or make one with `rla-gym collect`"
        )
    info: dict[str, Any] = read_json(path, fix="fetch or collect the dataset again")
    version = str(info.get("codebase_version", "of no version"))
    if not version.startswith("v3."):
        raise ValueError(
            f"{root} is a LeRobotDataset {version}; v3.0 is needed: convert it with "
            "`python -m lerobot.datasets.v30.convert_dataset_v21_to_v30`"
        )
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise _malformed(root, "features", features, "a description of each column")
    fps, total = info.get("fps"), info.get("total_episodes")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        raise _malformed(root, "fps", fps, "a positive number")
    shapes = {
        name: shape
        for name, feature in features.items()
        if name not in DEFAULT_FEATURES and (name == LABEL or feature.get("dtype") not in _NO_NUMBERS)
        for shape in [_shape(feature)]
        if shape is not None
    }
    return DatasetInfo(
        root, float(fps), tuple(name for name, feature in features.items() if feature.get("dtype") == "video"),
        _action_names(root, features.get("action"), shapes.get("action")), shapes,
        total if isinstance(total, int) and not isinstance(total, bool) else None, features,
        _template(root, info, "data_path", {"chunk_index", "file_index"}),
        _template(root, info, "video_path", {"video_key", "chunk_index", "file_index"}),
    )  # fmt: skip


def _malformed(root: Path, name: str, value: Any, needed: str) -> ValueError:
    return ValueError(f"{root / INFO_PATH} has {name} {value!r:.100}; {needed} is needed: fix it, or fetch it again")


def _shape(feature: dict[str, Any]) -> tuple[int, ...] | None:
    """Shape of one row of a column; None where that is no list of whole numbers."""
    shape = feature.get("shape")
    if not isinstance(shape, list | tuple) or not all(type(side) is int and side >= 0 for side in shape):
        return None
    return tuple(shape)


def _action_names(root: Path, feature: dict[str, Any] | None, shape: tuple[int, ...] | None) -> tuple[str, ...]:
    """Names of the action's dimensions, which datasets give as a list, as {"motors": list}, or not at all."""
    if feature is None or shape is None:
        return ()
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    size = math.prod(shape)
    if size > _LARGEST:
        raise _malformed(root, "features['action'].shape", list(shape), "the number of action dimensions")
    if isinstance(names, list) and len(names) == size:
        return tuple(map(str, names))
    return tuple(f"action_{i}" for i in range(size))


def _template(root: Path, info: dict[str, Any], name: str, fields: set[str]) -> str:
    """A file name's pattern: these fields alone, with a few digits each, inside the dataset's folder.

    The pattern of videos may be missing, as in datasets without any.
    """
    pattern = info.get(name)
    if name == "video_path" and pattern is None:
        return ""
    try:
        if not isinstance(pattern, str):
            raise ValueError
        parts = list(string.Formatter().parse(pattern))
        fit = all(
            field is None or (field in fields and not conversion and re.fullmatch(r"(0?\d)?d?", form or ""))
            for _, field, form, conversion in parts
        )
        path = Path(pattern)
        if not fit or path.is_absolute() or ".." in path.parts:
            raise ValueError
    except ValueError as error:
        raise _malformed(root, name, pattern, f"a path of {', '.join(sorted(fields))}") from error
    return pattern
