"""A folder of videos, one for each episode, with a table of actions beside each, or without."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from rla_gym.data.numbered_files import numbered_files
from rla_gym.data.source import Problem, Source, SourceEpisode, SourceFacts

SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")
CAMERA = "video"
_STATE = "state_"


class VideoFolder(Source):
    """Videos in a folder; ``pick_3.mp4`` has its actions in ``pick_3.csv`` or ``pick_3.npy``, a row for each picture.

    A table's first line names its columns. Those that begin with ``state_`` are proprioception, the others actions.

    Args:
        path: of the folder.
    """

    format = "folder of videos"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether videos lie in the folder itself."""
        return bool(numbered_files(path, SUFFIXES))

    @cached_property
    def videos(self) -> list[Path]:
        """The videos by the order of the numbers in their names."""
        return numbered_files(self.path, SUFFIXES)

    def facts(self) -> SourceFacts:
        """Rate of the first video, and columns of its table."""
        columns, _ = _table(self.videos[0])
        return SourceFacts(len(self.videos), _rate(self.videos[0]), (CAMERA,), *_split(columns))

    def problems(self) -> list[Problem]:
        """Tables that are missing, or have other columns, where the first video has one."""
        found, others, missing = [], [], []
        columns, _ = _table(self.videos[0])
        for video in self.videos:
            try:
                there, _ = _table(video)
            except ValueError as error:
                found.append(Problem(str(error), "correct the table"))
                continue
            if columns and not there:
                missing.append(video.stem)
            elif there != columns:
                others.append(video.stem)
        if not columns:
            what = f"no table of actions beside {self.videos[0].name}"
            found.append(Problem(what, f"write {self.videos[0].stem}.csv, one row for each picture", stops=False))
        if missing:
            found.append(
                Problem(f"{len(missing)} videos have no table: {', '.join(missing[:8])}", "add or remove them")
            )
        if others:
            what = f"{len(others)} tables have other columns than {self.videos[0].stem}: {', '.join(others[:8])}"
            found.append(Problem(what, "give all tables the same columns in the same order"))
        return found

    def episode(self, index: int) -> SourceEpisode:
        """Episode ``index``; see :class:`rla_gym.data.source.Source`."""
        video = self.videos[index]
        columns, values = _table(video)
        frames: dict[str, Callable[[], Iterator[np.ndarray]]] = {CAMERA: partial(_read, video)}
        if values is None:
            return SourceEpisode(video.stem, frames)
        of_state = np.array([column.startswith(_STATE) for column in columns], bool)
        parts = [values[:, ~of_state], values[:, of_state]]
        actions, state = (part if part.shape[1] else None for part in parts)
        return SourceEpisode(video.stem, frames, actions, state)


def _split(columns: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of actions, and of proprioception."""
    actions = tuple(column for column in columns if not column.startswith(_STATE))
    return actions, tuple(column.removeprefix(_STATE) for column in columns if column.startswith(_STATE))


def _table(video: Path) -> tuple[list[str], np.ndarray | None]:
    """Columns and numbers ``(T, D)`` float64 of the table beside a video; none where there is no table.

    Raises:
        ValueError: it holds something else than numbers.
    """
    table, array = video.with_suffix(".csv"), video.with_suffix(".npy")
    try:
        if table.is_file():
            with table.open(encoding="utf-8") as file:
                columns = [column.strip() for column in file.readline().split(",")]
                values = np.loadtxt(file, delimiter=",", ndmin=2, dtype=np.float64)
            if values.shape[1] != len(columns):
                raise ValueError(f"{len(columns)} columns are named, and rows have {values.shape[1]} numbers")
            return columns, values
        if array.is_file():
            values = np.load(array, allow_pickle=False).astype(np.float64)
            values = values.reshape(len(values), -1)
            return [f"action_{index}" for index in range(values.shape[1])], values
    except (ValueError, OSError, EOFError, UnicodeDecodeError) as error:
        name = table if table.is_file() else array
        raise ValueError(
            f"{name} is no table of numbers under a line of names: {' '.join(str(error).split())}"
        ) from error
    return [], None


def _rate(video: Path) -> float | None:
    import av  # here: looking at other formats needs none

    try:
        with av.open(os.path.abspath(video)) as container:
            rate = container.streams.video[0].average_rate if container.streams.video else None
            return None if rate is None else float(rate)
    except av.error.FFmpegError as error:
        raise ValueError(f"{video} cannot be opened ({error}); encode or fetch it again") from error


def _read(video: Path) -> Iterator[np.ndarray]:
    import av

    try:
        # An absolute path: in a relative one FFmpeg takes what stands before a colon for a protocol.
        with av.open(os.path.abspath(video)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, IndexError, AttributeError) as error:
        raise ValueError(f"{video} cannot be decoded ({error}); encode or fetch it again") from error
