"""NPZ files of others: arrays of numbers and of bytes alone, for pickled objects could run code."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rla_gym.data.readers.pictures import decoded, upright

_FIX = "save them anew by numpy.savez"


def headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Name -> shape and dtype of each array; none is read.

    Raises:
        ValueError: the file is damaged.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if not name.endswith(".npy"):
                    continue
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                        version, np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                    found[name.removesuffix(".npy")] = (tuple(shape), dtype)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as NPZ ({error}); {_FIX}") from error
    return found


def table(path: Path, name: str) -> np.ndarray:
    """An array of numbers as ``(T, D)`` float64, a row per frame; one number as ``(1, 1)``.

    Raises:
        ValueError: there is none, or it holds something else.
    """
    values = _array(path, name)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{path} has {values.dtype} in {name}, where numbers are needed; {_FIX}")
    return np.asarray(values, np.float64).reshape(len(values) if values.ndim else 1, -1)


def pictures(path: Path, name: str) -> Iterator[np.ndarray]:
    """The pictures of an array in order, each ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: there is none, or a picture cannot be decoded.
    """
    for row, value in enumerate(_array(path, name)):
        what = f"picture {row} of {name} in {path}"
        yield upright(value, what) if value.ndim == 3 else decoded(value, what)


def _array(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file[name])
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path}: {name} cannot be read ({error}); {_FIX}") from error
