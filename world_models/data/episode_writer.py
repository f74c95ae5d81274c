"""Writing of episodes in the LeRobotDataset v3.0 layout: one parquet and one mp4 per episode.

One file pair per episode is the layout's own special case of "many episodes per file". It lets several processes
write different episodes at once, lets an interrupted collection resume, and makes reading random access.

An episode exists when its parquet file exists: the video is renamed into place first, the parquet last. What the
metadata needs (kind, success, seed, split, statistics) rides in the parquet footer, so `EpisodeWriter.finish` makes
`meta/` from the episode files alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import uuid
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from world_models.data.episode_statistics import (
    column_statistics,
    image_statistics,
    merge_statistics,
    shift_statistics,
)
from world_models.data.parquet_files import numbers, read_columns
from world_models.disk_space import clear_disk_errors
from world_models.files import read_json

CODEBASE_VERSION = "v3.0"
CHUNK_SIZE = 1000
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

# Columns that every dataset of this layout has; all have shape (1,).
DEFAULT_FEATURES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
BOOLEAN_COLUMNS = ("next.success", "next.done")
_FOOTER_KEY = b"rla_gym.episode"
_TEMPORARY_SUFFIX = ".tmp"
# x264's AVX-512 code (PyAV 18.1) encodes the same frames otherwise now and then, where processes are preempted: 67 of
# 11,284 small videos, against none of as many each with AVX2, AVX and SSE2. SSE4.2 gives AVX2's bytes, 3 % slower.
_SAME_BYTES = {"x264-params": "asm=SSE4.2"} if platform.machine() in ("x86_64", "AMD64") else {}
# This salt puts the first validation and the first report episode among the first four indices,
# so that even a dataset of a handful of episodes has all three splits.
_SPLIT_SALT = "split-34"


def split_of(episode_index: int) -> str:
    """The split of an episode: "train", "validation" or "report", from nothing but its index.

    Of every ten consecutive indices (0–9, 10–19, …) one is validation and one is report, at places that a hash
    chooses, so the proportions are 80/10/10 and appended episodes never move older ones.

    Raises ValueError if `episode_index` is negative.
    """
    if episode_index < 0:
        raise ValueError(f"episode_index is {episode_index}; it must be 0 or more")
    block, place = divmod(int(episode_index), 10)
    digest = hashlib.sha256(f"{_SPLIT_SALT}:{block}".encode()).digest()
    validation = int.from_bytes(digest[:8], "big") % 10
    report = (validation + 1 + int.from_bytes(digest[8:16], "big") % 9) % 10
    return "validation" if place == validation else "report" if place == report else "train"


class EpisodeWriter:
    """Writes episodes into a folder; safe from several processes as long as they write different indices.

    Args:
        root: the dataset's folder; made if it does not exist.
        fps: frames (and actions) per second, a positive whole number.
        instruction: the task in words, one for the whole dataset.
        camera: the video's key, such as "observation.images.agentview".
        image_size: height and width in pixels, or one number for square frames.
        action_names: one name per action dimension, A in all.
        columns: name -> shape of one row of every further column, such as {"observation.state": (4,)}. They are
            stored as float32, "next.success" and "next.done" as bool.
        robot_type: the robot's name, or None.
        pixel_format: of the video. 4:4:4 by default: 4:2:0 smears the few pixels of a small coloured object.
        crf: constant rate factor of libx264, 0 (lossless) to 51.
        gop: frames from one key frame to the next; short, so that a frame is found without decoding the episode.

    Raises:
        ValueError: a parameter is malformed, or `root` holds a dataset that was made with other parameters.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        fps: int,
        instruction: str,
        camera: str,
        image_size: int | tuple[int, int],
        action_names: tuple[str, ...] | list[str],
        columns: Mapping[str, tuple[int, ...]],
        robot_type: str | None = None,
        pixel_format: str = "yuv444p",
        crf: int = 10,
        gop: int = 8,
    ) -> None:
        self.root = Path(root)
        self.fps = int(fps)
        self.instruction = instruction
        self.camera = camera
        height, width = (image_size, image_size) if isinstance(image_size, (int, np.integer)) else image_size
        self.image_size = (int(height), int(width))
        self.action_names = tuple(action_names)
        self.columns = {name: tuple(int(n) for n in shape) for name, shape in columns.items()}
        self.robot_type = robot_type
        self.pixel_format = pixel_format
        self.crf = int(crf)
        self.gop = int(gop)
        self._check_parameters(fps)
        self.features = self._features()
        self._open()

    def has(self, index: int) -> bool:
        """Whether episode `index` is completely on disk."""
        return self._path(DATA_PATH, index).is_file()

    def write(
        self,
        index: int,
        frames: np.ndarray,
        actions: np.ndarray,
        columns: Mapping[str, np.ndarray],
        *,
        kind: str,
        success: bool | None,
        seed: int | None,
    ) -> None:
        """Writes one episode of T steps; after an interruption at any point it is either complete or absent.

        Args:
            index: the episode's index, 0 or more; indices may be written in any order.
            frames: (T, H, W, 3) uint8 RGB; frame t is seen before action t.
            actions: (T, A), stored as float32.
            columns: name -> (T, *shape), exactly the names given to the constructor.
            kind: how the episode was made, such as "expert" or "near_miss".
            success: whether the task was done at the episode's end; None where nobody knows, for all episodes.
            seed: from which the episode was made, in the range of int64; None for what was made from none.

        Raises ValueError if an argument does not fit the dataset or the episode is there already.
        """
        frames, table_columns = self._check_episode(index, frames, actions, columns, kind, seed)
        length = len(frames)
        rows = {
            **table_columns,
            "timestamp": (np.arange(length) / self.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": np.arange(length),  # counted from the episode's start until finish() knows all lengths
            "task_index": np.zeros(length, np.int64),
        }
        statistics = {name: column_statistics(values) for name, values in rows.items()}
        statistics[self.camera] = image_statistics(frames)
        footer = {
            "kind": kind,
            "success": None if success is None else bool(success),
            "seed": None if seed is None else int(seed),
            "split": split_of(index),
            "length": length,
            "from_index": 0,
            "stats": statistics,
        }
        _replace(self._path(VIDEO_PATH, index), lambda path: self._encode(path, frames))
        _replace(self._path(DATA_PATH, index), lambda path: pq.write_table(_table(rows, footer), path))

    def finish(self) -> None:
        """Writes meta/{info.json, stats.json, tasks.parquet, episodes/} from the episodes on disk.

        May be called again after more episodes were written. Call it when no process is writing: it also removes
        what interrupted writes left behind.

        Raises:
            ValueError: no episode is there, an index between 0 and the highest is missing, or a file's columns differ.
            FileNotFoundError: an episode's video is missing.
        """
        for leftover in self.root.glob(f"*/**/.*{_TEMPORARY_SUFFIX}"):
            leftover.unlink()
        count = self._count()
        episodes: list[dict[str, Any]] = []
        all_statistics: list[dict[str, dict[str, Any]]] = []
        total = 0
        for index in range(count):
            footer = self._settle(index, total)
            shift_statistics(footer["stats"]["index"], total)
            episodes.append(self._episode_row(index, footer, total))
            all_statistics.append(footer["stats"])
            total += footer["length"]

        table = pa.Table.from_pylist(episodes)
        _replace(
            self.root / EPISODES_PATH.format(chunk_index=0, file_index=0), lambda path: pq.write_table(table, path)
        )
        statistics = {name: merge_statistics([s[name] for s in all_statistics]) for name in all_statistics[0]}
        _write_json(self.root / STATS_PATH, statistics)
        self._write_tasks()
        # Last: the totals in info.json declare the rest to be there.
        _write_json(self.root / INFO_PATH, self._info(count, total))

    def _check_parameters(self, fps: int) -> None:
        if self.fps != fps or self.fps < 1:
            raise ValueError(f"fps is {fps!r}; it must be a whole number of 1 or more")
        if not self.instruction:
            raise ValueError("instruction is empty; say in words what the task is")
        if not self.camera.startswith("observation.images."):
            raise ValueError(f"camera is {self.camera!r}; give its key, such as 'observation.images.{self.camera}'")
        if min(self.image_size) < 1:
            raise ValueError(f"image_size is {self.image_size}; height and width must be 1 or more")
        import av

        formats = [video_format.name for video_format in av.Codec("libx264", "w").video_formats or ()]
        if self.pixel_format not in formats:
            raise ValueError(f"pixel_format is {self.pixel_format!r}; libx264 has {', '.join(formats)}")
        if "444" not in self.pixel_format and any(side % 2 for side in self.image_size):
            raise ValueError(f"image_size is {self.image_size}; {self.pixel_format} needs even sides, yuv444p does not")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf is {self.crf}; it must be 0 (lossless) to 51")
        if self.gop < 1:
            raise ValueError(f"gop is {self.gop}; it must be 1 or more frames")
        if not self.action_names:
            raise ValueError("action_names is empty; name every action dimension")
        for name, shape in self.columns.items():
            if "/" in name or name in DEFAULT_FEATURES or name in ("action", self.camera):
                raise ValueError(f"columns has {name!r}; choose a name without '/' that the layout does not use itself")
            if len(shape) != 1 or shape[0] < 1:
                raise ValueError(f"columns[{name!r}] is {shape}; give one positive dimension, such as (4,)")

    def _features(self) -> dict[str, dict[str, Any]]:
        """The "features" of info.json."""
        height, width = self.image_size
        video = {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": self.pixel_format,
            "video.is_depth_map": False,
            "video.fps": self.fps,
            "video.channels": 3,
            "has_audio": False,
        }
        names = ["height", "width", "channels"]
        features: dict[str, dict[str, Any]] = {
            self.camera: {"dtype": "video", "shape": [height, width, 3], "names": names, "info": video},
            "action": {"dtype": "float32", "shape": [len(self.action_names)], "names": list(self.action_names)},
        }
        for name, shape in self.columns.items():
            dtype = "bool" if name in BOOLEAN_COLUMNS else "float32"
            features[name] = {"dtype": dtype, "shape": list(shape), "names": None}
        for name, dtype in DEFAULT_FEATURES.items():
            features[name] = {"dtype": dtype, "shape": [1], "names": None}
        return features

    def _info(self, episodes: int, frames: int) -> dict[str, Any]:
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": self.robot_type,
            "total_episodes": episodes,
            "total_frames": frames,
            "total_tasks": 1,
            "chunks_size": CHUNK_SIZE,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{episodes}"} if episodes else {},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": self.features,
        }

    def _open(self) -> None:
        """Declares a new dataset, or checks that the one in `root` was made with the same parameters."""
        info_path = self.root / INFO_PATH
        if not info_path.is_file():
            if any(self.root.glob("data/chunk-*/file-*.parquet")):
                raise ValueError(f"{self.root} holds episodes but no {INFO_PATH}; restore it or write to a new folder")
            self._write_tasks()
            _write_json(info_path, self._info(0, 0))
        # Read back also what was just written: another process may have opened the folder in between.
        info: dict[str, Any] = read_json(info_path, fix="restore it, or write to a new folder")
        info["instruction"] = read_tasks(self.root)[0]
        wanted = {**self._info(0, 0), "instruction": self.instruction}
        for name in ("codebase_version", "data_path", "video_path", "chunks_size", "fps", "robot_type", "instruction"):
            self._same(name, info.get(name), wanted[name])
        for name in {**info["features"], **self.features}:
            self._same(f"features[{name!r}]", info["features"].get(name), self.features.get(name))

    def _same(self, name: str, present: Any, wanted: Any) -> None:
        if present != wanted:
            raise ValueError(
                f"{self.root} holds a dataset whose {name} is {present!r}, not {wanted!r}; "
                "use the same parameters to continue it, or another folder"
            )

    def _check_episode(
        self,
        index: int,
        frames: np.ndarray,
        actions: np.ndarray,
        columns: Mapping[str, np.ndarray],
        kind: str,
        seed: int | None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The frames and the table's own columns, checked and cast."""
        if index < 0:
            raise ValueError(f"index is {index}; it must be 0 or more")
        if self.has(index):
            raise ValueError(f"episode {index} is in {self.root} already; ask has({index}) before making it")
        if not kind:
            raise ValueError(f"kind of episode {index} is empty; name how it was made, such as 'expert'")
        if seed is not None and not -(2**63) <= seed < 2**63:
            raise ValueError(f"seed of episode {index} is {seed}; it must fit into int64")
        frames = np.asarray(frames)
        shape = (*self.image_size, 3)
        if frames.ndim != 4 or frames.shape[1:] != shape or frames.dtype != np.uint8 or len(frames) == 0:
            raise ValueError(
                f"frames of episode {index} are {frames.dtype} {frames.shape}; they must be uint8 (T, {shape[0]}, "
                f"{shape[1]}, 3) with T of 1 or more"
            )
        if set(columns) != set(self.columns):
            raise ValueError(
                f"columns of episode {index} are {sorted(columns)}; the dataset has {sorted(self.columns)}; give these"
            )
        checked = {}
        for name, values in {"action": actions, **columns}.items():
            feature = self.features[name]
            values = np.asarray(values)
            expected = (len(frames), *feature["shape"])
            if values.shape != expected:
                raise ValueError(
                    f"{name!r} of episode {index} has shape {values.shape}; {expected} is needed, a row per frame"
                )
            values = values.astype(feature["dtype"])
            if not np.isfinite(values).all():
                raise ValueError(f"{name!r} of episode {index} holds NaN or infinity; fix it before writing")
            checked[name] = values
        return frames, checked

    def _path(self, template: str, index: int) -> Path:
        chunk, file = divmod(index, CHUNK_SIZE)
        return self.root / template.format(video_key=self.camera, chunk_index=chunk, file_index=file)

    def _encode(self, path: Path, frames: np.ndarray) -> None:
        import av

        options = {"crf": str(self.crf), "g": str(self.gop), "bf": "0", **_SAME_BYTES}
        # An absolute path: in a relative one FFmpeg takes what stands before a colon for a protocol.
        with av.open(os.path.abspath(path), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=self.fps, options=options)
            stream.height, stream.width = self.image_size
            stream.pix_fmt = self.pixel_format
            stream.codec_context.thread_count = 1  # the same bytes on any number of cores; these are for other episodes
            for time, rgb in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, self.fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())

    def _count(self) -> int:
        """The number of episodes on disk, contiguous from 0."""
        indices = set()
        for path in self.root.glob("data/chunk-*/file-*.parquet"):
            chunk, file = path.parent.name.removeprefix("chunk-"), path.stem.removeprefix("file-")
            indices.add(int(chunk) * CHUNK_SIZE + int(file))
        if not indices:
            raise ValueError(f"{self.root} holds no episode; write some before finish()")
        missing = sorted(set(range(max(indices))) - indices)
        if missing:
            raise ValueError(
                f"{self.root} lacks episodes {_abbreviate(missing)} of 0..{max(indices)}; write them before finish()"
            )
        return len(indices)

    def _settle(self, index: int, from_index: int) -> dict[str, Any]:
        """Makes the file's "index" column count from `from_index`; returns the episode's footer."""
        path = self._path(DATA_PATH, index)
        if not self._path(VIDEO_PATH, index).is_file():
            raise FileNotFoundError(f"{self._path(VIDEO_PATH, index)} is missing; delete {path} and collect it again")
        schema = pq.read_schema(path)
        names = [name for name in self.features if name != self.camera]
        if _FOOTER_KEY not in (schema.metadata or {}) or schema.names != names:
            raise ValueError(f"{path} was not written with these columns; delete it and collect episode {index} again")
        footer = json.loads(schema.metadata[_FOOTER_KEY])
        if footer["from_index"] != from_index:
            footer["from_index"] = from_index
            table = pq.read_table(path)
            position = names.index("index")
            counted = pa.array(np.arange(from_index, from_index + footer["length"]))
            table = table.set_column(position, table.schema.field(position), counted)
            table = table.replace_schema_metadata({_FOOTER_KEY: json.dumps(footer)})
            _replace(path, lambda temporary: pq.write_table(table, temporary))
        return footer

    def _episode_row(self, index: int, footer: dict[str, Any], from_index: int) -> dict[str, Any]:
        chunk, file = divmod(index, CHUNK_SIZE)
        video = f"videos/{self.camera}"
        row = {
            "episode_index": index,
            "tasks": [self.instruction],
            "length": footer["length"],
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": from_index,
            "dataset_to_index": from_index + footer["length"],
            f"{video}/chunk_index": chunk,
            f"{video}/file_index": file,
            f"{video}/from_timestamp": 0.0,
            f"{video}/to_timestamp": footer["length"] / self.fps,
            "kind": footer["kind"],
            "success": footer["success"],
            "seed": footer["seed"],
            "split": footer["split"],
        }
        for name, statistics in footer["stats"].items():
            row |= {f"stats/{name}/{statistic}": value for statistic, value in statistics.items()}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        return {name: value for name, value in row.items() if value is not None}  # what nobody knows has no column

    def _write_tasks(self) -> None:
        # The layout stores tasks as a pandas frame whose index is the task: its metadata restores that index.
        field = {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode", "numpy_type": "object"}
        number = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
        pandas = {
            "index_columns": ["__index_level_0__"],
            "column_indexes": [{**field, "field_name": None, "metadata": {"encoding": "UTF-8"}}],
            "columns": [{**number, "metadata": None}, {**field, "metadata": None}],
            "pandas_version": "2.0.0",
        }
        table = pa.table({"task_index": pa.array([0], pa.int64()), "__index_level_0__": [self.instruction]})
        table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
        _replace(self.root / TASKS_PATH, lambda path: pq.write_table(table, path))


def read_tasks(root: Path) -> list[str]:
    """The instructions of the dataset in `root`, in the order of their task_index.

    Raises:
        FileNotFoundError: the dataset has no table of tasks.
        ValueError: it is damaged, or names none.
    """
    path = root / TASKS_PATH
    table = read_columns(path)
    words = [field.name for field in table.schema if not pa.types.is_integer(field.type)]
    if not words or "task_index" not in table.column_names or table.num_rows == 0:
        raise ValueError(f"{path} names no task, with its task_index; fetch or collect the dataset again")
    order = np.argsort(numbers(table, "task_index", (), path))
    return [str(table.column(words[0])[int(i)].as_py()) for i in order]


def _table(rows: Mapping[str, np.ndarray], footer: dict[str, Any]) -> pa.Table:
    """One table row per frame; (T, D) with D > 1 becomes a column of fixed-size lists, (T, 1) one of scalars."""
    arrays = {}
    for name, values in rows.items():
        flat = pa.array(values.reshape(-1))
        width = values.size // len(values)
        arrays[name] = flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.table(arrays).replace_schema_metadata({_FOOTER_KEY: json.dumps(footer)})


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it, so `path` is never seen half-written."""
    with clear_disk_errors(path):
        _write_whole(path, write)


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden and with a suffix of its own: no reader of the layout takes it for an episode.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{_TEMPORARY_SUFFIX}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=4, ensure_ascii=False)
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _abbreviate(indices: list[int]) -> str:
    first = ", ".join(map(str, indices[:8]))
    return first if len(indices) <= 8 else f"{first}, … ({len(indices)} in all)"
