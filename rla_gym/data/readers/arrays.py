"""Episodes as arrays in HDF5 or NPZ files: robomimic's, ALOHA's, and any others whose names can be guessed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rla_gym.data.array_tree import HDF5_SUFFIXES, NPZ_SUFFIX, ArrayPlace, groups_of, opened
from rla_gym.data.numbered_files import numbered_files
from rla_gym.data.source import Problem, Source, SourceEpisode, SourceFacts

_SUFFIXES = (*HDF5_SUFFIXES, NPZ_SUFFIX)
_ACTIONS = ("action", "actions")
_STATES = ("qpos", "state", "proprio", "proprioception", "joint_positions", "robot_state")
_ROBOMIMIC_STATE = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
_SUCCESS = ("success", "is_success", "successes")
_FOLDERS_OF_PICTURES = ("images", "image", "rgb")


class ArrayEpisodes(Source):
    """An HDF5 file of episodes, or a folder of HDF5 or NPZ files with one or more each.

    Args:
        path: of the file or the folder.
    """

    format = "HDF5 or NPZ arrays"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it is an HDF5 file, or a folder with HDF5 or NPZ files."""
        return path.suffix.lower() in _SUFFIXES if path.is_file() else bool(numbered_files(path, _SUFFIXES))

    @cached_property
    def places(self) -> list[ArrayPlace]:
        """Where each episode lies."""
        found = []
        for file in [self.path] if self.path.is_file() else numbered_files(self.path, _SUFFIXES):
            groups = [""] if file.suffix.lower() == NPZ_SUFFIX else groups_of(file)[0]
            found += [ArrayPlace(file, group) for group in groups]
        return found

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """What stands above the episodes of the first file, such as robomimic's ``env_args``."""
        file = self.places[0].file
        return {} if file.suffix.lower() == NPZ_SUFFIX else groups_of(file)[1]

    def facts(self) -> SourceFacts:
        """What the first episode holds; the others are expected to hold the same."""
        with opened(self.places[0]) as arrays:
            actions, state, pictures = _actions(arrays), _state(arrays), _pictures(arrays)
        of_actions, of_state = (
            tuple(f"{name}_{index}" for index in range(0 if values is None else values.shape[1]))
            for name, values in (("action", actions), ("state", state))
        )
        details = {name: str(self.environment[name]) for name in ("env_name",) if name in self.environment}
        return SourceFacts(len(self.places), self.fps, tuple(pictures), of_actions, of_state, details)

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """robomimic's description of its simulator; empty where there is none."""
        try:
            content = json.loads(str(self.attributes.get("env_args", "{}")))
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    @property
    def fps(self) -> float | None:
        """Rate by the attributes, where they say it."""
        arguments = self.environment.get("env_kwargs")
        rate = arguments.get("control_freq") if isinstance(arguments, dict) else self.attributes.get("fps")
        return float(rate) if isinstance(rate, int | float | np.integer | np.floating) and rate > 0 else None

    def problems(self) -> list[Problem]:
        """What the first episode lacks, and the episodes that hold other arrays than it."""
        with opened(self.places[0]) as arrays:
            first, names = _outline(arrays), sorted(arrays)
        found = []
        if first[0] is None:
            what = f"no array of {self.places[0].file.name} is called action or actions, but {', '.join(names)[:200]}"
            found.append(Problem(what, "rename the array of actions"))
        if not first[2]:
            found.append(Problem(f"no array of {self.places[0].file.name} holds pictures (T, H, W, 3)", "record some"))
        if self.fps is None:
            what = "the files do not say how many frames a second has"
            found.append(Problem(what, "--fps of `rla-gym data convert`", stops=False))
        others = []
        for place in self.places[1:]:
            try:
                with opened(place) as arrays:
                    if _outline(arrays) != first:
                        others.append(place.name)
            except ValueError as error:
                found.append(Problem(str(error), "leave the file out, or fetch it again"))
        if others:
            what = f"{len(others)} episodes hold other arrays than the first: {', '.join(others[:8])}"
            found.append(Problem(what, "convert those of one shape from a folder of their own"))
        return found

    def episode(self, index: int) -> SourceEpisode:
        """Episode ``index``; see :class:`rla_gym.data.source.Source`."""
        place = self.places[index]
        with opened(place) as arrays:
            actions, state, cameras = _actions(arrays), _state(arrays), list(_pictures(arrays))
            success = _success(arrays)
        lengths = {len(values) for values in (actions, state) if values is not None}
        if len(lengths) > 1:
            raise ValueError(f"{place.file}, {place.name}: {sorted(lengths)} rows of actions and state; cut them alike")
        frames: dict[str, Callable[[], Iterator[np.ndarray]]] = {
            camera: partial(_read_pictures, place, camera) for camera in cameras
        }
        return SourceEpisode(place.name, frames, actions, state, success)


