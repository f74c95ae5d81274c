"""Tables of numbers that lie beside videos: CSV, parquet or NPY, a row per picture."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world_models.data.labels import LABEL, read_labels
from world_models.files import check_regular

TABLES = (".csv", ".parquet", ".npy")
"""Endings of the files' names."""
_STATE = "state_"
"""Beginning of the names of proprioceptive columns."""
_SUCCESS = (LABEL, "success")
_COUNTERS = frozenset({"", "index", "frame", "frame_index", "episode_index", "task_index", "timestamp", "time",
                       "next.done", "done"})  # fmt: skip
"""Columns that are neither an action nor proprioception: numbers of rows, times, and pandas' index without a name."""
_FIX = "correct it, a row of numbers per picture"


@dataclass(frozen=True)
class ActionTable:
    """The numbers of one episode of T rows.

    Attributes:
        action_names: one name per action dimension.
        actions: ``(T, A)`` float64; None without.
        state_names: one name per proprioceptive value.
        state: ``(T, P)`` float64; None without.
        success: as the last row says; None where no column does.
    """

    action_names: tuple[str, ...]
    actions: np.ndarray | None
    state_names: tuple[str, ...]
    state: np.ndarray | None
    success: bool | None = None


def read_table(path: Path) -> ActionTable:
    """The table of one episode.

    Columns named ``state_*`` are proprioception, ``success`` or ``next.success`` the label, numbers of rows and times
    are passed over, and all others are actions; all columns of an NPY file are actions.

    Raises:
        OSError: there is no such file.
        ValueError: it holds something else than a row of numbers per picture; the message names file, row and value.
    """
    check_regular(path, _FIX)
    if path.suffix.lower() == ".npy":
        return _of_array(path)
    names, rows = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    chosen = {"state": [], "action": []}  # type: dict[str, list[int]]
    success = None
    for column, name in enumerate(names):
        if name in _SUCCESS:
            labels, wrong = read_labels(rows[:, column])
            if wrong is not None:
                raise ValueError(
                    f"{path} has {name} {rows[wrong, column]:g} in row {wrong}; a label is 1 or 0: correct it"
                )
            success = bool(labels[-1]) if len(labels) else None
        elif name not in _COUNTERS and not name.startswith("Unnamed:"):
            chosen["state" if name.startswith(_STATE) else "action"].append(column)
    parts = {what: (tuple(names[c] for c in columns), rows[:, columns]) for what, columns in chosen.items()}
    (action_names, actions), (state_names, state) = parts["action"], parts["state"]
    return ActionTable(
        action_names, actions if action_names else None, state_names, state if state_names else None, success
    )


def _of_array(path: Path) -> ActionTable:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as NPY ({error}); save it anew by numpy.save") from error
    if values.dtype.kind not in "biuf" or values.ndim != 2:
        raise ValueError(f"{path} has {values.dtype} of shape {values.shape}, not numbers (T, A); {_FIX}")
    return ActionTable(tuple(f"action_{i}" for i in range(values.shape[1])), values.astype(np.float64), (), None)


def _csv(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table of words and numbers ({error}); {_FIX}") from error
    if not lines:
        raise ValueError(f"{path} is empty; its first line names the columns")
    names = [name.strip() for name in lines[0]]
    rows = np.empty((len(lines) - 1, len(names)))
    for row, line in enumerate(lines[1:]):
        if len(line) != len(names):
            raise ValueError(f"{path} has {len(line)} values in row {row}, {len(names)} columns; {_FIX}")
        for column, value in enumerate(line):
            rows[row, column] = _number(value, path, row, names[column])
    return names, rows


def _number(value: str, path: Path, row: int, name: str) -> float:
    words = {"true": 1.0, "false": 0.0}
    try:
        return words[value.strip().lower()] if value.strip().lower() in words else float(value)
    except ValueError:
        raise ValueError(f"{path} has {value!r:.40} in row {row} of {name}, where a number is needed; {_FIX}") from None


def _parquet(path: Path) -> tuple[list[str], np.ndarray]:
    from world_models.data.parquet_files import read_columns

    table = read_columns(path)
    names: list[str] = []
    columns: list[np.ndarray] = []
    for name in table.column_names:
        try:
            values = np.array(table.column(name).to_pylist(), np.float64)
            values = values.reshape(len(values), -1) if len(values) else np.zeros((0, 1))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} has no plain numbers in the column {name!r} ({error}); {_FIX}") from error
        width = values.shape[1]
        names += [name] if width == 1 else [f"{name}_{i}" for i in range(width)]
        columns.append(values)
    return names, np.hstack(columns) if columns else np.zeros((table.num_rows, 0))
