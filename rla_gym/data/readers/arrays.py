"""Arrays by their names: HDF5 or NPZ files of one episode each, or an HDF5 file whose groups are episodes.

ALOHA's files are among them: ``action``, ``observations/qpos`` and ``observations/images/<camera>``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from rla_gym.data.problem_list import ProblemList
from rla_gym.data.readers import hdf5, npz
from rla_gym.data.readers.episode_shapes import EpisodeShape, check_shapes
from rla_gym.data.readers.pictures import size_of
from rla_gym.data.source import Problem, Source, SourceEpisode, SourceFacts
from world_models.data.column_names import guess
from world_models.data.labels import read_labels

ACTIONS = ("action", "actions")
STATES = ("observations/qpos", "observation/qpos", "qpos", "observations/state", "observation/state", "obs/state",
          "state", "states", "proprio")  # fmt: skip
SUCCESS = ("success", "is_success", "successes", "next.success")
PICTURES = frozenset({"images", "image", "rgb", "frames", "pixels"})
"""In the name of a dataset of compressed pictures; pictures as arrays are known by their shape."""
_HDF5 = (".hdf5", ".h5", ".hdf")
_NPZ = (".npz",)


@dataclass(frozen=True)
class _Place:
    """Where an episode lies: in a file, under a group's name ("" for all of the file)."""

    path: Path
    group: str = ""

    @property
    def name(self) -> str:
        return self.group.rsplit("/", 1)[-1] or self.path.stem


@dataclass(frozen=True)
class _Array:
    """Shape and dtype of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Arrays(Source):
    """Episodes of arrays; which is which is guessed by names and shapes.

    Args:
        path: of a file, or of a folder of files of one episode each.

    Raises:
        ValueError: a file is damaged.
    """

    format = "HDF5 or NPZ arrays"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        files = _files(path) if path.is_dir() else [path]
        self._places = _places_in(path) if files == [path] else [_Place(file) for file in files]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it is an HDF5 or NPZ file, or a folder with one of these right inside."""
        if path.is_dir():
            return bool(_files(path))
        return hdf5.has_signature(path) or (path.suffix.lower() in _NPZ and zipfile.is_zipfile(path))

    def facts(self) -> SourceFacts:
        """What names and shapes say; the rate is the attribute or array ``fps``, where there is one."""
        shapes = self._shapes
        cameras = sorted({camera for shape in shapes for camera in shape.pictures}, key=hdf5.natural_order)
        actions = next((shape.actions for shape in shapes if shape.actions is not None), (0, 0))
        state = next((shape.state for shape in shapes if shape.state is not None), (0, 0))
        return SourceFacts(
            len(self._places), _rate(self._places[0]) if self._places else None, tuple(cameras),
            tuple(f"action_{i}" for i in range(actions[1])), tuple(f"state_{i}" for i in range(state[1])),
            self._chosen,
        )  # fmt: skip

    def problems(self) -> list[Problem]:
        """What was not found by its name, and what does not go together."""
        found = ProblemList()
        shapes = self._shapes
        names = ", ".join(self._entries[0]) if self._entries else "nothing"
        if not self._places:
            found.add(f"{self.path} has no episode", "give a file with one group per episode, or one file for each")
        elif not any(shape.pictures for shape in shapes):
            found.add(
                f"{self.path} has no pictures, (T, H, W, 3) uint8; its first episode holds {names}",
                "record with pictures, or store them as that",
            )
        elif not any(shape.actions for shape in shapes):
            what = f"{self.path} has no actions; its first episode holds {names}"
            found.add(what, f"call them {' or '.join(ACTIONS)}; without actions no world can be trained", stops=False)
        check_shapes(shapes, found)
        return found.problems()

    def episode(self, index: int) -> SourceEpisode:
        """Episode ``index``, in the order of the numbers in names.

        Raises:
            IndexError: there is no such episode.
            ValueError: its numbers are damaged.
        """
        place, entries = self._places[index], self._entries[index]
        values = {
            key: None if (name := guess(names, entries)) is None else _numbers(place, name)
            for key, names in (("actions", ACTIONS), ("state", STATES), ("success", SUCCESS))
        }
        frames = {camera: partial(_pictures, place, name) for camera, name in _cameras(entries).items()}
        return SourceEpisode(
            place.name, frames, values["actions"], values["state"], _label(values["success"], place)
        )  # fmt: skip

    @cached_property
    def _entries(self) -> list[dict[str, _Array]]:
        """Name -> shape and dtype of everything in each episode."""
        return [_read_entries(place) for place in self._places]

    @cached_property
    def _shapes(self) -> list[EpisodeShape]:
        shapes = []
        for place, entries in zip(self._places, self._entries, strict=True):
            cameras = _cameras(entries)
            sizes = {camera: size_of(entries[name].shape, entries[name].dtype) for camera, name in cameras.items()}
            shapes.append(
                EpisodeShape(
                    place.name, _rows_and_width(entries, ACTIONS), _rows_and_width(entries, STATES),
                    {camera: entries[name].shape[0] for camera, name in cameras.items()},
                    {camera: size for camera, size in sizes.items() if size is not None},
                )
            )  # fmt: skip
        return shapes

    @property
    def _chosen(self) -> dict[str, str]:
        """Which arrays are taken for what, in words."""
        entries = self._entries[0] if self._entries else {}
        chosen = {"actions": guess(ACTIONS, entries), "state": guess(STATES, entries)}
        return {what: name for what, name in chosen.items() if name is not None}


