"""Reading of episodes in the LeRobotDataset layout, v3.0, v2.1 or v2.0: our own and those of others.

Our own writer (`EpisodeWriter`, re-exported here) makes one file pair per episode; datasets of others put many
episodes into one parquet and one mp4, which is read as well, with random access to each episode.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from world_models.data.column_names import ACTION_COLUMNS, STATE_COLUMNS
from world_models.data.dataset_info import read_info
from world_models.data.episode_checks import ROW_COLUMNS, EpisodeRows, check_file, check_values, labels_of, order_of
from world_models.data.episode_rows import SPLITS, Row, noted_successes, read_instructions, read_rows, splits_of
from world_models.data.episode_writer import EpisodeWriter, split_of
from world_models.data.labels import LABEL
from world_models.data.parquet_files import numbers, read_columns
from world_models.data.reading import DataReading, names_of
from world_models.data.video_frames import frames_at

__all__ = ["SPLITS", "Episode", "EpisodeDataset", "EpisodeWriter", "split_of"]

ACTION, STATE = ACTION_COLUMNS[0], STATE_COLUMNS[0]
"""Names of the columns of actions and of proprioception, whatever they are called on disk."""
_SILENT_SECONDS = 3
"""A check of all rows that takes longer shows how far it is."""


@dataclass(frozen=True)
class Episode:
    """One episode of T steps, without its frames. `len(episode)` is T.

    Frame t is seen before action t; the last action has no following frame.

    Attributes:
        index: position in the dataset.
        kind: how it was made, such as "expert"; "unknown" if the dataset does not say.
        success: whether the task was done at its end; False if the dataset does not say.
        split: "train", "validation" or "report".
        actions: (T, A) float32, in [-1, 1] where the dataset is read with a scale.
        columns: name -> (T, ...) array of the further numeric columns that were asked for, in their stored dtype.
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
    """A LeRobotDataset folder, read episode by episode. `len(dataset)` is the number of episodes N.

    Rows are those of the data files, ordered by frame_index. The frame of a row is the picture of the video at the
    episode's from_timestamp plus the row's timestamp, see :data:`world_models.data.video_frames.TOLERANCE`. Metadata
    and labels are checked here, rows by :meth:`check`, and pictures when they are decoded.

    Args:
        root: the folder that holds meta/info.json.
        camera: key of the video to read, such as "observation.images.agentview", or keys of several, whose views are
            laid side by side; a dataset of one camera has no need of it.
        usual_camera: what is read of a dataset of several cameras where `camera` names none, if it is there.
        reading: names of columns, scale of actions, shape of frames, and what counts as success.

    Attributes:
        root: Path of the folder.
        reading: as given.
        fps: frames (and actions) per second, float.
        instructions: the tasks in words.
        instruction: the one that is read, or the first of them.
        action_names: one name per action dimension that is read; empty if the dataset has no actions.
        view_sizes: (height, width) of each view as it is read, in pixels.
        image_size: (height, width) of a frame, in pixels; as wide as all views together.
        views: keys of the videos that are read.
        cameras: keys of all videos.
        lengths: (N,) int64, T of every episode, at least 1.
        numbers: N episode indices on disk: 0, 1, 2, … unless episodes are left out.
        labelled: whether the dataset says which episodes succeeded.
        kinds: N strings.
        seeds: N reset seeds of the simulator; None where the dataset does not say.
        successes: (N,) bool, as noted in meta/episodes, else as "next.success" says in an episode's last row, else
            False; with :attr:`DataReading.success` "goal_frames" all True.
        num_frames: T summed over all episodes.

    Raises:
        FileNotFoundError: the folder is no dataset, or its collection was not finished.
        ValueError: the dataset is of another version, has no video, no such camera, or several where none is named; its
            metadata contradict themselves; or a label of success is neither true, false, 1 nor 0.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        camera: str | Sequence[str] | None = None,
        usual_camera: str | Sequence[str] | None = None,
        reading: DataReading | None = None,
    ) -> None:
        self.root, self.reading = Path(root), reading or DataReading()
        self._info = read_info(self.root, self.reading)
        self.fps, self.cameras = self._info.fps, self._info.cameras
        self.views = self._info.choose_cameras(names_of(camera), names_of(usual_camera))
        self.instructions = read_instructions(self._info)
        self.instruction = self.reading.instruction or self.instructions[0]
        rows = read_rows(self._info, self.views)
        self._starts = self._first_rows(rows)
        self._rows = self._present(self._of_task(rows))
        self.numbers = [int(row["episode_index"]) for row in self._rows]
        self.lengths = np.array([row["length"] for row in self._rows], np.int64)
        self.num_frames = int(self.lengths.sum())
        self.kinds = [str(row.get("kind") or "unknown") for row in self._rows]
        self.seeds: list[int | None] = [row.get("seed") for row in self._rows]
        self._splits = splits_of(self.root, self._rows)
        self._places = self._read_places()
        self._times: dict[int, np.ndarray] = {}
        self._checked: set[str] = set()
        self._labels = self._read_labels()
        self.labelled = self._labels is not None
        self._adopt(self.reading)

    def with_reading(self, reading: DataReading) -> EpisodeDataset:
        """The same columns and episodes read otherwise; what was checked needs no other look.

        Raises:
            ValueError: actions of another number of dimensions than the reading's scale.
        """
        other = copy(self)
        other._adopt(reading)
        return other

    def _adopt(self, reading: DataReading) -> None:
        self.reading = reading
        self.action_names = self._read_action_names()
        size = reading.frame_size
        sizes = [self._info.image_size(camera) for camera in self.views]
        self.view_sizes = sizes if size is None else [(size, size)] * len(sizes)
        self.image_size = self.view_sizes[0][0], sum(width for _, width in self.view_sizes)
        if reading.success == "goal_frames":
            self.successes = np.ones(len(self), bool)
        else:
            self.successes = np.zeros(len(self), bool) if self._labels is None else self._labels

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of every numeric column as it is read, actions and proprioception by LeRobot's names."""
        shapes = dict(self._info.shapes)
        if ACTION in shapes:
            shapes[ACTION] = (len(self.action_names),)
        if STATE in shapes and self.reading.state_dimensions is not None:
            shapes[STATE] = (len(self.reading.state_dimensions),)
        return shapes

    def split(self, name: str, longer_than: int = 0) -> np.ndarray:
        """Indices of the episodes of a split with more than so many frames, ascending, int64.

        Args:
            name: "train", "validation", "report" or "all".
            longer_than: frames; shorter episodes are left out.

        Raises:
            ValueError: any other name.
        """
        if name != "all" and name not in SPLITS:
            raise ValueError(f"split is {name!r}; choose one of {', '.join(SPLITS)}, all")
        chosen = (self._splits == name) | (name == "all")
        return np.flatnonzero(chosen & (self.lengths > longer_than)).astype(np.int64)

    def episode(self, index: int, columns: Iterable[str] | None = None) -> Episode:
        """Actions and columns of episode `index`, 0 … N-1.

        Args:
            index: of the episode.
            columns: names of the columns besides the actions that are read; None for all.

        Raises:
            IndexError: there is no such episode.
            FileNotFoundError, ValueError: its data file is missing or does not fit the metadata.
        """
        names = {ACTION, *(self._info.shapes if columns is None else columns)}
        values = self._read_columns(index, [name for name in self._info.shapes if name in names])
        actions = values.pop(ACTION, np.zeros((self.lengths[index], 0)))
        actions = actions.reshape(len(actions), -1)
        if self.reading.action_scale is not None:
            actions = self.reading.action_scale.from_robot(actions)
        if STATE in values and self.reading.state_dimensions is not None:
            values[STATE] = values[STATE].reshape(len(actions), -1)[:, list(self.reading.state_dimensions)]
        return Episode(
            index=int(index),
            kind=self.kinds[index],
            success=bool(self.successes[index]),
            split=self._splits[index],
            actions=actions.astype(np.float32),
            columns=values,
        )

    def frames(self, index: int) -> np.ndarray:
        """The frames of episode `index`: (T, H, W, 3) uint8 RGB, of :attr:`image_size`.

        Raises:
            IndexError: there is no such episode.
            FileNotFoundError, ValueError: its video is missing, or has no picture of its own for one of the rows.
        """
        if index not in self._times:
            self._read_columns(index, [])
        views = [self._frames_of(index, camera) for camera in self.views]
        return views[0] if len(views) == 1 else np.concatenate(views, axis=2)

    def _frames_of(self, index: int, camera: str) -> np.ndarray:
        """What one camera saw, as :meth:`frames` says."""
        row, size = self._rows[index], self._info.image_size(camera)
        times = row[f"videos/{camera}/from_timestamp"] + self._times[index]
        frames = frames_at(self._video_of(row, camera), times, size, 1 / self.fps, f"episode {self.numbers[index]}")
        if self.reading.fit is None or self.reading.frame_size is None:
            return frames
        from world_models.data.frame_fit import fit_array  # with torch, which recorders of episodes do without

        return fit_array(frames, self.reading.fit, self.reading.frame_size)

    def check(self, columns: Iterable[str] = ()) -> None:
        """Check the rows of all episodes: files, indices, times, and the numbers of columns; no video is decoded.

        What was checked once is not looked at again. Looked at are the columns "action" and "next.success", where the
        dataset has them, and those that are named.

        Args:
            columns: names of further columns that will be used.

        Raises:
            FileNotFoundError: a data file or a video is missing.
            ValueError: something is not as it must be; the message names file, episode, frame, column, value and fix.
        """
        shapes = {name: shape for name, shape in self._info.shapes.items() if name in {ACTION, LABEL, *columns}}
        for name in columns:
            if name not in shapes:
                raise ValueError(f"{self.root} has no column {name!r}, but {', '.join(self._info.shapes)}; add it")
        shapes = {self._info.stored(name): shape for name, shape in shapes.items()}
        shapes = {name: shape for name, shape in shapes.items() if name not in self._checked}
        if not shapes and len(self._times) == len(self):
            return
        for index, row in enumerate(self._rows):
            for video in self._videos_of(row):
                if not video.is_file():
                    raise FileNotFoundError(self._missing(video, index))
        for path, episodes in tqdm(
            self._episodes_of_files().items(), desc="check rows", unit="file", delay=_SILENT_SECONDS
        ):
            times = check_file(path, episodes, shapes)
            self._times |= {self._positions[number]: of_episode for number, of_episode in times.items()}
        self._checked |= set(shapes)

    def times(self) -> list[np.ndarray]:
        """Timestamps of each episode's rows, ``(T,)`` float64, in seconds from its start; see :meth:`check`."""
        self.check()
        return [self._times[index] for index in range(len(self))]

    def fingerprint(self) -> str:
        """Hex digest of the content of every episode's files; changes when any of them does, or when one is added.

        Reads all files, at the speed of the disk. Copying or touching the folder does not change it.
        """
        return self.fingerprints()[-1]

    def fingerprints(self) -> list[str]:
        """Of the first episode alone, of the first two and so on up to all: of this dataset as it grew."""
        digest = hashlib.blake2b(digest_size=16)
        if changes := self.reading.changes():
            digest.update(json.dumps(changes, sort_keys=True).encode())
        seen: set[Path] = set()
        fingerprints = []
        for index, row in enumerate(self._rows):
            described = {name: value for name, value in row.items() if not name.startswith("meta/")}
            digest.update(json.dumps(described, sort_keys=True, default=str).encode())
            for path in (self._data_path(index), *self._videos_of(row)):
                if path not in seen:
                    seen.add(path)
                    digest.update(path.relative_to(self.root).as_posix().encode())
                    with path.open("rb") as file:
                        while block := file.read(1 << 20):
                            digest.update(block)
            fingerprints.append(digest.hexdigest())
        return fingerprints

    def _of_task(self, rows: list[Row]) -> list[Row]:
        """The rows of the task that is read; ValueError where there is none."""
        wanted = self.reading.instruction
        chosen = [row for row in rows if wanted is None or wanted in (row.get("tasks") or ())]
        if not chosen:
            raise ValueError(
                f"{self.root} has no episode of the task {wanted!r}, but of {', '.join(map(repr, self.instructions))}; "
                "pass one of these by --instruction"
            )
        return chosen

    def _present(self, rows: list[Row]) -> list[Row]:
        """The rows of those episodes that are read; FileNotFoundError where files of all are missing."""
        if not self.reading.skip_missing:
            return rows
        there = [row for row in rows if all(path.is_file() for path in (self._data_of(row), *self._videos_of(row)))]
        if not there:
            first = self._videos_of(rows[0])[0]
            raise FileNotFoundError(f"{self.root} has no episode with all its files; fetch {first} and the others")
        return there

    def _read_action_names(self) -> tuple[str, ...]:
        names, scale = self._info.action_names, self.reading.action_scale
        if scale is None:
            return names
        if len(names) != len(scale.rest):
            raise ValueError(
                f"{self.root} has {len(names)} action dimensions, the world's robot has {len(scale.rest)}: give data "
                "of the same robot"
            )
        return tuple(names[index] for index in scale.dimensions)

    def _read_labels(self) -> np.ndarray | None:
        """(N,) bool; None where the dataset does not say."""
        noted = noted_successes(self.root, self._rows)
        if noted is not None or LABEL not in self._info.shapes:
            return noted
        successes = np.zeros(len(self), bool)
        for path, episodes in self._episodes_of_files().items():
            labels = labels_of(path, episodes, self._info.shapes[LABEL])
            successes[[self._positions[episode.index] for episode in episodes]] = labels
        return successes

    def _read_places(self) -> list[EpisodeRows]:
        """Where each episode's rows lie."""
        return [
            EpisodeRows(number, row["dataset_from_index"] - self._starts[self._data_of(row)], row["length"])
            for number, row in zip(self.numbers, self._rows, strict=True)
        ]

    def _first_rows(self, rows: list[Row]) -> dict[Path, int]:
        """Dataset index of row 0 of each data file, the lowest of its episodes, also of those that are left out."""
        starts: dict[Path, int] = {}
        for row in rows:
            path, start = self._data_of(row), row["dataset_from_index"]
            starts[path] = min(start, starts.get(path, start))
        return starts

    @cached_property
    def _positions(self) -> dict[int, int]:
        """Position of each episode by its index on disk."""
        return {number: position for position, number in enumerate(self.numbers)}

    def _missing(self, path: Path, index: int) -> str:
        return (
            f"{path} is missing; fetch or collect episode {self.numbers[index]} again, or leave out what is missing by "
            "--skip-missing"
        )

    def _episodes_of_files(self) -> dict[Path, list[EpisodeRows]]:
        files: dict[Path, list[EpisodeRows]] = {}
        for index, place in enumerate(self._places):
            files.setdefault(self._data_path(index), []).append(place)
        return files

    def _read_columns(self, index: int, names: list[str]) -> dict[str, np.ndarray]:
        """Columns of one episode, each (T, *shape), ordered by frame_index; its times are kept."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} is not in {self.root}, which has 0..{len(self) - 1}")
        path = self._data_path(index)
        if not path.is_file():
            raise FileNotFoundError(self._missing(path, index))
        place = self._places[index]
        stored = {name: self._info.stored(name) for name in names}
        table = read_columns(path, [*ROW_COLUMNS, *stored.values()], place.first, place.length)
        order, self._times[int(index)] = order_of(table, path, place)
        for name in names:
            check_values(path, table, stored[name], self._info.shapes[name], {place.index})
        return {name: numbers(table, stored[name], self._info.shapes[name], path)[order] for name in names}

    def _data_path(self, index: int) -> Path:
        return self._data_of(self._rows[index])

    def _data_of(self, row: Row) -> Path:
        return self._info.data_path(row["data/chunk_index"], row["data/file_index"])

    def _videos_of(self, row: Row) -> list[Path]:
        return [self._video_of(row, camera) for camera in self.views]

    def _video_of(self, row: Row, camera: str) -> Path:
        video = f"videos/{camera}"
        return self._info.video_path(camera, row[f"{video}/chunk_index"], row[f"{video}/file_index"])
