"""Worlds and encoders loaded once per process: environments of the same world share the weights."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rewards.success import SuccessDetector
from world_models.encoders.state import StateEncoder
from world_models.files import tensor_bytes
from world_models.io import World, default_dynamics, load_encoder, load_world, world_folder

Key = tuple[Any, ...]
MOST_RANDOM_SUCCESS = 0.2
"""Share of imagined episodes that random actions may solve without a warning."""


@dataclass
class OpenWorld:
    """A loaded world with its success detector, both in evaluation mode on one device.

    Attributes:
        world: model and demonstrations.
        detector: of success.
        success_threshold: success probability from which on an imagined state counts as a success.
    """

    world: World
    detector: SuccessDetector
    success_threshold: float

    def doubts(self) -> list[str]:
        """What a user should know before believing this world's successes, in sentences."""
        name, folder = self.world.model.name, self.world.folder
        share, doubts = _random_success(self.detector.metrics, name), []
        if share is not None and share > MOST_RANDOM_SUCCESS:
            doubts.append(
                f"random actions succeed in {share:.0%} of the imagined episodes of {folder} ({name}): its success "
                "says little; give it labels of success and failures, and train it anew"
            )
        if self.detector.metrics.get("calibrated") is False:
            doubts.append(
                f"success_probability of {folder} is not calibrated: its data have too few labels of both outcomes"
            )
        return doubts

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of all that a dream of this world depends on: dynamics, weights, detector, demonstrations."""
        demonstrations = self.world.demonstrations
        model = self.world.model
        settings = (type(model).__name__, model.prediction_length, self.detector.threshold, self.success_threshold)
        digest = hashlib.sha256(repr(settings).encode())
        for tensor in (
            *self.world.model.state_dict().values(),
            *self.detector.state_dict().values(),
            demonstrations.features,
            demonstrations.lengths,
        ):
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()[:16]


def _random_success(metrics: Mapping[str, Any], dynamics: str) -> float | None:
    """What a world's file says of random actions in the dream of some dynamics; None where it says nothing."""
    value: Any = metrics
    for name in ("untrained", dynamics, "random"):
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


@dataclass
class _Loaded:
    content: Any
    users: int = 0


_open: dict[Key, _Loaded] = {}
_lock = threading.RLock()
"""Reentrant: while a thread loads a world, its garbage collector may release another environment's world."""


def acquire_world(
    world: str | Path,
    dynamics: str | None,
    device: torch.device,
    precision: str = "float32",
    prediction_length: int | None = None,
) -> tuple[Key, OpenWorld]:
    """The world with these dynamics, or its default ones; :func:`release` the key when done with it.

    It is loaded only if no environment of this process has it open.

    A world whose files changed since (after a training, say) is loaded anew.

    Raises:
        ValueError, FileNotFoundError: no such world, dynamics, precision or prediction length, or no success detector;
            as the loaders say.
    """
    folder = world_folder(world)
    dynamics = default_dynamics(folder, dynamics)

    def load() -> OpenWorld:
        loaded = load_world(
            folder, dynamics=dynamics, device=device, precision=precision, prediction_length=prediction_length
        )
        detector = SuccessDetector.load(folder, device)
        detector.check_fits(loaded.model.num_tokens, loaded.model.channels, folder)
        return OpenWorld(loaded, detector, detector.imagined_threshold(dynamics))

    return _acquire((*_identity(folder), dynamics, str(device), precision, prediction_length), load)


def acquire_encoder(world: str | Path, device: torch.device) -> tuple[Key, StateEncoder]:
    """A world's encoder alone, shared and released as :func:`acquire_world` says."""
    folder = world_folder(world)
    return _acquire((*_identity(folder), "encoder", str(device)), lambda: load_encoder(folder, device))


def release(key: Key) -> None:
    """Counts one user less; the last one frees the memory."""
    with _lock:
        _open[key].users -= 1
        if _open[key].users == 0:
            del _open[key]


def open_worlds() -> int:
    """How many worlds and encoders this process holds in memory."""
    return len(_open)


def _acquire(key: Key, load: Callable[[], Any]) -> tuple[Key, Any]:
    with _lock:
        if key not in _open:
            _open[key] = _Loaded(load())
        loaded = _open[key]
        loaded.users += 1
        return key, loaded.content


def _identity(folder: Path) -> Key:
    files = sorted(path for kind in ("*.json", "*.safetensors") for path in folder.glob(kind) if path.is_file())
    return (str(folder.resolve()), *((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files))
