"""A LeRobotDataset folder, v2.0, v2.1 or v3.0, looked at as a whole: everything that is wrong, not the first alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from rla_gym.data.dimensions import check_dimensions, check_duplicates, check_lengths, describe
from rla_gym.data.lerobot_layout import (
    FETCH,
    EpisodeEntry,
    looks_like_lerobot,
    read_entries,
    read_layout,
    read_task_words,
)
from rla_gym.data.lerobot_rows import EpisodeRows, RowReader, number_columns
from rla_gym.data.lerobot_videos import CameraFacts, check_camera, check_cameras, read_header
from rla_gym.data.problem_list import ProblemList
from rla_gym.data.source import Problem, Source, SourceEpisode, SourceFacts
from world_models.data.column_names import ACTION_COLUMNS, STATE_COLUMNS, guess
from world_models.data.labels import LABEL, read_labels
from world_models.data.video_frames import frames_at

GOAL_FRAMES = "--success goal_frames"
"""The flag for data without labels of success."""
_AT_ONCE = 128
"""Pictures that are decoded together."""
_SHOWS_LESS = re.compile("wrist|hand|gripper|depth", re.IGNORECASE)
"""In the keys of cameras that do not show the whole scene, or not in colours."""
_SAYS_LITTLE = re.compile(r"\b(teleop\w*|record\w*|test\w*|untitled|default|dummy|todo|none)\b", re.IGNORECASE)


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
        self._missing: dict[str | None, set[int]] = {}
        self.layout = read_layout(path, self._found)
        self._entries = read_entries(self.layout, self._found)
        self._tasks = read_task_words(self.layout, self._found)
        self._columns = number_columns(self.layout)
        self.action_column = _choose(ACTION_COLUMNS, "action", self._columns)
        self.state_column = _choose(STATE_COLUMNS, "state", self._columns)
        self._reader = RowReader(self.layout, self.action_column, self.state_column, self._found)

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
        """What the videos' headers say; problems with them are noted, and stop a training for the best camera alone."""
        check_cameras(self.layout, self._found)
        found = {camera: ProblemList() for camera in self.layout.cameras}
        facts = [check_camera(self.layout, self._entries, camera, of_camera) for camera, of_camera in found.items()]
        best = _best(facts)
        for camera, of_camera in found.items():
            for problem in of_camera.problems():
                self._found.add(problem.what, problem.fix, stops=problem.stops and camera == best)
        return facts

    def missing(self, camera: str | None) -> set[int]:
        """Positions of the episodes that lack their data file or the video of a camera."""
        if camera not in self._missing:
            self._missing[camera] = {
                position
                for position, entry in enumerate(self._entries)
                if not _is_there(entry.data) or (camera and not _is_there(entry.videos.get(camera, (None, 0.0))[0]))
            }
        return self._missing[camera]

    @property
    def best_camera(self) -> str | None:
        """The camera with the most videos, of several the first, those at a wrist or of depth last; None without."""
        return _best(self.cameras)

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
        read_header(path)  # which says clearly what cannot be decoded
        step = 1 / (self.layout.fps or facts.fps or 1.0)
        for first in range(0, len(times), _AT_ONCE):
            part = begin + times[first : first + _AT_ONCE]
            yield from frames_at(path, part, (facts.height, facts.width), step, f"episode {entry.index}")

    def _names(self, column: str | None) -> tuple[str, ...]:
        if column is None:
            return ()
        return self.layout.names(column, self._reader.widths.get(column) or int(np.prod(self._columns[column] or (0,))))

    @cached_property
    def _rows(self) -> dict[int, EpisodeRows]:
        """Rows by the number of their episode, of all that can be read; what is wrong with them is noted."""
        return self._reader.read(self._entries)

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
        """The episodes with the files of the best camera and readable rows."""
        return [
            entry
            for position, entry in enumerate(self._entries)
            if position not in self.missing(self.best_camera) and entry.index in lengths
        ]


def _best(cameras: Sequence[CameraFacts]) -> str | None:
    if not cameras:
        return None
    return min(cameras, key=lambda camera: (-camera.videos, bool(_SHOWS_LESS.search(camera.key)))).key


def _is_there(path: Path | None) -> bool:
    return path is not None and path.is_file()


def _choose(candidates: tuple[str, ...], word: str, columns: dict[str, tuple[int, ...] | None]) -> str | None:
    """The column that a training guesses, else the first whose name has the word in it; never next.state and so on."""
    known = guess(candidates, columns)
    return known or next((name for name in columns if word in name.lower() and not name.startswith("next.")), None)
