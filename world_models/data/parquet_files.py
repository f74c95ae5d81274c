"""Tables of parquet files as numpy arrays, with one clear error for a file that is damaged or shaped otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from world_models.files import check_regular

FIX = "fetch or collect it again"


def read_columns(path: Path, names: Sequence[str] | None = None, first: int = 0, length: int | None = None) -> pa.Table:
    """Some columns of a parquet file, from the row groups that hold the rows asked for.

    Args:
        path: of the file.
        names: of the columns; None for all.
        first: row to begin with.
        length: rows, at most; None for all that follow.

    Raises:
        OSError: there is no such file, or it is no regular one.
        ValueError: it is damaged, or lacks one of the columns; the message lists those that it has.
    """
    with _opened(path) as file:
        there = file.schema_arrow.names
        names = there if names is None else names
        missing = [name for name in names if name not in there]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]!r}, but {', '.join(there)}; rename or add it")
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ends = np.cumsum(sizes, dtype=np.int64)
        begins = ends - sizes
        last = int(ends[-1]) if length is None and sizes else first + (length or 0)
        groups = np.flatnonzero((begins < last) & (ends > first))
        table = file.read_row_groups(groups.tolist(), columns=list(names))
        return table.slice(first - int(begins[groups[0]]) if len(groups) else 0, last - first)


def column_names(path: Path) -> list[str]:
    """Names of the columns of a parquet file.

    Raises:
        OSError: there is no such file, or it is no regular one.
        ValueError: it is damaged.
    """
    with _opened(path) as file:
        names: list[str] = file.schema_arrow.names
    return names


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    check_regular(path, FIX)
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        message = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read ({message}); {FIX}") from error


def numbers(table: pa.Table, name: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """A column of numbers as an array ``(rows, *shape)`` of its own, in its stored dtype; nothing there is NaN.

    Args:
        table: of the file.
        name: of the column, whose values are scalars or lists, also of lists.
        shape: of one row.
        path: of the file, for messages.

    Raises:
        ValueError: the column holds something else than numbers, or rows of another shape.
    """
    array = table.column(name).combine_chunks()
    wanted = (table.num_rows, *shape)
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        sizes = array.value_lengths().to_numpy(zero_copy_only=False)
        uneven = np.flatnonzero(sizes != sizes[0]) if len(sizes) else sizes
        if len(uneven):
            raise ValueError(
                f"{path} has rows of several lengths in the column {name!r}: {sizes[0]} and, in row {uneven[0]}, "
                f"{sizes[uneven[0]]}; make them all of the shape {list(shape)} that meta/info.json names"
            )
        array = array.flatten()
    if pa.types.is_boolean(array.type) and array.null_count:
        array = array.cast(pa.uint8())
    values = np.array(array.to_numpy(zero_copy_only=False))  # a copy: arrow's memory is read-only
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{path} has {array.type} values in the column {name!r}, where numbers are needed; convert it")
    if values.size != np.prod(wanted, dtype=np.int64):
        rows = max(1, table.num_rows)
        raise ValueError(
            f"{path} has {values.size / rows:g} numbers a row in the column {name!r}, meta/info.json names the shape "
            f"{list(shape)}; fix one of them"
        )
    return values.reshape(wanted)
