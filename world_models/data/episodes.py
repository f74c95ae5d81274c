"""Reading of episodes in the LeRobotDataset v3.0 layout: our own and those of others.

Our own writer (`EpisodeWriter`, re-exported here) makes one file pair per episode; datasets of others put many
episodes into one parquet and one mp4, which is read as well, with random access to each episode.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from world_models.data.episode_writer import DEFAULT_FEATURES, INFO_PATH, EpisodeWriter, read_tasks, split_of

__all__ = ["SPLITS", "Episode", "EpisodeDataset", "EpisodeWriter", "split_of"]

SPLITS = ("train", "validation", "report")


@dataclass(frozen=True)
class Episode:
    """One episode of T steps, without its frames. `len(episode)` is T.

    Frame t is seen before action t; the last action has no following frame.

    Attributes:
        index: position in the dataset.
        kind: how it was made, such as "expert"; "unknown" if the dataset does not say.
        success: whether the task was done at its end; False if the dataset does not say.
        split: "train", "validation" or "report".
        actions: (T, A) float32.
        columns: name -> (T, ...) array of every further numeric column, in its stored dtype.
    """

    index: int
    kind: str
    success: bool
    split: str
    actions: np.ndarray
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.actions)


class EpisodeDataset:
    """A LeRobotDataset v3.0 folder, read episode by episode. `len(dataset)` is the number of episodes N.

    Args:
        root: the folder that holds meta/info.json.
        camera: key of the video to read, such as "observation.images.agentview"; by default the first one.

    Attributes:
        root: Path of the folder.
        fps: frames (and actions) per second, int.
        instruction: the (first) task in words.
        action_names: one name per action dimension; empty if the dataset has no actions.
        image_size: (height, width) in pixels.
        camera: key of the video that is read.
        lengths: (N,) int64, T of every episode.
        kinds: N strings.
        seeds: N reset seeds of the simulator; None where the dataset does not say.
        successes: (N,) bool.
        num_frames: T summed over all episodes.

    Raises:
        FileNotFoundError: the folder is no dataset, or its collection was not finished.
        ValueError: the dataset is of another version, has no video, or has no such camera.
    """

    def __init__(self, root: str | Path, *, camera: str | None = None) -> None:
        self.root = Path(root)
        self._info = _read_info(self.root)
        features = self._info["features"]
        self.fps = int(self._info["fps"])
        self.camera = _choose_camera(self.root, features, camera)
        self.image_size = _image_size(features[self.camera])
        self.action_names = _action_names(features.get("action"))
        self.instruction = read_tasks(self.root)[0]
        self._shapes = {
            name: tuple(feature["shape"])
            for name, feature in features.items()
            if name not in DEFAULT_FEATURES and feature["dtype"] not in ("video", "image", "string")
        }
        self._rows = self._read_rows()
        self.lengths = np.array([row["length"] for row in self._rows], np.int64)
        self.num_frames = int(self.lengths.sum())
        self.kinds = [str(row.get("kind") or "unknown") for row in self._rows]
        self.seeds: list[int | None] = [row.get("seed") for row in self._rows]
        self.successes = self._read_successes()
        splits = [row.get("split") or split_of(index) for index, row in enumerate(self._rows)]
        self._splits = np.array(splits, dtype=object)
        self._file_starts = self._read_file_starts()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of every numeric column, "action" included."""
        return dict(self._shapes)

    def split(self, name: str) -> np.ndarray:
        """Indices of the episodes of a split, ascending, int64; `name` is "train", "validation", "report" or "all".

        Raises ValueError for any other name.
        """
        if name == "all":
            return np.arange(len(self))
        if name not in SPLITS:
            raise ValueError(f"split is {name!r}; choose one of {', '.join(SPLITS)}, all")
        return np.flatnonzero(self._splits == name).astype(np.int64)

    def episode(self, index: int) -> Episode:
        """Actions and columns of episode `index`, 0 … N−1.

        Raises:
            IndexError: there is no such episode.
            FileNotFoundError, ValueError: its data file is missing or does not fit the metadata.
        """
        self._check_index(index)
        values = self._read_columns(index, list(self._shapes))
        actions = values.pop("action", np.zeros((self.lengths[index], 0))).astype(np.float32)
        return Episode(
            index=int(index),
            kind=self.kinds[index],
            success=bool(self.successes[index]),
            split=self._splits[index],
            actions=actions.reshape(len(actions), -1),
            columns=values,
        )

    def frames(self, index: int) -> np.ndarray:
        """The frames of episode `index`: (T, H, W, 3) uint8 RGB.

        Raises:
            IndexError: there is no such episode.
            FileNotFoundError, ValueError: its video is missing or holds fewer frames than the metadata says.
        """
        self._check_index(index)
        path, length = self._video_path(index, self.camera), int(self.lengths[index])
        start = self._rows[index][f"videos/{self.camera}/from_timestamp"] - 0.5 / self.fps
        frames = np.empty((length, *self.image_size, 3), np.uint8)
        count = 0
        for image in _decode_from(path, start):
            if image.shape != frames.shape[1:]:
                raise ValueError(
                    f"{path} has frames of {image.shape}, {INFO_PATH} says {frames.shape[1:]}; fix one of them"
                )
            frames[count] = image
            count += 1
            if count == length:
                return frames
        raise ValueError(f"{path} holds {count} of the {length} frames of episode {index}; fetch or collect it again")

    def fingerprint(self) -> str:
        """Hex digest of the content of every episode's files; changes when any of them does, or when one is added.

        Reads all files, at the speed of the disk. Copying or touching the folder does not change it.
        """
        return self.fingerprints()[-1]

    def fingerprints(self) -> list[str]:
        """Of the first episode alone, of the first two and so on up to all: of this dataset as it grew."""
        digest = hashlib.blake2b(digest_size=16)
        seen: set[Path] = set()
        fingerprints = []
        for index, row in enumerate(self._rows):
            described = {name: value for name, value in row.items() if not name.startswith("meta/")}
            digest.update(json.dumps(described, sort_keys=True, default=str).encode())
            for path in (self._data_path(index), self._video_path(index, self.camera)):
                if path not in seen:
                    seen.add(path)
                    digest.update(path.relative_to(self.root).as_posix().encode())
                    with path.open("rb") as file:
                        while block := file.read(1 << 20):
                            digest.update(block)
            fingerprints.append(digest.hexdigest())
        return fingerprints

    def _read_rows(self) -> list[dict[str, Any]]:
        """The rows of meta/episodes without the statistics, ordered by episode_index."""
        paths = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not paths:
            raise FileNotFoundError(
                f"{self.root} has no meta/episodes: its collection is not finished; run the same collect command again"
            )
        rows: list[dict[str, Any]] = []
        for path in paths:
            names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
            rows += pq.read_table(path, columns=names).to_pylist()
        rows.sort(key=lambda row: row["episode_index"])
        if [row["episode_index"] for row in rows] != list(range(len(rows))):
            raise ValueError(f"{self.root}/meta/episodes does not number its episodes 0..{len(rows) - 1}; fix it")
        return rows

    def _read_successes(self) -> np.ndarray:
        """(N,) bool from meta/episodes, else from "next.success" in an episode's last row, else False."""
        successes = np.array([bool(row.get("success")) for row in self._rows], bool)
        if any("success" in row for row in self._rows) or "next.success" not in self._shapes:
            return successes
        for path in sorted((self.root / "data").glob("*/*.parquet")):
            table = pq.read_table(path, columns=["episode_index", "next.success"])
            succeeded = np.asarray(table.column("next.success").to_pylist(), bool).reshape(table.num_rows, -1).any(1)
            episodes = table.column("episode_index").to_numpy()
            ends = np.flatnonzero(np.diff(episodes, append=-1))
            ends = ends[episodes[ends] < len(successes)]
            successes[episodes[ends]] = succeeded[ends]
        return successes

    def _read_file_starts(self) -> dict[Path, int]:
        """The lowest dataset index in every data file, where its row 0 lies."""
        starts: dict[Path, int] = {}
        for index, row in enumerate(self._rows):
            path, start = self._data_path(index), row["dataset_from_index"]
            starts[path] = min(start, starts.get(path, start))
        return starts

    def _read_columns(self, index: int, names: list[str]) -> dict[str, np.ndarray]:
        """Columns of one episode, each (T, *shape), from the row groups that hold it."""
        path, row = self._data_path(index), self._rows[index]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; fetch or collect episode {index} again")
        first = row["dataset_from_index"] - self._file_starts[path]
        length = int(self.lengths[index])
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            begins = ends - sizes
            groups = np.flatnonzero((begins < first + length) & (ends > first))
            missing = set(names) - set(file.schema_arrow.names)
            if missing:
                raise ValueError(f"{path} lacks the columns {sorted(missing)} that {INFO_PATH} names; fix one of them")
            table = file.read_row_groups(groups.tolist(), columns=[*names, "episode_index"])
        table = table.slice(first - int(begins[groups[0]]) if len(groups) else 0, length)
        if table.num_rows != length or not (table.column("episode_index").to_numpy() == index).all():
            raise ValueError(f"{path} does not hold the {length} rows of episode {index} where meta/episodes says")
        return {name: _to_array(table.column(name), (length, *self._shapes[name])) for name in names}

    def _data_path(self, index: int) -> Path:
        row = self._rows[index]
        chunk, file = row["data/chunk_index"], row["data/file_index"]
        return self.root / self._info["data_path"].format(chunk_index=chunk, file_index=file)

    def _video_path(self, index: int, camera: str) -> Path:
        row = self._rows[index]
        chunk, file = row[f"videos/{camera}/chunk_index"], row[f"videos/{camera}/file_index"]
        path = self._info["video_path"].format(video_key=camera, chunk_index=chunk, file_index=file)
        return self.root / path

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} is not in {self.root}, which has 0..{len(self) - 1}")