def _named(arrays: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first array whose last word is one of the names, in their order; shallow ones first."""
    by_depth = sorted(arrays, key=lambda name: name.count("/"))
    return next((array for name in names for array in by_depth if array.rsplit("/", 1)[-1] == name), None)


def _numbers(arrays: Mapping[str, Any], name: str | None) -> np.ndarray | None:
    """An array as ``(T, D)`` float64; None for none, and for what holds no numbers."""
    if name is None:
        return None
    values = np.asarray(arrays[name][()])
    return values.reshape(len(values), -1).astype(np.float64) if values.ndim and values.dtype.kind in "biuf" else None


def _actions(arrays: Mapping[str, Any]) -> np.ndarray | None:
    return _numbers(arrays, _named(arrays, _ACTIONS))


def _state(arrays: Mapping[str, Any]) -> np.ndarray | None:
    """Proprioception: one array by its name, or robomimic's hand and gripper together."""
    parts = [_numbers(arrays, _named(arrays, (name,))) for name in _ROBOMIMIC_STATE]
    given = [part for part in parts if part is not None]
    return np.concatenate(given, axis=1) if given else _numbers(arrays, _named(arrays, _STATES))


def _success(arrays: Mapping[str, Any]) -> bool | None:
    values = _numbers(arrays, _named(arrays, _SUCCESS))
    return None if values is None or not values.size else bool(values.reshape(-1)[-1])


def _pictures(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Arrays of pictures by the names of their cameras."""
    found = {}
    for name in sorted(arrays):
        shape, kind = arrays[name].shape, arrays[name].dtype
        folder, _, last = name.rpartition("/")
        whole = len(shape) == 4 and kind == np.uint8 and (shape[3] == 3 or shape[1] == 3)
        compressed = kind == np.uint8 and len(shape) == 2 and folder.rsplit("/", 1)[-1] in _FOLDERS_OF_PICTURES
        if whole or compressed:
            found[last.removesuffix("_image") or last] = name
    return found


def _outline(arrays: Mapping[str, Any]) -> tuple[int | None, int | None, tuple[tuple[str, tuple[int, ...]], ...]]:
    """Dimensions of actions and of state, and cameras with the shape of their pictures."""
    actions, state = _actions(arrays), _state(arrays)
    shapes = {camera: arrays[name].shape for camera, name in _pictures(arrays).items()}
    pictures = tuple((camera, shape[1:] if len(shape) == 4 else ()) for camera, shape in shapes.items())
    return (*(None if values is None else values.shape[1] for values in (actions, state)), pictures)  # type: ignore[return-value]


def _read_pictures(place: ArrayPlace, camera: str) -> Iterator[np.ndarray]:
    """Pictures ``(H, W, 3)`` uint8 RGB one after the other; compressed ones as Pillow decodes them."""
    with opened(place) as arrays:
        stored = arrays[_pictures(arrays)[camera]]
        for row in range(stored.shape[0]):
            picture = np.asarray(stored[row])
            if picture.ndim == 1:
                try:
                    picture = np.asarray(Image.open(io.BytesIO(picture.tobytes())).convert("RGB"))
                except (OSError, ValueError) as error:
                    raise ValueError(f"{place.file}, {place.name}: {camera} {row} is no picture ({error})") from error
            yield picture if picture.shape[-1] == 3 else np.ascontiguousarray(picture.transpose(1, 2, 0))
