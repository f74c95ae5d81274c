"""The rows of `meta/episodes`: where the rows and pictures of each episode lie, and what is noted of it; checked.

A v2 dataset has `meta/episodes.jsonl` instead, and one data file and one video for each episode.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world_models.data.dataset_info import DatasetInfo
from world_models.data.episode_writer import read_tasks, split_of
from world_models.data.labels import read_labels
from world_models.data.parquet_files import column_names, read_columns

SPLITS = ("train", "validation", "report")

Row = dict[str, Any]


def read_rows(info: DatasetInfo, cameras: Sequence[str]) -> list[Row]:
    """The rows without the statistics, ordered by episode_index.

    Args:
        info: of the dataset.
        cameras: whose videos are read.

    Raises:
        FileNotFoundError: there are none.
        ValueError: episodes are missing or there twice, or a row lacks a value that makes sense.
    """
    root = info.root
    if info.episodes_of_chunk is not None:
        return _rows_of_older(info, cameras, info.episodes_of_chunk)
    # What file managers and archives leave behind is hidden.
    paths = [
        path
        for path in sorted((root / "meta/episodes").glob("*/*.parquet"))
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not paths:
        raise FileNotFoundError(
            f"{root} has no meta/episodes: its collection is not finished; run the same collect command again"
        )
    videos = [f"videos/{camera}" for camera in cameras]
    whole = ("episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index",
             *(f"{video}/{name}_index" for video in videos for name in ("chunk", "file")))  # fmt: skip
    begins = [f"{video}/from_timestamp" for video in videos]
    rows: list[Row] = []
    for path in paths:
        names = [name for name in column_names(path) if not name.startswith("stats/")]
        missing = [name for name in (*whole, *begins) if name not in names]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]!r}, but {', '.join(names)}; fetch or collect it again")
        table = read_columns(path, names).to_pylist()
        for row in table:
            _check_row(path, row, whole, begins)
        rows += table
    if not rows:
        raise ValueError(f"{root}/meta/episodes has no episode; fetch or collect some")
    rows.sort(key=lambda row: int(row["episode_index"]))
    _check_indices(info, [int(row["episode_index"]) for row in rows])
    return rows


def _rows_of_older(info: DatasetInfo, cameras: Sequence[str], episodes_of_chunk: int) -> list[Row]:
    """The rows of a v2 dataset, by the names that v3.0 has for them."""
    path = info.root / "meta/episodes.jsonl"
    videos = [f"videos/{camera}" for camera in cameras]
    begins = [f"{video}/from_timestamp" for video in videos]
    rows = []
    for number, entry in enumerate(read_json_lines(path), 1):
        missing = [name for name in ("episode_index", "length") if name not in entry]
        if missing:
            raise ValueError(f"{path} has no {missing[0]!r} in line {number}; fetch the dataset again")
        row = {"episode_index": entry["episode_index"], "length": entry["length"]}
        row |= {"tasks": entry.get("tasks"), "dataset_from_index": 0, **dict.fromkeys(begins, 0.0)}
        _check_row(path, row, ("episode_index", "length"), begins)
        for of in ("data", *videos):
            row[f"{of}/chunk_index"] = row["episode_index"] // episodes_of_chunk
            row[f"{of}/file_index"] = row["episode_index"]
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no episode; fetch or collect some")
    rows.sort(key=lambda row: int(row["episode_index"]))
    _check_indices(info, [int(row["episode_index"]) for row in rows])
    return rows


def read_instructions(info: DatasetInfo) -> list[str]:
    """The tasks of a dataset in words, in the order of their task_index.

    Raises:
        FileNotFoundError, ValueError: they are missing or damaged.
    """
    if info.episodes_of_chunk is None:
        return read_tasks(info.root)
    path = info.root / "meta/tasks.jsonl"
    entries = read_json_lines(path)
    wrong = [entry for entry in entries if type(entry.get("task_index")) is not int or "task" not in entry]
    if wrong or not entries:
        raise ValueError(f"{path} names no task, with its task_index; fetch the dataset again")
    return [str(entry["task"]) for entry in sorted(entries, key=lambda entry: int(entry["task_index"]))]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one in every line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fetch the dataset again")
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path} has no JSON in line {number} ({error}); fetch the dataset again") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{path} has {line!r:.60} in line {number}, no object; fetch the dataset again")
        entries.append(entry)
    return entries


def splits_of(root: Path, rows: list[Row]) -> np.ndarray:
    """Split of each episode ``(N,)``, as noted, else by its index.

    Raises:
        ValueError: one is noted that is not known.
    """
    splits = [row.get("split") or split_of(row["episode_index"]) for row in rows]
    for row, split in zip(rows, splits, strict=True):
        if split not in SPLITS:
            raise ValueError(
                f"{root}/meta/episodes has the split {split!r} for episode {row['episode_index']}; use "
                f"{', '.join(SPLITS)}, or leave the column out"
            )
    return np.array(splits, dtype=object)


def noted_successes(root: Path, rows: list[Row]) -> np.ndarray | None:
    """Success of each episode ``(N,)`` bool as noted; None where no row has the column.

    Raises:
        ValueError: a value is no label.
    """
    if not any("success" in row for row in rows):
        return None
    given = [row.get("success") for row in rows]
    labels, wrong = read_labels(given)
    if wrong is not None:
        raise ValueError(
            f"{root}/meta/episodes has success {given[wrong]!r} for episode {wrong}; a label is true or false, or 1 or "
            "0: correct it, or leave the column out for all episodes"
        )
    return labels


def _check_row(path: Path, row: Row, whole: tuple[str, ...], begins: Sequence[str]) -> None:
    """Raise ValueError unless the row's places are numbers that can be."""
    for name in whole:
        value, least = row[name], int(name == "length")
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < least:
            number = "1 or more rows" if least else "a whole number of 0 or more"
            raise ValueError(
                f"{path} has {name} {value!r} for episode {row['episode_index']!r}; {number} is needed: leave the "
                "episode out, or collect it again"
            )
        row[name] = int(value)
    for name in begins:
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{path} has {name} {value!r} for episode {row['episode_index']}; seconds are needed")


def _check_indices(info: DatasetInfo, indices: list[int]) -> None:
    """Raise ValueError unless the episodes are numbered 0, 1, 2, …, each once, up to the total."""
    place = f"{info.root}/meta/episodes"
    twice = [index for index, count in Counter(indices).items() if count > 1]
    if twice:
        raise ValueError(f"{place} has episode {twice[0]} more than once; remove the rows that are too many")
    count = max(max(indices) + 1, info.total_episodes or 0)
    missing = sorted(set(range(count)) - set(indices))
    if missing:
        raise ValueError(
            f"{place} lacks episode {missing[0]}, of {count} in all; fetch or collect the rest, or number the episodes "
            "and correct total_episodes in meta/info.json"
        )