def _read_info(root: Path) -> dict[str, Any]:
    path = root / INFO_PATH
    if not path.is_file():
        raise FileNotFoundError(
            f"{root} is no dataset: it has no {INFO_PATH}; give a folder in the LeRobotDataset v3.0 layout, "
            "or make one with `rla-gym collect`"
        )
    info: dict[str, Any] = json.loads(path.read_text())
    version = str(info.get("codebase_version"))
    if not version.startswith("v3."):
        raise ValueError(
            f"{root} is a LeRobotDataset {version}; v3.0 is needed: convert it with "
            "`python -m lerobot.datasets.v30.convert_dataset_v21_to_v30`"
        )
    return info


def _choose_camera(root: Path, features: dict[str, Any], camera: str | None) -> str:
    cameras = [name for name, feature in features.items() if feature["dtype"] == "video"]
    if not cameras:
        raise ValueError(f"{root} has no video; datasets whose frames are single images must be converted to video")
    if camera is None:
        return cameras[0]
    if camera not in cameras:
        raise ValueError(f"camera is {camera!r}; {root} has {', '.join(cameras)}")
    return camera


def _image_size(feature: dict[str, Any]) -> tuple[int, int]:
    shape = [int(side) for side in feature["shape"]]
    channels_first = shape[0] in (1, 3) and shape[2] not in (1, 3)
    height, width = shape[1:] if channels_first else shape[:2]
    return height, width


def _action_names(feature: dict[str, Any] | None) -> tuple[str, ...]:
    """Names of the action's dimensions, which datasets give as a list, as {"motors": list}, or not at all."""
    if feature is None:
        return ()
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    size = int(np.prod(feature["shape"]))
    return tuple(map(str, names)) if names and len(names) == size else tuple(f"action_{i}" for i in range(size))


def _to_array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    array = column.combine_chunks()
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    return np.array(array.to_numpy(zero_copy_only=False)).reshape(shape)  # a copy: arrow's memory is read-only


def _decode_from(path: Path, start: float) -> Iterator[np.ndarray]:
    """The frames of a video from `start` seconds on, each (H, W, 3) uint8 RGB."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fetch or collect the dataset again")
    # Only here: a machine that trains on cached features has no need of it.
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if start > 0:
            container.seek(int(start * av.time_base))  # to the key frame before it
        for frame in container.decode(stream):
            if frame.time >= start:
                yield frame.to_ndarray(format="rgb24")