def _files(folder: Path) -> list[Path]:
    """The HDF5 files right inside a folder, else its NPZ files, in the order of the numbers in their names."""
    for endings in (_HDF5, _NPZ):
        files = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file()
        ]
        if files:
            return sorted(files, key=lambda path: hdf5.natural_order(path.name))
    return []


def _places_in(path: Path) -> list[_Place]:
    """The episodes of one file: all of it, or the groups right inside it or inside ``data``."""
    if not hdf5.has_signature(path):
        return [_Place(path)]
    with hdf5.opened(path) as file:
        if _is_episode(hdf5.datasets(file)):
            return [_Place(path)]
        inside = "data" if hdf5.member(file, "data") is not None else ""
        group = hdf5.member(file, inside) if inside else file
        names = [f"{inside}/{name}".lstrip("/") for name in hdf5.subgroups(group)]
        return [_Place(path, name) for name in names if _is_episode(hdf5.datasets(hdf5.member(file, name)))]


def _is_episode(entries: Mapping[str, Any]) -> bool:
    """Whether actions stand under one of their names, and are not those of an episode further inside."""
    return guess(ACTIONS, entries) is not None or any("/" not in name for name in _cameras(entries).values())


def _read_entries(place: _Place) -> dict[str, _Array]:
    if not hdf5.has_signature(place.path):
        return {name: _Array(*header) for name, header in npz.headers(place.path).items()}
    with hdf5.opened(place.path) as file:
        group = hdf5.member(file, place.group) if place.group else file
        return {name: _Array(dataset.shape, dataset.dtype) for name, dataset in hdf5.datasets(group).items()}


def _cameras(entries: Mapping[str, Any]) -> dict[str, str]:
    """Camera -> name of its array: what has the shape of pictures, or bytes under a name of pictures."""
    names = [
        name
        for name, array in entries.items()
        if size_of(array.shape, array.dtype)
        or (len(array.shape) == 2 and array.dtype == np.uint8 and PICTURES & set(name.split("/")))
    ]
    last = [name.rsplit("/", 1)[-1] for name in names]
    return {short if last.count(short) == 1 else name.replace("/", "."): name for short, name in zip(last, names)}


def _rows_and_width(entries: Mapping[str, _Array], names: tuple[str, ...]) -> tuple[int, int] | None:
    name = guess(names, entries)
    if name is None or not entries[name].shape:
        return None
    return entries[name].shape[0], int(np.prod(entries[name].shape[1:]))


def _numbers(place: _Place, name: str) -> np.ndarray:
    if not hdf5.has_signature(place.path):
        return npz.table(place.path, name)
    with hdf5.opened(place.path) as file:
        group = hdf5.member(file, place.group) if place.group else file
        if not hdf5.member(group, name).shape:  # a label of the whole episode
            return np.array([[float(hdf5.member(group, name)[()])]])
        return hdf5.table(group, name)


def _pictures(place: _Place, name: str) -> Iterator[np.ndarray]:
    if hdf5.has_signature(place.path):
        return hdf5.pictures(place.path, f"{place.group}/{name}".lstrip("/"))
    return npz.pictures(place.path, name)


def _rate(place: _Place) -> float | None:
    if hdf5.has_signature(place.path):
        with hdf5.opened(place.path) as file:
            value = file.attrs.get("fps")
    else:
        value = npz.table(place.path, "fps")[0, 0] if "fps" in npz.headers(place.path) else None
    number = np.asarray(value) if value is not None else np.zeros(0)
    return float(number) if number.ndim == 0 and number.dtype.kind in "iuf" and number > 0 else None


def _label(values: np.ndarray | None, place: _Place) -> bool | None:
    """Success at an episode's end, of a label for each row or one for all."""
    if values is None or not values.size:
        return None
    labels, wrong = read_labels(values.reshape(-1))
    if wrong is not None:
        raise ValueError(
            f"{place.path} has success {values.reshape(-1)[wrong]:g} in {place.name}; a label is true or false, or 1 "
            "or 0: correct it"
        )
    return bool(labels[-1])
