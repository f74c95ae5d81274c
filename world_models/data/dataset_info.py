"""What `meta/info.json` of a LeRobotDataset v3.0, v2.1 or v2.0 says, checked."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world_models.data.column_names import ACTION_COLUMNS, STATE_COLUMNS, guess
from world_models.data.episode_writer import DEFAULT_FEATURES, INFO_PATH
from world_models.data.labels import LABEL
from world_models.data.reading import DataReading
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
        shapes: shape of one row of every numeric column but those that every dataset has; actions and proprioception
            by LeRobot's names, whatever they are called on disk.
        total_episodes: how many episodes there are; None if the file does not say.
        episodes_of_chunk: how many episodes a folder of a v2 dataset holds, whose files are one for each episode; None
            for v3.0.
    """

    root: Path
    fps: float
    cameras: tuple[str, ...]
    action_names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    total_episodes: int | None
    episodes_of_chunk: int | None
    _stored: Mapping[str, str]
    _features: dict[str, Any]
    _data_path: str
    _video_path: str

    def stored(self, name: str) -> str:
        """What a column is called on disk."""
        return self._stored.get(name, name)

    def data_path(self, chunk: int, file: int) -> Path:
        """The parquet file of this number."""
        return self.root / self._data_path.format(**_numbers(chunk, file))

    def video_path(self, camera: str, chunk: int, file: int) -> Path:
        """The video of this number."""
        return self.root / self._video_path.format(video_key=camera, **_numbers(chunk, file))

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

    def choose_cameras(self, asked: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
        """The cameras asked for, else the usual ones if they are there, else the only one.

        Raises:
            ValueError: there is no video, no such camera, or several and none is named.
        """
        cameras = ", ".join(self.cameras)
        if not self.cameras:
            raise ValueError(
                f"{self.root} has no video in {INFO_PATH}; datasets of single images must be converted to video"
            )
        for camera in asked:
            if camera not in self.cameras:
                raise ValueError(f"camera is {camera!r}, but {self.root} has {cameras}; choose among these")
        if len(set(asked)) < len(asked):
            raise ValueError(f"camera names {', '.join(asked)}: each camera is read once; name it once")
        if asked:
            return tuple(asked)
        if usual and set(usual) <= set(self.cameras):
            return tuple(usual)
        if len(self.cameras) > 1:
            raise ValueError(f"{self.root} has {len(self.cameras)} cameras: choose one or more by --camera: {cameras}")
        return self.cameras


def read_info(root: Path, reading: DataReading | None = None) -> DatasetInfo:
    """Read `meta/info.json`.

    Args:
        root: the dataset's folder.
        reading: names of the columns of actions and proprioception.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, of another version, or a value in it makes no sense.
    """
    path = root / INFO_PATH
    if not path.is_file():
        raise FileNotFoundError(
            f"{root} is no dataset: it has no {INFO_PATH}; give a folder in the LeRobotDataset v3.0 or v2.1 layout, "
            "make one with `rla-gym collect`, or one of data in another format with `rla-gym data convert`"
        )
    info: dict[str, Any] = read_json(path, fix="fetch or collect the dataset again")
    version = str(info.get("codebase_version", "of no version"))
    older = version in ("v2.0", "v2.1")
    if not older and not version.startswith("v3."):
        raise ValueError(
            f"{root} is a LeRobotDataset {version:.40}; v2.0, v2.1 and v3.0 are read: convert it with the lerobot that "
            "wrote it"
        )
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise _malformed(root, "features", features, "a description of each column")
    fps, total = info.get("fps"), info.get("total_episodes")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        raise _malformed(root, "fps", fps, "a positive number")
    stored = _stored_names(root, features, reading or DataReading())
    columns = {on_disk: name for name, on_disk in stored.items()}
    features = {columns.get(name, name): feature for name, feature in features.items()}
    chunk = info.get("chunks_size") if older else None
    if older and (type(chunk) is not int or chunk < 1):
        raise _malformed(root, "chunks_size", chunk, "a whole number of 1 or more")
    fields = {"episode_chunk", "episode_index"} if older else {"chunk_index", "file_index"}
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
        total if isinstance(total, int) and not isinstance(total, bool) else None, chunk, stored, features,
        _template(root, info, "data_path", fields), _template(root, info, "video_path", {"video_key", *fields}),
    )  # fmt: skip


def _stored_names(root: Path, features: Collection[str], reading: DataReading) -> dict[str, str]:
    """What the columns of actions and of proprioception are called on disk, where there are such columns.

    Raises:
        ValueError: one that is named is not there.
    """
    stored: dict[str, str] = {}
    for (name, *others), asked, flag in (
        (ACTION_COLUMNS, reading.action_column, "--action-column"),
        (STATE_COLUMNS, reading.state_column, "--state-column"),
    ):
        if asked is not None and asked not in features:
            raise ValueError(f"{root} has no column {asked!r}: pass one of {', '.join(features)} by {flag}")
        found = asked or guess((name, *others), [column for column in features if column not in stored.values()])
        if found is not None:
            stored[name] = found
    return stored


def _numbers(chunk: int, file: int) -> dict[str, int]:
    """A file's numbers by the names that they have in v3.0's patterns and in v2's."""
    return {"chunk_index": chunk, "file_index": file, "episode_chunk": chunk, "episode_index": file}


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
