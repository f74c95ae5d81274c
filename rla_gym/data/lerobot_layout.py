"""Where the files of a LeRobotDataset lie, v2.0, v2.1 or v3.0, read on past everything that is wrong."""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rla_gym.data.problem_list import ProblemList
from world_models.data.episode_writer import CHUNK_SIZE, DATA_PATH, INFO_PATH, VIDEO_PATH, read_tasks
from world_models.data.parquet_files import read_columns
from world_models.files import read_json

FETCH = "fetch the dataset again"
_V2_DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_V2_VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_LARGEST = 1 << 40
"""No number of a file, a chunk or an episode is larger."""


@dataclass(frozen=True)
class Layout:
    """What `meta/info.json` says, or, where it says nothing that makes sense, what the files look like.

    Attributes:
        root: the dataset's folder.
        version: as written there, such as "v2.1"; "of no version" where there is none.
        per_episode: whether every episode has files of its own, as in v2.0 and v2.1.
        fps: rows per second; None where it does not say.
        features: column or camera -> its description.
        cameras: keys of the videos.
        total_episodes, total_frames: as written there; None where it does not say.
        robot: the robot's type, or "".
    """

    root: Path
    version: str
    per_episode: bool
    fps: float | None
    features: dict[str, dict[str, Any]]
    cameras: tuple[str, ...]
    total_episodes: int | None
    total_frames: int | None
    robot: str
    _chunk_size: int
    _data_path: str
    _video_path: str

    def data_path(self, **fields: int) -> Path:
        """A data file by the numbers of its pattern: chunk_index and file_index, or episode_index."""
        return self.root / self._data_path.format(**self._with_chunk(fields))

    def video_path(self, camera: str, **fields: int) -> Path:
        """A camera's video, by the same numbers."""
        return self.root / self._video_path.format(video_key=camera, **self._with_chunk(fields))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of one row of a column as written; None where that is no list of whole numbers."""
        shape = self.features.get(name, {}).get("shape")
        if isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape):
            return tuple(shape)
        return None

    def names(self, name: str, size: int) -> tuple[str, ...]:
        """Names of a column's dimensions, as written if there are so many, else ``name_0`` and so on."""
        names = self.features.get(name, {}).get("names")
        if isinstance(names, dict):
            names = [part for group in names.values() for part in (group if isinstance(group, list) else [group])]
        if isinstance(names, list) and len(names) == size:
            return tuple(map(str, names))
        return tuple(f"{name}_{index}" for index in range(size))

    def _with_chunk(self, fields: dict[str, int]) -> dict[str, int]:
        return {**fields, "episode_chunk": fields.get("episode_index", 0) // self._chunk_size}


@dataclass(frozen=True)
class EpisodeEntry:
    """What the tables of episodes say of one.

    Attributes:
        index: of the episode.
        length: its rows; None where nothing says.
        data: its data file; None where nothing says which.
        first: its first row among all rows of the dataset; None in files of its own.
        videos: camera -> its video and the seconds in it at which the episode begins.
        tasks: what the episode is of, in words.
        success: as noted there; None where it is not.
    """

    index: int
    length: int | None
    data: Path | None
    first: int | None
    videos: Mapping[str, tuple[Path, float]]
    tasks: tuple[str, ...] = ()
    success: Any = None


def looks_like_lerobot(path: Path) -> bool:
    """Whether a folder has the description of a LeRobotDataset, or at least its tables or its data files."""
    if not path.is_dir():
        return False
    meta = path / "meta"
    if (path / INFO_PATH).exists() or (meta / "episodes").is_dir() or (meta / "episodes.jsonl").exists():
        return True
    return next(path.glob("data/chunk-*/*.parquet"), None) is not None


def read_layout(root: Path, found: ProblemList) -> Layout:
    """The layout of a dataset; what is wrong with its description is added to ``found``."""
    info: dict[str, Any] = {}
    readable = True
    try:
        info = read_json(root / INFO_PATH, fix="fetch it again, or copy it from another dataset of the same recorder")
    except (OSError, ValueError) as error:
        what, _, fix = str(error).rpartition("; ")
        found.add(what, fix)
        readable = False
    version = str(info.get("codebase_version", "of no version"))
    per_episode = (root / "meta/episodes.jsonl").exists() or not (root / "meta/episodes").is_dir()
    if re.match(r"v?[23]\.", version):
        per_episode = version.lstrip("v").startswith("2")
    elif readable:
        found.add(
            f"{INFO_PATH} has codebase_version {info.get('codebase_version')!r}; v2.0, v2.1 and v3.0 are known",
            "convert it by LeRobot's own scripts, or correct the version",
        )
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        if readable:
            found.add(f"{INFO_PATH} has features {features!r:.60}, no description of each column", FETCH)
        features = _features_of_files(root)
    outside = [name for name in features if Path(name).is_absolute() or ".." in Path(name).parts]
    for name in outside:  # a camera's key becomes a part of a path
        found.add(f"{INFO_PATH} has a feature called {name!r}, which is no name", "rename it")
    features = {name: feature for name, feature in features.items() if name not in outside}
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        if readable:
            found.add(
                f"{INFO_PATH} has fps {fps!r}; rows per second are needed", "write the robot's control rate there"
            )
        fps = None
    chunk_size = info.get("chunks_size", CHUNK_SIZE)
    if type(chunk_size) is not int or chunk_size < 1:
        found.add(f"{INFO_PATH} has chunks_size {chunk_size!r}; files per folder are needed", FETCH)
        chunk_size = CHUNK_SIZE
    numbers = {"episode_chunk", "episode_index"} if per_episode else {"chunk_index", "file_index"}
    data_path, video_path = (_V2_DATA_PATH, _V2_VIDEO_PATH) if per_episode else (DATA_PATH, VIDEO_PATH)
    return Layout(
        root, version, per_episode, None if fps is None else float(fps), features,
        tuple(name for name, feature in features.items() if feature.get("dtype") == "video"),
        _count(info.get("total_episodes")), _count(info.get("total_frames")), str(info.get("robot_type") or ""),
        chunk_size, _pattern(info, "data_path", data_path, numbers, found),
        _pattern(info, "video_path", video_path, {*numbers, "video_key"}, found),
    )  # fmt: skip


def read_entries(layout: Layout, found: ProblemList) -> list[EpisodeEntry]:
    """The episodes that the tables name, ascending; of one that is there twice the first.

    Where there are no tables, they are gathered from the data files.
    """
    rows = (
        _read_jsonl(layout.root / "meta/episodes.jsonl", found) if layout.per_episode else _read_tables(layout, found)
    )
    entries: dict[int, EpisodeEntry] = {}
    make = _own_files_entry if layout.per_episode else _shared_files_entry
    for place, row in enumerate(rows):
        index = _count(row.get("episode_index"))
        if index is None:
            found.add(f"meta/episodes has episode_index {row.get('episode_index')!r} in row {place}", "number it")
        elif index in entries:
            found.add_episode(index, "meta/episodes has several rows", "remove the rows that are too many")
        else:
            entries[index] = make(layout, index, row, found)
    if not entries:
        entries = {entry.index: entry for entry in _entries_of_files(layout)}
    missing = sorted(
        set(range(max(max(entries, default=-1) + 1, min(layout.total_episodes or 0, 1 << 20)))) - {*entries}
    )
    for index in missing:
        found.add_episode(
            index,
            "meta/episodes has no row",
            "fetch the rest, or number the episodes 0, 1, 2 and correct total_episodes",
        )
    return [entries[index] for index in sorted(entries)]


def read_task_words(layout: Layout, found: ProblemList) -> dict[int, str]:
    """Tasks in words by their index; empty where none can be read."""
    try:
        if not layout.per_episode:
            return dict(enumerate(read_tasks(layout.root)))
    except (OSError, ValueError) as error:
        found.add(f"the tasks cannot be read: {error}", FETCH)
        return {}
    rows = _read_jsonl(layout.root / "meta/tasks.jsonl", found)
    return {index: str(row.get("task", "")) for row in rows if (index := _count(row.get("task_index"))) is not None}


def leave_out(entries: Sequence[EpisodeEntry]) -> str:
    """How to leave single episodes out of a training, in words: it depends on whether they share their files."""
    if len({entry.data for entry in entries}) == len(entries):
        return "move their files away and pass --skip-missing"
    return "leave them out of data and meta/episodes"


def data_files(root: Path) -> list[Path]:
    """All data files of a dataset; hidden ones, which file managers and archives leave behind, are none."""
    return [path for path in sorted(root.glob("data/*/*.parquet")) if not path.name.startswith(".")]


def _own_files_entry(layout: Layout, index: int, row: dict[str, Any], found: ProblemList) -> EpisodeEntry:
    videos = {camera: (layout.video_path(camera, episode_index=index), 0.0) for camera in layout.cameras}
    length, path = _length(row, index, found), layout.data_path(episode_index=index)
    return EpisodeEntry(index, length, path, None, videos, _words(row.get("tasks")), row.get("success"))


def _shared_files_entry(layout: Layout, index: int, row: dict[str, Any], found: ProblemList) -> EpisodeEntry:
    def place(prefix: str) -> dict[str, int] | None:
        numbers = {name: _count(row.get(f"{prefix}/{name}")) for name in ("chunk_index", "file_index")}
        known = {name: number for name, number in numbers.items() if number is not None}
        if len(known) < len(numbers):
            what = f"meta/episodes does not say in {prefix}/chunk_index and {prefix}/file_index which file"
            found.add_episode(index, what, FETCH)
            return None
        return known

    data = place("data")
    videos = {}
    for camera in layout.cameras:
        numbers, begin = place(f"videos/{camera}"), row.get(f"videos/{camera}/from_timestamp")
        if isinstance(begin, bool) or not isinstance(begin, int | float) or not math.isfinite(begin):
            what = f"meta/episodes has no seconds in videos/{camera}/from_timestamp"
            found.add_episode(index, what, FETCH, first=repr(begin))
            begin = 0.0
        if numbers is not None:
            videos[camera] = (layout.video_path(camera, **numbers), float(begin))
    first = _count(row.get("dataset_from_index"))
    if first is None:
        found.add_episode(index, "meta/episodes has no dataset_from_index", FETCH)
    return EpisodeEntry(
        index, _length(row, index, found), None if data is None else layout.data_path(**data), first, videos,
        _words(row.get("tasks")), row.get("success"),
    )  # fmt: skip


def _entries_of_files(layout: Layout) -> list[EpisodeEntry]:
    """Episodes by what the data files hold, without their videos where these are shared."""
    entries: dict[int, EpisodeEntry] = {}
    for path in data_files(layout.root):
        try:
            owners = read_columns(path, ["episode_index"]).column(0).to_pylist()
        except (OSError, ValueError):
            continue
        for index in {index for index in owners if _count(index) is not None} - {*entries}:
            videos = {}
            if layout.per_episode:
                videos = {camera: (layout.video_path(camera, episode_index=index), 0.0) for camera in layout.cameras}
            entries[index] = EpisodeEntry(index, None, path, None, videos)
    return [entries[index] for index in sorted(entries)]


def _read_tables(layout: Layout, found: ProblemList) -> list[dict[str, Any]]:
    """Rows of meta/episodes, without the statistics."""
    rows: list[dict[str, Any]] = []
    paths = [path for path in sorted(layout.root.glob("meta/episodes/*/*.parquet")) if not path.name.startswith(".")]
    if not paths:
        found.add(f"{layout.root} has no table in meta/episodes", f"{FETCH}, or finish its recording")
    for path in paths:
        try:
            names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
            rows += read_columns(path, names).to_pylist()
        except (OSError, ValueError, pa.ArrowException) as error:
            found.add(f"{path.relative_to(layout.root)} cannot be read ({_line(error)})", FETCH)
    return rows


def _read_jsonl(path: Path, found: ProblemList) -> list[dict[str, Any]]:
    """The objects of a file with one in every line; lines that hold none are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        found.add(f"{path} cannot be read ({_line(error)})", FETCH)
        return []
    rows, wrong = [], []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            wrong.append(number)
        elif row:
            rows.append(row)
    if wrong:
        found.add(f"{path} has no JSON object in line {wrong[0]}, and {len(wrong)} such lines in all", FETCH)
    return rows


def _features_of_files(root: Path) -> dict[str, dict[str, Any]]:
    """Columns by the first data file that can be read, and cameras by the folders of videos."""
    features: dict[str, dict[str, Any]] = {}
    for path in data_files(root)[:8]:
        try:
            schema = pq.read_schema(path)
        except (OSError, pa.ArrowException):
            continue
        features = {name: {"dtype": "unknown"} for name in schema.names}
        break
    for video in sorted(root.glob("videos/*/*/*.mp4")):
        names = video.relative_to(root).parts[1:3]
        features[names[1] if names[0].startswith("chunk-") else names[0]] = {"dtype": "video"}
    return features


def _pattern(info: dict[str, Any], name: str, default: str, fields: set[str], found: ProblemList) -> str:
    """A file name's pattern: these fields alone, with a few digits each, inside the dataset's folder."""
    pattern = info.get(name)
    if pattern is None:
        return default
    try:
        if not isinstance(pattern, str) or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ValueError
        for _, field, form, conversion in string.Formatter().parse(pattern):
            digits = r"(0?\d)?d?" if field != "video_key" else ""
            if field is not None and (field not in fields or conversion or not re.fullmatch(digits, form or "")):
                raise ValueError
    except ValueError:
        found.add(f"{INFO_PATH} has {name} {pattern!r:.100}, no path of {', '.join(sorted(fields))}", FETCH)
        return default
    return str(pattern)


def _length(row: dict[str, Any], index: int, found: ProblemList) -> int | None:
    length = _count(row.get("length"))
    if not length:
        found.add_episode(index, f"meta/episodes has length {row.get('length')!r}, not 1 or more rows", FETCH)
        return None
    return length


def _count(value: Any) -> int | None:
    """A whole number of 0 or more; None for anything else."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < _LARGEST
        or value != value // 1
    ):
        return None
    return int(value)


def _words(tasks: Any) -> tuple[str, ...]:
    if isinstance(tasks, str):
        return (tasks,)
    return tuple(map(str, tasks)) if isinstance(tasks, list) else ()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
