"""Worlds loaded once per process: environments over the same folder and device share the weights."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rewards.success import SuccessDetector
from world_models.world_model import World, load_world, world_folder

Key = tuple[Any, ...]


@dataclass
class OpenWorld:
    """A loaded world with its success detector, both in evaluation mode on one device."""

    world: World
    detector: SuccessDetector
    users: int = 0


_open: dict[Key, OpenWorld] = {}
_lock = threading.Lock()


def acquire(world: str | Path, dynamics: str, device: torch.device) -> tuple[Key, OpenWorld]:
    """The world, loaded if no environment of this process has it open; :func:`release` the key when done with it.

    A world whose files changed since (a finished training, say) is loaded afresh.

    Raises:
        ValueError, FileNotFoundError: no such world or dynamics, or it has no success detector; as the loaders say.
    """
    folder = world_folder(world)
    key = (*_identity(folder), dynamics, str(device))
    with _lock:
        if key not in _open:
            loaded = load_world(folder, dynamics=dynamics, device=device)
            _open[key] = OpenWorld(loaded, SuccessDetector.load(folder, device))
        _open[key].users += 1
        return key, _open[key]


def release(key: Key) -> None:
    """One environment less; the last one frees the world."""
    with _lock:
        _open[key].users -= 1
        if _open[key].users == 0:
            del _open[key]


def open_worlds() -> int:
    """How many worlds this process holds in memory."""
    return len(_open)


def _identity(folder: Path) -> Key:
    files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
    return (str(folder.resolve()), *((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files))
