"""What the rows of episodes must be before any picture is decoded: there, in one piece, and finite numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from world_models.data.labels import LABEL, read_labels
from world_models.data.parquet_files import numbers, read_columns

ROW_COLUMNS = ("episode_index", "frame_index", "timestamp")
"""The columns that say which row is which."""
_UNEVEN = 0.5
"""Most that a row's time may be off the steps of its episode, as a share of a step: with more, a row is missing."""


@dataclass(frozen=True)
class EpisodeRows:
    """Where the rows of an episode lie in a data file.

    Attributes:
        index: of the episode.
        first: its first row in the file.
        length: its rows T.
    """

    index: int
    first: int
    length: int


def order_of(table: pa.Table, path: Path, episode: EpisodeRows) -> tuple[np.ndarray, np.ndarray]:
    """The order of an episode's rows by frame_index ``(T,)`` int64, and the rows' times in that order ``(T,)`` float64.

    Args:
        table: the columns :data:`ROW_COLUMNS` of the episode's rows.
        path: of the file, for messages.
        episode: whose rows these are.

    Raises:
        ValueError: they are another episode's, or too few, or one is missing, or the times do not go on evenly.
    """
    owner, frame, time = (numbers(table, name, (), path).astype(np.float64) for name in ROW_COLUMNS)
    if len(owner) != episode.length or not (owner == episode.index).all():
        raise ValueError(
            f"{path} does not hold the {episode.length} rows of episode {episode.index} where meta/episodes says; "
            "fetch or collect it again"
        )
    order = np.argsort(frame, kind="stable")
    gaps = np.diff(frame[order]) != 1
    if gaps.any():
        place = int(np.argmax(gaps))
        raise ValueError(
            f"{path} has frame_index {frame[order][place + 1]:g} after {frame[order][place]:g} in episode "
            f"{episode.index}: a row is missing or there twice; collect the episode again, or leave it out"
        )
    time = time[order]
    steps = np.diff(time)
    finite = steps[np.isfinite(steps)]
    step = float(np.median(finite)) if len(finite) else 1.0
    uneven = np.append(~(np.abs(steps - step) <= _UNEVEN * step) | (steps <= 0), not np.isfinite(time[0]))
    if uneven.any():
        begin = max(0, int(np.argmax(uneven)) - 1)
        stamps = ", ".join(f"{value:g}" for value in time[begin : begin + 4])
        raise ValueError(
            f"{path} has the timestamps {stamps} from frame {begin} on in episode {episode.index}, whose steps are "
            f"{step:g} s: they must grow evenly; collect the episode again, or leave it out"
        )
    return order, time


def check_file(path: Path, episodes: list[EpisodeRows], shapes: Mapping[str, tuple[int, ...]]) -> dict[int, np.ndarray]:
    """Check the rows of all episodes of a data file.

    Args:
        path: of the file.
        episodes: that it should hold.
        shapes: shape of one row of each column that is used besides :data:`ROW_COLUMNS`, all of numbers that must be
            finite as float32; those of :data:`LABEL` must be labels.

    Returns:
        The times of each episode's rows, as :func:`order_of` gives them.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: something is not as it must be; the message names file, episode, frame, column, value and fix.
    """
    table = read_columns(path, [*ROW_COLUMNS, *shapes])
    found, counts = np.unique(numbers(table, "episode_index", (), path), return_counts=True)
    rows_of = dict(zip(found.tolist(), counts.tolist(), strict=True))
    times = {}
    for episode in episodes:
        if rows_of.get(episode.index) != episode.length:
            raise ValueError(
                f"{path} has {rows_of.get(episode.index, 0)} rows of episode {episode.index}, meta/episodes says "
                f"{episode.length}; fetch or collect it again"
            )
        part = table.select(ROW_COLUMNS).slice(episode.first, episode.length)
        times[episode.index] = order_of(part, path, episode)[1]
    known = {episode.index for episode in episodes}
    for name, shape in shapes.items():
        check_values(path, table, name, shape, known)
    return times


def labels_of(path: Path, episodes: list[EpisodeRows], shape: tuple[int, ...]) -> list[bool]:
    """Whether the last row of each of a data file's episodes has the label of success.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file lacks a column or rows, or a value is no label.
    """
    table = read_columns(path, [*ROW_COLUMNS, LABEL])
    check_values(path, table, LABEL, shape, {episode.index for episode in episodes})
    labels = numbers(table, LABEL, shape, path).reshape(table.num_rows, -1).any(axis=1)
    successes = []
    for episode in episodes:
        part = table.select(ROW_COLUMNS).slice(episode.first, episode.length)
        order = order_of(part, path, episode)[0]
        successes.append(bool(labels[episode.first + order[-1]]))
    return successes


def check_values(path: Path, table: pa.Table, name: str, shape: tuple[int, ...], episodes: set[int]) -> None:
    """Raise ValueError for a number of these episodes that is not finite, and for what is no label in :data:`LABEL`.

    Args:
        path: of the file, for messages.
        table: with the columns ``name``, episode_index and frame_index.
        name: of the column.
        shape: of one row of it.
        episodes: indices of those that are looked at.
    """
    if name == LABEL and not _holds_numbers(table.schema.field(name).type):
        values = np.array(table.column(name).to_pylist(), dtype=object)
    else:
        values = numbers(table, name, shape, path)
    owner, frame = (numbers(table, column, (), path) for column in ("episode_index", "frame_index"))
    looked_at = np.isin(owner, list(episodes))
    values, owner, frame = values.reshape(table.num_rows, -1)[looked_at], owner[looked_at], frame[looked_at]
    if name == LABEL:
        wrong = read_labels(values.reshape(-1))[1]
        row = None if wrong is None else wrong // values.shape[1]
        rule, fix = "a label is true or false, or 1 or 0", "correct it, or leave the column out"
    else:
        with np.errstate(over="ignore"):
            good = np.isfinite(values.astype(np.float32)).all(axis=1)
        row = None if good.all() else int(np.argmin(good))
        rule, fix = "numbers must be finite (as 32-bit floats)", "correct it, or leave the episode out"
    if row is not None:
        raise ValueError(
            f"{path} has {values[row].tolist()} in {name} of episode {owner[row]}, frame {frame[row]}: {rule}; {fix}"
        )


def _holds_numbers(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))
