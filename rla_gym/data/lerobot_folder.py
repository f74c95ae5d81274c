"""A LeRobotDataset folder, v2.0, v2.1 or v3.0, looked at as a whole: everything that is wrong, not the first alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from rla_gym.data.dimensions import check_dimensions, check_duplicates, check_finite, check_lengths, describe
from rla_gym.data.lerobot_layout import (
    FETCH,
    EpisodeEntry,
    looks_like_lerobot,
    read_entries,
    read_layout,
    read_task_words,
)
from rla_gym.data.lerobot_videos import CameraFacts, check_camera, check_cameras
from rla_gym.data.problem_list import ProblemList
from rla_gym.data.source import Problem, Source, SourceEpisode, SourceFacts
from world_models.data.column_names import ACTION_COLUMNS, STATE_COLUMNS, guess
from world_models.data.episode_checks import ROW_COLUMNS
from world_models.data.episode_writer import DEFAULT_FEATURES
from world_models.data.labels import LABEL, read_labels
from world_models.data.parquet_files import column_names, numbers, read_columns
from world_models.data.video_frames import frames_at

GOAL_FRAMES = "--success goal_frames"
_NO_NUMBERS = ("video", "image", "string")
_UNEVEN = 0.5
"""Most that a step may differ from the median step, as a share of it, as in world_models.data.episode_checks."""
_SAME_RATE = 0.01
_AT_ONCE = 128
"""Pictures that are decoded together."""
_SAYS_LITTLE = re.compile(r"\b(teleop\w*|record\w*|test\w*|untitled|default|dummy|todo|none)\b", re.IGNORECASE)
_SILENT_SECONDS = 3


@dataclass(frozen=True)
class _Rows:
    """The rows of one episode in their order: numbers ``(T, D)``, seconds ``(T,)`` and the label of the last row."""

    actions: np.ndarray | None
    state: np.ndarray | None
    times: np.ndarray
    success: bool | None


class LeRobotFolder(Source):
    """A LeRobotDataset, read past its problems, unlike :class:`world_models.data.episodes.EpisodeDataset`.

    Args:
        path: the folder that holds meta/info.json.

    Attributes:
        layout: where its files lie, and what it says of its columns.
        action_column, state_column: the columns that are taken for actions and proprioception; None without.
    """

    format = "LeRobotDataset"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._found = ProblemList()
        self.layout = read_layout(path, self._found)
        self._entries = read_entries(self.layout, self._found)
        self._tasks = read_task_words(self.layout, self._found)
        self.action_column = _choose(ACTION_COLUMNS, "action", self._columns)
        self.state_column = _choose(STATE_COLUMNS, "state", self._columns)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether there is a meta folder or are data files as LeRobot calls them."""
        return looks_like_lerobot(path)

    def facts(self) -> SourceFacts:
        """What the folder says of itself, and which columns are taken for what."""
        layout = self.layout
        details = {
            "version": layout.version, "robot": layout.robot, "task": "; ".join(self.task_words[:5]),
            "action column": self.action_column or "none", "state column": self.state_column or "none",
        }  # fmt: skip
        return SourceFacts(
            len(self._entries), layout.fps, layout.cameras, self._names(self.action_column),
            self._names(self.state_column), {name: value for name, value in details.items() if value},
        )  # fmt: skip

    @property
    def task_words(self) -> list[str]:
        """The tasks of all episodes in words, each once."""
        words = [*self._tasks.values(), *(task for entry in self._entries for task in entry.tasks)]
        return list(dict.fromkeys(words))

    @cached_property
    def cameras(self) -> list[CameraFacts]:
        """What the videos' headers say; problems with them are noted."""
        check_cameras(self.layout, self._found)
        return [check_camera(self.layout, self._entries, camera, self._found) for camera in self.layout.cameras]

    @cached_property
    def missing(self) -> set[int]:
        """Positions of the episodes that lack a file."""
        return {
            position
            for position, entry in enumerate(self._entries)
            if entry.data is None
            or not entry.data.is_file()
            or any(
                camera not in entry.videos or not entry.videos[camera][0].is_file() for camera in self.layout.cameras
            )
        }

    def problems(self) -> list[Problem]:
        """Everything that is wrong with description, tables, rows and videos; shows a bar where that takes long."""
        return self._all_problems

    @cached_property
    def _all_problems(self) -> list[Problem]:
        found = self._found
        if not self._entries:
            found.add(f"{self.path} has no episode", FETCH)
        rows = self._rows
        cameras = self.cameras
        self._check_columns()
        lengths = {entry.index: len(rows[entry.index].times) for entry in self._entries if entry.index in rows}
        total, there = self.layout.total_frames, sum(entry.length or 0 for entry in self._entries)
        if total is not None and total != there:
            what = f"meta/info.json says total_frames {total}, meta/episodes adds up to {there}"
            found.add(what, "nothing: the rows count", stops=False)
        check_lengths({entry.index: lengths[entry.index] for entry in self._usable(lengths)}, found)
        for column, what in ((self.action_column, "action"), (self.state_column, "state")):
            parts = [part.actions if what == "action" else part.state for part in rows.values()]
            check_dimensions(what, describe(self._names(column), [part for part in parts if part is not None]), found)
        check_duplicates({index: (part.actions, part.state) for index, part in rows.items()}, found)
        self._check_labels()
        self._check_tasks()
        for camera in cameras:
            if camera.height != camera.width:
                what = f"the pictures of {camera.key} are {camera.width} x {camera.height}, no squares"
                fix = "--fit letterbox (the whole picture between black bars), crop (its middle) or stretch"
                found.add(what, fix, stops=False)
        return found.problems()

    def episode(self, index: int) -> SourceEpisode:
        """Episode ``index``, 0 to N - 1, in the order of their numbers.

        Raises:
            IndexError: there is no such episode.
            ValueError: its rows cannot be read.
        """
        entry = self._entries[index]
        rows = self._rows.get(entry.index)
        if rows is None:
            raise ValueError(
                f"{entry.data or self.path} has no rows of episode {entry.index}; {FETCH}, or leave it out"
            )
        success = rows.success
        if entry.success is not None:
            success = bool(read_labels([entry.success])[0][0])
        frames = {
            camera: partial(self._frames, entry, camera, rows.times)
            for camera, (path, _) in entry.videos.items()
            if path.is_file()
        }
        actions, state = (None if part is None else part.astype(np.float64) for part in (rows.actions, rows.state))
        task = entry.tasks[0] if entry.tasks else next(iter(self._tasks.values()), "")
        return SourceEpisode(f"episode {entry.index}", frames, actions, state, success, task, rows.times)

    def picture(self, index: int, camera: str, row: int) -> np.ndarray:
        """The picture of one row of an episode, ``(H, W, 3)`` uint8 RGB; nothing else is decoded.

        Raises:
            IndexError: there is no such episode.
            FileNotFoundError, ValueError: its video is missing, damaged or too short.
        """
        entry = self._entries[index]
        return next(self._frames(entry, camera, self._rows[entry.index].times[row : row + 1]))

    def _frames(self, entry: EpisodeEntry, camera: str, times: np.ndarray) -> Iterator[np.ndarray]:
        """The pictures at these seconds of an episode, some at a time, so that long episodes fit in memory."""
        facts = next(facts for facts in self.cameras if facts.key == camera)
        path, begin = entry.videos[camera]
        step = 1 / (self.layout.fps or facts.fps or 1.0)
        for first in range(0, len(times), _AT_ONCE):
            part = begin + times[first : first + _AT_ONCE]
            yield from frames_at(path, part, (facts.height, facts.width), step, f"episode {entry.index}")

    @property
    def _columns(self) -> dict[str, tuple[int, ...] | None]:
        """Shape of one row, where it is known, of every column that should hold numbers."""
        return {
            name: self.layout.shape(name)
            for name, feature in self.layout.features.items()
            if name not in DEFAULT_FEATURES and feature.get("dtype") not in _NO_NUMBERS
        }

    def _names(self, column: str | None) -> tuple[str, ...]:
        if column is None:
            return ()
        return self.layout.names(column, self._widths.get(column) or int(np.prod(self._columns[column] or (0,))))

    @cached_property
    def _widths(self) -> dict[str, int]:
        """Numbers in a row of each column as the data files have it; filled as they are read."""
        return {}

    @cached_property
    def _rows(self) -> dict[int, _Rows]:
        """Rows by the number of their episode, of all that can be read; what is wrong with them is noted."""
        files: dict[Path, list[EpisodeEntry]] = {}
        for entry in self._entries:
            if entry.data is not None and not entry.data.is_file():
                first = str(entry.data.relative_to(self.path))
                fix = "--skip-missing leaves them out; or fetch them"
                self._found.add_episode(entry.index, "the data file is missing", fix, first=first, stops=False)
            elif entry.data is not None:
                files.setdefault(entry.data, []).append(entry)
        if self._entries and not files:
            self._found.add("all data files are missing", FETCH)
        rows: dict[int, _Rows] = {}
        for path, entries in tqdm(files.items(), desc="read rows", unit="file", delay=_SILENT_SECONDS):
            rows |= self._read_file(path, entries)
        return rows

    def _read_file(self, path: Path, entries: list[EpisodeEntry]) -> dict[int, _Rows]:
        """The rows of a data file's episodes; none where the file cannot be read."""
        name = str(path.relative_to(self.path))
        try:
            there = column_names(path)
            columns = [column for column in self._columns if column in there]
            known = [column for column in ROW_COLUMNS if column in there]
            table = read_columns(path, [*known, *columns])
        except (OSError, ValueError) as error:
            for entry in entries:
                what, fix = (
                    "the data file cannot be read",
                    "fetch them again, or delete these files and pass --skip-missing",
                )
                self._found.add_episode(entry.index, what, fix, first=str(error)[:200])
            return {}
        self._compare_columns(there, entries, name)
        keys = {column: self._values(table, column, (), path, entries) for column in ROW_COLUMNS}
        values = {column: self._values(table, column, self._columns[column], path, entries) for column in columns}
        owner, frame, time = (keys[column] for column in ROW_COLUMNS)
        firsts = [entry.first for entry in entries if entry.first is not None]
        rows = {}
        for entry in entries:
            mine = np.arange(table.num_rows) if owner is None else np.flatnonzero(owner == entry.index)
            begin = None if entry.first is None else entry.first - min(firsts)
            self._check_place(entry, mine, begin, table.num_rows, name)
            if not len(mine):
                continue
            order = mine if frame is None else mine[np.argsort(frame[mine], kind="stable")]
            if frame is not None:
                self._check_frames(entry, frame[order], name)
            times = np.arange(len(order)) / (self.layout.fps or 1.0)
            if time is not None:
                times = self._check_times(entry, time[order].astype(np.float64), times, name)
            rows[entry.index] = self._gather(entry, order, values, times, name)
        return rows

    def _compare_columns(self, there: Sequence[str], entries: list[EpisodeEntry], name: str) -> None:
        """Note columns that meta/info.json has and a data file has not, and the other way round."""
        described = [column for column, feature in self.layout.features.items() if feature.get("dtype") != "video"]
        for entry in entries:
            for column in {*described, *ROW_COLUMNS} - {*there}:
                used = column in (self.action_column, self.state_column, *ROW_COLUMNS)
                what, fix = (
                    f"the data file has no column {column!r}",
                    "remove it from meta/info.json, or fetch them again",
                )
                self._found.add_episode(entry.index, what, fix, first=name, stops=used)
            for column in {*there} - {*self.layout.features}:
                what, fix = f"meta/info.json does not describe the column {column!r}", "nothing: it is not read"
                self._found.add_episode(entry.index, what, fix, first=name, stops=False)

    def _values(
        self, table: pa.Table, column: str, shape: tuple[int, ...] | None, path: Path, entries: list[EpisodeEntry]
    ) -> np.ndarray | None:
        """A column ``(T, D)``, or ``(T,)`` where the shape is (); None where it is no array of numbers."""
        if column not in table.column_names or not table.num_rows:
            return None
        error: ValueError | None = None
        width = int(np.size(np.array(table.column(column)[0].as_py(), dtype=object)))
        for tried in dict.fromkeys((shape, _row_shape(table.column(column)[0].as_py()))):
            if tried is not None:
                try:
                    values = numbers(table, column, tried, path)
                except ValueError as wrong:
                    error = error or wrong
                else:
                    break
        else:
            values = None
        if error is not None:
            used = column in (self.action_column, self.state_column, *ROW_COLUMNS, LABEL)
            what, _, fix = str(error).replace(f"{path} has ", "").rpartition("; ")
            for entry in entries:
                first = str(path.relative_to(self.path))
                self._found.add_episode(
                    entry.index, f"the data file has {what}, for one,", fix, first=first, stops=used
                )
        if values is None or shape == ():
            return values
        values = values.reshape(table.num_rows, -1)
        width = self._widths.setdefault(column, values.shape[1])
        if width != values.shape[1]:
            for entry in entries:
                what, fix = f"the column {column!r} is not {width} wide as in other files", "leave the episodes out"
                self._found.add_episode(entry.index, what, fix, first=f"{values.shape[1]} in {path.name}")
            return None
        return values

    def _check_place(self, entry: EpisodeEntry, mine: np.ndarray, begin: int | None, total: int, name: str) -> None:
        """Note rows that are too few or too many, or elsewhere than the tables say."""
        fix = "fetch or record the episodes again, or leave them out"
        if entry.length is not None and len(mine) != entry.length:
            first = f"{name} has {len(mine)}, the table says {entry.length}"
            self._found.add_episode(
                entry.index, "the data file has other rows than meta/episodes says", fix, first=first
            )
        elif len(mine) and begin is not None and not np.array_equal(mine, np.arange(begin, begin + len(mine))):
            first = f"{name}, row {mine[0]} instead of {begin}"
            self._found.add_episode(entry.index, "the rows are not where dataset_from_index says", fix, first=first)
        elif self.layout.per_episode and len(mine) != total:
            first = f"{name} has {total - len(mine)} rows of others"
            self._found.add_episode(entry.index, "the data file holds rows of other episodes", fix, first=first)

    def _check_frames(self, entry: EpisodeEntry, frame: np.ndarray, name: str) -> None:
        gaps = np.flatnonzero(np.diff(frame) != 1)
        if len(gaps):
            first = f"{name} has frame_index {frame[gaps[0] + 1]} after {frame[gaps[0]]}"
            fix = "record the episodes again, or leave them out"
            self._found.add_episode(entry.index, "a row is missing or there twice", fix, first=first)

    def _check_times(self, entry: EpisodeEntry, times: np.ndarray, even: np.ndarray, name: str) -> np.ndarray:
        """The times, or even ones where they do not go on evenly."""
        steps = np.diff(times)
        step = float(np.median(steps[np.isfinite(steps)])) if np.isfinite(steps).any() else 0.0
        wrong = ~(np.abs(steps - step) <= _UNEVEN * abs(step)) | (steps <= 0)
        if not np.isfinite(times).all() or wrong.any():
            row = int(np.argmax(wrong)) if wrong.any() else int(np.argmax(~np.isfinite(times)))
            stamps = ", ".join(f"{value:g}" for value in times[row : row + 3])
            first = f"{name} has {stamps} s from frame {row} on, where most steps are {step:g} s"
            fix = "record the episodes again, or leave them out"
            self._found.add_episode(entry.index, "the timestamps do not grow evenly", fix, first=first)
            return even
        if self.layout.fps is not None and len(steps) and abs(step * self.layout.fps - 1) > _SAME_RATE:
            what = f"the timestamps have other steps than fps {self.layout.fps:g} in meta/info.json"
            first = f"{name} has {1 / step:.4g} rows/s"
            self._found.add_episode(entry.index, what, "correct fps in meta/info.json", first=first, stops=False)
        return times

    def _gather(
        self, entry: EpisodeEntry, order: np.ndarray, values: dict[str, np.ndarray | None], times: np.ndarray, name: str
    ) -> _Rows:
        """The numbers that are used, in order; those of all columns are looked at."""
        for column, part in values.items():
            if part is None or part.dtype.kind not in "f" or column == LABEL:
                continue
            used = column in (self.action_column, self.state_column)
            fix = "correct them, or leave the episodes out" if used else "nothing: the column is not used"
            if column == self.state_column:
                fix += "; or train with --no-proprioception"
            check_finite(
                entry.index,
                column,
                self.layout.names(column, part.shape[1]),
                part[order],
                self._found,
                stops=used,
                fix=fix,
            )
        success = None
        if (labels := values.get(LABEL)) is not None:
            read, wrong = read_labels(labels[order].reshape(-1))
            success = bool(read.reshape(len(order), -1)[-1].any())
            if wrong is not None:
                first = f"{name}, frame {wrong // labels.shape[1]}: {labels[order].reshape(-1)[wrong]}"
                what = f"{LABEL} has values that are no label, neither true, false, 1 nor 0,"
                self._found.add_episode(entry.index, what, "correct them, or leave the column out", first=first)
        actions, state = (
            None if column is None or (part := values.get(column)) is None else part[order]
            for column in (self.action_column, self.state_column)
        )
        return _Rows(actions, state, times, success)

    def _check_columns(self) -> None:
        """Note columns of other names than LeRobot's, and those that are not there."""
        found, names = self._found, ", ".join(self._columns) or "none"
        if self.action_column is None:
            found.add(f"no column of numbers looks like actions; there is {names}", "name it by --action-column")
        if self.state_column is None:
            what = f"no column of numbers looks like proprioception; there is {names}"
            found.add(what, "nothing: pictures alone do; or name one by --state-column", stops=False)
        for option, column, usual, known in (
            ("--action-column", self.action_column, ACTION_COLUMNS[0], ACTION_COLUMNS),
            ("--state-column", self.state_column, STATE_COLUMNS[0], STATE_COLUMNS),
        ):
            if column is not None and column != usual:
                fix = (
                    f"{option} {column}, if that is it" if column not in known else "nothing: it is found by that name"
                )
                found.add(f"the column is called {column!r}, not {usual!r}", fix, stops=False)
        for camera in self.layout.cameras:
            if not camera.startswith("observation.images."):
                what = f"the camera is called {camera!r}, not 'observation.images.NAME'"
                found.add(what, "nothing: --camera takes any name", stops=False)
        if len(self.layout.cameras) > 1:
            what = (
                f"there are {len(self.layout.cameras)} cameras, and a world has one: {', '.join(self.layout.cameras)}"
            )
            found.add(what, "choose the one that shows the most by --camera", stops=False)

    def _check_labels(self) -> None:
        """Note success that is not noted, no label, or always the same."""
        noted = [entry for entry in self._entries if entry.success is not None]
        labels = [rows.success for rows in self._rows.values() if rows.success is not None]
        if noted:
            for entry in self._entries:
                if read_labels([entry.success])[1] is not None:
                    what = "meta/episodes has a success that is neither true, false, 1 nor 0"
                    self._found.add_episode(entry.index, what, "correct it", first=repr(entry.success))
            labels = read_labels([entry.success for entry in self._entries])[0].tolist()
        if not labels:
            what = f"nothing says which episodes succeeded: no {LABEL}, and no success in meta/episodes"
            fix = f"{GOAL_FRAMES}: every episode is taken for a demonstration, its last picture for the goal"
            self._found.add(what, fix, stops=False)
        elif not any(labels):
            what = f"all {len(labels)} episodes are labelled as failures, so there is no demonstration"
            self._found.add(what, f"correct the labels, or {GOAL_FRAMES}", stops=False)
        elif all(labels):
            what = f"all {len(labels)} episodes are labelled as successes, so rewards see no failure"
            self._found.add(what, "record some failures, too", stops=False)

    def _check_tasks(self) -> None:
        words = self.task_words
        if len(words) > 1:
            what = f"there are {len(words)} tasks, and a world has one: {'; '.join(map(repr, words[:4]))}"
            self._found.add(what, "make a dataset of the episodes of each task; else the first names all", stops=False)
        for word in words:
            if not word.strip() or _SAYS_LITTLE.search(word):
                what = f"the task's words, {word!r}, say little"
                self._found.add(what, "say in meta/tasks what is done, as in 'press the button'", stops=False)

    def _usable(self, lengths: dict[int, int]) -> list[EpisodeEntry]:
        """The episodes with all their files and readable rows."""
        return [
            entry
            for position, entry in enumerate(self._entries)
            if position not in self.missing and entry.index in lengths
        ]


def _choose(candidates: tuple[str, ...], word: str, columns: dict[str, tuple[int, ...] | None]) -> str | None:
    """The column that a training guesses, else the first whose name has the word in it; never next.state and so on."""
    known = guess(candidates, columns)
    return known or next((name for name in columns if word in name.lower() and not name.startswith("next.")), None)


def _row_shape(value: object) -> tuple[int, ...]:
    """Shape of one row by the lists that it is made of."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)
