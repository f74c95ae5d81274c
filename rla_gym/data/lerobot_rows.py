"""The rows of a LeRobotDataset's episodes, read past everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from rla_gym.data.dimensions import check_finite
from rla_gym.data.lerobot_layout import FETCH, EpisodeEntry, Layout, leave_out
from rla_gym.data.problem_list import ProblemList
from world_models.data.episode_checks import ROW_COLUMNS
from world_models.data.episode_writer import DEFAULT_FEATURES
from world_models.data.labels import LABEL, read_labels
from world_models.data.parquet_files import column_names, numbers, read_columns

_NO_NUMBERS = ("video", "image", "string")
_UNEVEN = 0.5
"""Most that a step may differ from the median step, as a share of it, as in world_models.data.episode_checks."""
_SAME_RATE = 0.01
_SILENT_SECONDS = 3


@dataclass(frozen=True)
class EpisodeRows:
    """The T rows of one episode, ordered by frame_index.

    Attributes:
        actions: ``(T, A)`` in the stored dtype; None where there are none that can be read.
        state: ``(T, P)``, the same.
        times: ``(T,)`` float64 seconds, as stored; even ones where those stored do not grow evenly.
        success: the label of the last row; None where there is none.
    """

    actions: np.ndarray | None
    state: np.ndarray | None
    times: np.ndarray
    success: bool | None


def number_columns(layout: Layout) -> dict[str, tuple[int, ...] | None]:
    """Shape of one row, where it is known, of every column that should hold numbers."""
    return {
        name: layout.shape(name)
        for name, feature in layout.features.items()
        if name not in DEFAULT_FEATURES and (name == LABEL or feature.get("dtype") not in _NO_NUMBERS)
    }


class RowReader:
    """Reads all rows, and notes what is wrong with them.

    Args:
        layout: of the dataset.
        action_column, state_column: what is taken for actions and proprioception; None without.
        found: gathers the problems.

    Attributes:
        widths: numbers in a row of each column as the data files have it, of the columns that were read.
    """

    def __init__(self, layout: Layout, action_column: str | None, state_column: str | None, found: ProblemList) -> None:
        self.widths: dict[str, int] = {}
        self._layout, self._found = layout, found
        self._action_column, self._state_column = action_column, state_column
        self._columns = number_columns(layout)
        self._leave_out = ""

    def read(self, entries: Sequence[EpisodeEntry]) -> dict[int, EpisodeRows]:
        """The rows of all episodes that can be read, by the number of the episode."""
        self._leave_out = leave_out(entries)
        files: dict[Path, list[EpisodeEntry]] = {}
        for entry in entries:
            if entry.data is not None and not entry.data.is_file():
                first = str(entry.data.relative_to(self._layout.root))
                fix = "--skip-missing leaves them out; or fetch them"
                self._found.add_episode(entry.index, "the data file is missing", fix, first=first, stops=False)
            elif entry.data is not None:
                files.setdefault(entry.data, []).append(entry)
        if entries and not files:
            self._found.add("all data files are missing", FETCH)
        rows: dict[int, EpisodeRows] = {}
        for path, inside in tqdm(files.items(), desc="read rows", unit="file", delay=_SILENT_SECONDS):
            rows |= self._read_file(path, inside)
        return rows

    def _read_file(self, path: Path, entries: list[EpisodeEntry]) -> dict[int, EpisodeRows]:
        """The rows of a data file's episodes; none where the file cannot be read."""
        name = str(path.relative_to(self._layout.root))
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
            times = np.arange(len(order)) / (self._layout.fps or 1.0)
            if time is not None:
                times = self._check_times(entry, time[order].astype(np.float64), times, name)
            rows[entry.index] = self._gather(entry, order, values, times, name)
        return rows

    def _compare_columns(self, there: Sequence[str], entries: list[EpisodeEntry], name: str) -> None:
        """Note columns that meta/info.json has and a data file has not, and the other way round."""
        described = [column for column, feature in self._layout.features.items() if feature.get("dtype") != "video"]
        for entry in entries:
            for column in {*described, *ROW_COLUMNS} - {*there}:
                used = column in (self._action_column, self._state_column, *ROW_COLUMNS)
                what, fix = (
                    f"the data file has no column {column!r}",
                    "remove it from meta/info.json, or fetch them again",
                )
                self._found.add_episode(entry.index, what, fix, first=name, stops=used)
            for column in {*there} - {*self._layout.features, *DEFAULT_FEATURES}:
                what, fix = f"meta/info.json does not describe the column {column!r}", "nothing: it is not read"
                self._found.add_episode(entry.index, what, fix, first=name, stops=False)

    def _values(
        self, table: pa.Table, column: str, shape: tuple[int, ...] | None, path: Path, entries: list[EpisodeEntry]
    ) -> np.ndarray | None:
        """A column ``(T, D)``, or ``(T,)`` where the shape is (); None where it is no array of numbers."""
        if column not in table.column_names or not table.num_rows:
            return None
        error: ValueError | None = None
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
            used = column in (self._action_column, self._state_column, *ROW_COLUMNS, LABEL)
            what, fix = f"{column!r} is not as meta/info.json says", "correct its shape there, or convert the column"
            first = str(error).replace(f"{self._layout.root}/", "").rpartition("; ")[0]
            for entry in entries:
                self._found.add_episode(entry.index, what, fix, first=first, stops=used)
        if values is None or shape == ():
            return values
        values = values.reshape(table.num_rows, -1)
        width = self.widths.setdefault(column, values.shape[1])
        if width != values.shape[1]:
            for entry in entries:
                what, fix = f"the column {column!r} is not {width} wide as in other files", self._leave_out
                self._found.add_episode(entry.index, what, fix, first=f"{values.shape[1]} in {path.name}")
            return None
        return values

    def _check_place(self, entry: EpisodeEntry, mine: np.ndarray, begin: int | None, total: int, name: str) -> None:
        """Note rows that are too few or too many, or elsewhere than the tables say."""
        fix = f"fetch or record them again, or {self._leave_out}"
        if entry.length is not None and len(mine) != entry.length:
            first = f"{name} has {len(mine)}, the table says {entry.length}"
            self._found.add_episode(
                entry.index, "the data file has other rows than meta/episodes says", fix, first=first
            )
        elif len(mine) and begin is not None and not np.array_equal(mine, np.arange(begin, begin + len(mine))):
            first = f"{name}, row {mine[0]} instead of {begin}"
            self._found.add_episode(entry.index, "the rows are not where dataset_from_index says", fix, first=first)
        elif self._layout.per_episode and len(mine) != total:
            first = f"{name} has {total - len(mine)} rows of others"
            self._found.add_episode(entry.index, "the data file holds rows of other episodes", fix, first=first)

    def _check_frames(self, entry: EpisodeEntry, frame: np.ndarray, name: str) -> None:
        with np.errstate(invalid="ignore"):
            gaps = np.flatnonzero(np.diff(frame) != 1)
        if len(gaps):
            first = f"{name} has frame_index {frame[gaps[0] + 1]} after {frame[gaps[0]]}"
            fix = f"record them again, or {self._leave_out}"
            self._found.add_episode(entry.index, "a row is missing or there twice", fix, first=first)

    def _check_times(self, entry: EpisodeEntry, times: np.ndarray, even: np.ndarray, name: str) -> np.ndarray:
        """The times, or even ones where they do not go on evenly."""
        with np.errstate(invalid="ignore"):
            steps = np.diff(times)
        step = float(np.median(steps[np.isfinite(steps)])) if np.isfinite(steps).any() else 0.0
        wrong = ~(np.abs(steps - step) <= _UNEVEN * abs(step)) | (steps <= 0)
        if not np.isfinite(times).all() or wrong.any():
            row = int(np.argmax(wrong)) if wrong.any() else int(np.argmax(~np.isfinite(times)))
            stamps = ", ".join(f"{value:g}" for value in times[row : row + 3])
            first = f"{name} has {stamps} s from frame {row} on, where most steps are {step:g} s"
            fix = f"record them again, or {self._leave_out}"
            self._found.add_episode(entry.index, "the timestamps do not grow evenly", fix, first=first)
            return even
        if self._layout.fps is not None and len(steps) and abs(step * self._layout.fps - 1) > _SAME_RATE:
            what = f"the timestamps have other steps than fps {self._layout.fps:g} in meta/info.json"
            first = f"{name} has {1 / step:.4g} rows/s"
            self._found.add_episode(entry.index, what, "correct fps in meta/info.json", first=first, stops=False)
        return times

    def _gather(
        self, entry: EpisodeEntry, order: np.ndarray, values: dict[str, np.ndarray | None], times: np.ndarray, name: str
    ) -> EpisodeRows:
        """The numbers that are used, in order; those of all columns are looked at."""
        for column, part in values.items():
            if part is None or part.dtype.kind not in "f" or column == LABEL:
                continue
            used = column in (self._action_column, self._state_column)
            fix = f"correct them, or {self._leave_out}" if used else "nothing: the column is not used"
            if column == self._state_column:
                fix += "; or train with --no-proprioception"
            check_finite(
                entry.index,
                column,
                self._layout.names(column, part.shape[1]),
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
            for column in (self._action_column, self._state_column)
        )
        return EpisodeRows(actions, state, times, success)


def _row_shape(value: object) -> tuple[int, ...]:
    """Shape of one row by the lists that it is made of."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)
