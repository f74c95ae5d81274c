"""Mutations of parquet files: columns, dtypes, rows, values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.file_mutations import UnfitError, flip_bytes

KINDS = (
    "column removed", "column renamed", "column dtype changed", "NaN in a column", "null in a column", "ragged lists",
    "rows shuffled", "rows dropped", "rows doubled", "duplicate index", "no rows", "table bytes flipped",
    "strings for labels",
)  # fmt: skip
KEYS = ("episode_index", "index", "frame_index", "timestamp", "dataset_from_index")
"""Columns that number rows."""


def damage_table(rng: np.random.Generator, path: Path, kind: str, columns: tuple[str, ...]) -> tuple[str, str]:
    """Apply a mutation of :data:`KINDS`; returns what was done and the column's name.

    Args:
        rng: of all choices.
        path: the parquet file.
        kind: of the mutation.
        columns: those that somebody reads, and which are therefore drawn most often.
    """
    if kind == "table bytes flipped":
        return _flip(rng, path), ""
    table = pq.read_table(path)
    if kind in ("rows shuffled", "rows dropped", "rows doubled", "no rows"):
        pq.write_table(_other_rows(rng, table, kind), path)
        return "", ""
    names = [name for name in table.column_names if name in columns]
    if not names or rng.random() < 0.15:
        names = table.column_names
    if kind == "duplicate index":
        names = [name for name in table.column_names if name in KEYS]
    if kind == "strings for labels":
        names = [name for name in table.column_names if name in ("next.success", "success", "split", "kind")]
    if not names:
        raise UnfitError
    name = names[rng.integers(len(names))]
    place = table.column_names.index(name)
    if kind == "column removed":
        table = table.remove_column(place)
    elif kind == "column renamed":
        table = table.rename_columns([old + "_" if old == name else old for old in table.column_names])
    else:
        values, done = _other_values(rng, table.column(name), kind)
        table = table.set_column(place, name, values)
        pq.write_table(table, path)
        return f"{name}{done}", name
    pq.write_table(table, path)
    return name, name


def _other_rows(rng: np.random.Generator, table: pa.Table, kind: str) -> pa.Table:
    count = table.num_rows
    if kind == "no rows":
        return table.slice(0, 0)
    if kind == "rows doubled":
        return pa.concat_tables([table, table])
    if count < 2:
        raise UnfitError
    if kind == "rows shuffled":
        order = rng.permutation(count)
        if (order == np.arange(count)).all():
            raise UnfitError
        return table.take(pa.array(order))
    dropped = [0, count - 1, int(rng.integers(count))][rng.integers(3)]
    return table.take(pa.array([row for row in range(count) if row != dropped]))


def _other_values(rng: np.random.Generator, column: pa.ChunkedArray, kind: str) -> tuple[pa.Array, str]:
    values, row = column.to_pylist(), int(rng.integers(len(column)))
    if kind == "null in a column":
        values[row] = None
        return pa.array(values, column.type), f" row {row}"
    if kind == "NaN in a column":
        value = [float("nan"), float("inf"), float("-inf")][rng.integers(3)]
        inner = column.type.value_type if pa.types.is_nested(column.type) else column.type
        if not pa.types.is_floating(inner):
            raise UnfitError
        values[row] = [value, *values[row][1:]] if isinstance(values[row], list) else value
        return pa.array(values, column.type), f" {value} in row {row}"
    if kind == "ragged lists":
        if not isinstance(values[row], list):
            raise UnfitError
        values[row] = [values[row][:-1], values[row] * 2, []][rng.integers(3)]
        inner = column.type.value_type
        return pa.array(values, pa.list_(inner)), f" row {row}"
    if kind == "duplicate index":
        values[row] = values[row - 1]
        if len(values) == 1:
            raise UnfitError
        return pa.array(values, column.type), f" row {row}"
    if kind == "strings for labels":
        texts = ["failure", "0", "no", "None", "", "nan"]
        number = rng.random() < 0.4
        new = (
            [float(rng.choice([-1.0, 2.0, np.nan]))] * len(values) if number else [str(rng.choice(texts))] * len(values)
        )
        return pa.array(new), f" all {new[0]!r}"
    return _retyped(rng, values)


def _retyped(rng: np.random.Generator, values: list) -> tuple[pa.Array, str]:
    flat = not isinstance(values[0], list)
    change = int(rng.integers(4))
    if change == 0:
        return pa.array([str(value) for value in values]), " to text"
    if change == 1:
        if flat:
            return pa.array([[value] * 2 for value in values]), " to pairs"
        return pa.array([float(value[0]) for value in values]), " to its first number"
    if change == 2:
        return pa.array([str(value).encode() for value in values]), " to bytes"
    if not flat:
        return pa.array([[str(item) for item in value] for value in values]), " to lists of text"
    if not all(isinstance(value, int | float) and value == int(value) for value in values):
        raise UnfitError
    if all(isinstance(value, bool) for value in values):
        raise UnfitError
    return pa.array([float(value) + 0.5 for value in values]), " to halves"


def _flip(rng: np.random.Generator, path: Path) -> str:
    before = pq.read_table(path)
    size = path.stat().st_size
    # In the footer: a page that is read as other numbers is another dataset.
    footer = int.from_bytes(path.read_bytes()[-8:-4], "little")
    done = flip_bytes(rng, path, size - 8 - footer, size)
    try:
        if not pq.read_table(path).equals(before):
            raise UnfitError
    except (pa.ArrowException, OSError, ValueError, TypeError):
        pass
    return done
