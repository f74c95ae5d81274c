"""The arrays of an HDF5 group or an NPZ file by their names, read without running code or opening other files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rla_gym.data.numbered_files import natural

HDF5_SUFFIXES = (".hdf5", ".h5", ".he5")
NPZ_SUFFIX = ".npz"
FIX = "fetch or record it again"


@dataclass(frozen=True)
class ArrayPlace:
    """Where an episode's arrays lie.

    Attributes:
        file: HDF5 or NPZ.
        group: of the HDF5 file, "" for all of it.
    """

    file: Path
    group: str = ""

    @property
    def name(self) -> str:
        """What its owner calls the episode."""
        return self.group.rsplit("/", 1)[-1] or self.file.stem


@contextmanager
def opened(place: ArrayPlace) -> Iterator[Mapping[str, Any]]:
    """Arrays by name, such as "obs/agentview_image"; each is read when it is indexed.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        if place.file.suffix.lower() == NPZ_SUFFIX:
            with np.load(place.file, allow_pickle=False) as arrays:
                yield arrays
        else:
            import h5py  # here: looking at other formats needs none

            with h5py.File(place.file, "r") as file:
                yield _datasets(file[place.group] if place.group else file)
    except (OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{place.file} cannot be read ({' '.join(str(error).split())[:160]}); {FIX}") from error


def groups_of(file: Path) -> tuple[list[str], dict[str, Any]]:
    """Names of an HDF5 file's groups that hold episodes, in the order of their numbers, and the attributes above them.

    Episodes lie in ``data/<name>`` (as robomimic has them), in groups at the top, or the file is one episode: [""].

    Raises:
        ValueError: the file is damaged.
    """
    import h5py

    try:
        with h5py.File(file, "r") as opened_file:
            for above in ("data", ""):
                if above and above not in opened_file:
                    continue
                parent = opened_file[above] if above else opened_file
                if not isinstance(parent, h5py.Group):
                    continue
                names = [name for name in parent if _is_group(parent, name) and _has_actions(parent[name])]
                if names:
                    prefix = f"{above}/" if above else ""
                    return [f"{prefix}{name}" for name in sorted(names, key=natural)], dict(parent.attrs)
            return [""], dict(opened_file.attrs)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({' '.join(str(error).split())[:160]}); {FIX}") from error


def _datasets(group: Any, prefix: str = "") -> dict[str, Any]:
    """Data sets of a group and those below it. What lies in other files is not followed."""
    import h5py

    found: dict[str, Any] = {}
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item = group[name]
        if isinstance(item, h5py.Group):
            found |= _datasets(item, f"{prefix}{name}/")
        elif not item.is_virtual and not item.external:
            found[f"{prefix}{name}"] = item
    return found


def _is_group(parent: Any, name: str) -> bool:
    import h5py

    return isinstance(parent.get(name, getlink=True), h5py.HardLink) and isinstance(parent[name], h5py.Group)


def _has_actions(group: Any) -> bool:
    return any(name in group for name in ("actions", "action", "states"))
