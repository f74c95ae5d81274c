"""A folder of mp4 files, one episode each, with or without a table of actions beside each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from rla_gym.data.lerobot_videos import VideoHeader, read_header
from rla_gym.data.problem_list import ProblemList
from rla_gym.data.readers.action_tables import TABLES, ActionTable, read_table
from rla_gym.data.readers.episode_shapes import EpisodeShape, check_shapes
from rla_gym.data.readers.hdf5 import natural_order
from rla_gym.data.source import Problem, Source, SourceEpisode, SourceFacts

CAMERA = "video"
"""The one camera of a folder of videos."""
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
"""What an mp4 file begins with. A playlist of the same ending would make FFmpeg open what it names."""
_SAME_RATE = 0.01
"""Rates that differ by a smaller share are the same."""


class Videos(Source):
    """Videos in a folder, in the order of the numbers in their names.

    The table of ``pick_1.mp4`` is ``pick_1.csv``, ``.parquet`` or ``.npy``, a row per picture; see
    :func:`rla_gym.data.readers.action_tables.read_table`.

    Args:
        path: of the folder.
    """

    format = "folder of mp4 files"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._videos = _videos_in(path)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it is a folder with an mp4 file right inside."""
        return path.is_dir() and bool(_videos_in(path))

    def facts(self) -> SourceFacts:
        """What the headers of the videos and of the tables say; the rate is None where videos differ."""
        rates = [header.fps for header in self._headers if isinstance(header, VideoHeader) and header.fps]
        alike = bool(rates) and max(rates) <= min(rates) * (1 + _SAME_RATE)
        tables = [table for table in self._tables if isinstance(table, ActionTable)]
        return SourceFacts(
            len(self._videos), rates[0] if alike else None, (CAMERA,),
            tables[0].action_names if tables else (), tables[0].state_names if tables else (),
            {"tables": f"{len(tables)} of {len(self._videos)}"},
        )  # fmt: skip

    def problems(self) -> list[Problem]:
        """Videos that cannot be opened, tables that are missing or do not go with them."""
        found = ProblemList()
        shapes = []
        for index, (path, header) in enumerate(zip(self._videos, self._headers, strict=True)):
            table = self._tables[index]
            if isinstance(table, str):
                fix = "correct the table, or leave the episodes out"
                found.add_episode(index, "the table cannot be read", fix, first=table)
            known = table if isinstance(table, ActionTable) else None
            if not isinstance(header, VideoHeader):
                fix = "encode or fetch them again, or leave the episodes out"
                found.add_episode(index, "the video cannot be opened", fix, first=header)
                continue
            shapes.append(
                EpisodeShape(
                    path.name, _shape(known.actions if known else None), _shape(known.state if known else None),
                    {CAMERA: header.pictures}, {CAMERA: (header.height, header.width)},
                )
            )  # fmt: skip
        check_shapes(shapes, found)
        names = {(t.action_names, t.state_names) for t in self._tables if isinstance(t, ActionTable)}
        if len(names) > 1:
            found.add(f"the tables in {self.path} name other columns in other files", "give all the same columns")
        rates = sorted({h.fps for h in self._headers if isinstance(h, VideoHeader) and h.fps})
        if len(rates) > 1 and rates[-1] > rates[0] * (1 + _SAME_RATE):
            words = ", ".join(f"{rate:g}" for rate in rates[:6])
            found.add(f"the videos in {self.path} have {words} pictures/s", "encode them alike, or in several folders")
        if not any(self._tables):
            what = f"{self.path} has no table of actions beside its videos"
            fix = f"put one beside each, such as {self._videos[0].stem}.csv; without actions no world can be trained"
            found.add(what, fix, stops=False)
        return found.problems()

    def episode(self, index: int) -> SourceEpisode:
        """Video ``index`` with its table.

        Raises:
            IndexError: there is no such episode.
            ValueError: its table cannot be read.
        """
        path, table = self._videos[index], self._tables[index]
        if isinstance(table, str):
            raise ValueError(table)
        frames = {CAMERA: partial(pictures, path)}
        if table is None:
            return SourceEpisode(path.name, frames)
        return SourceEpisode(path.name, frames, table.actions, table.state, table.success)

    @cached_property
    def _headers(self) -> list[VideoHeader | str]:
        """Each video's header, or what is wrong with it."""
        headers: list[VideoHeader | str] = []
        for path in self._videos:
            try:
                _check_mp4(path)
                headers.append(read_header(path))
            except (OSError, ValueError) as error:
                headers.append(str(error))
        return headers

    @cached_property
    def _tables(self) -> list[ActionTable | str | None]:
        """Each video's table, None without, or what is wrong with it."""
        tables: list[ActionTable | str | None] = []
        for path in self._videos:
            beside = [place for ending in TABLES if (place := path.with_suffix(ending)).is_file()]
            try:
                if len(beside) > 1:
                    names = " and ".join(place.name for place in beside)
                    raise ValueError(f"{path} has several tables, {names}; keep one")
                tables.append(read_table(beside[0]) if beside else None)
            except (OSError, ValueError) as error:
                tables.append(str(error))
        return tables


def pictures(path: Path) -> Iterator[np.ndarray]:
    """The pictures of an mp4 file in order, each ``(H, W, 3)`` uint8 RGB.

    Raises:
        OSError: there is no such file.
        ValueError: it is no mp4, or cannot be decoded.
    """
    _check_mp4(path)
    import av

    try:
        # An absolute path: in a relative one FFmpeg takes what stands before a colon for a protocol.
        with av.open(os.path.abspath(path), format="mp4") as container:
            for frame in container.decode(container.streams.video[0]):
                yield frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} cannot be decoded ({error}); encode or fetch it again") from error


def _check_mp4(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(8)[4:] not in _BOXES:
            raise ValueError(f"{path} is no mp4 file, whatever its name; encode or fetch it again")


def _videos_in(folder: Path) -> list[Path]:
    videos = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".mp4" and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(videos, key=lambda path: natural_order(path.name))


def _shape(values: np.ndarray | None) -> tuple[int, int] | None:
    return None if values is None else (values.shape[0], values.shape[1])
