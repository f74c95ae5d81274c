"""Where an episode starts: a frame of a demonstration, drawn by counter, chosen by the user, or the user's picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rla_gym import counter_noise
from world_models.data.demonstrations import Demonstrations

STARTS = ("mixed", "first")
OPTIONS = ("demo", "t", "rgb", "reset_mask")


class Starts:
    """Draws start frames from demonstrations.

    Args:
        demonstrations: N demonstrations, on the device where starts are wanted.
        mode: "mixed" (half the episodes start at a demonstration's first frame, half at a random one from which the
            goal is still at least a chunk away) or "first" (always the first frame).
        chunk_length: K, frames in a chunk.
        solved: frame (N,) int64 at which each demonstration has reached its goal; None takes its end.
    """

    def __init__(
        self, demonstrations: Demonstrations, mode: str, chunk_length: int, solved: Tensor | None = None
    ) -> None:
        self._demonstrations = demonstrations
        self._count = len(demonstrations.lengths)
        self._mixed = mode == "mixed"
        self._choices = ((demonstrations.lengths if solved is None else solved) - chunk_length).clamp_min(1)
        self._lengths = demonstrations.lengths.cpu().numpy()

    def draw(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """The start of each slot: key (B,) int64 -> demonstration (B,) int64, frame (B,) int64; no host sync."""
        demonstration = counter_noise.integers(counter_noise.fold(key, 0), self._count)
        if not self._mixed:
            return demonstration, torch.zeros_like(demonstration)
        inside = counter_noise.integers(counter_noise.fold(key, 1), 2)
        return demonstration, inside * counter_noise.integers(counter_noise.fold(key, 2), self._choices[demonstration])

    def nearest(self, features: Tensor) -> Tensor:
        """The demonstration whose first frame is nearest in token L1: (B, L, C) float -> (B,) int64."""
        first = self._demonstrations.features[:, 0].flatten(1).float()
        return torch.cdist(features.flatten(1).float(), first, p=1.0).argmin(dim=1)

    def chosen(self, options: dict[str, Any], num_envs: int) -> tuple[Tensor, Tensor] | None:
        """Demonstration and frame, (B,) int64 each, that reset options ask for; None where they leave it open.

        Raises:
            ValueError: an unknown option, "t" without "demo", or a demonstration or frame that does not exist.
        """
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise ValueError(f"unknown reset option {unknown[0]!r}: use {', '.join(map(repr, OPTIONS))}")
        if "demo" not in options:
            if "t" in options:
                raise ValueError(f"reset option t={options['t']} needs 'demo' too: options={{'demo': 0, 't': ...}}")
            return None
        demonstration = _slot_integers("demo", options["demo"], num_envs)
        frame = _slot_integers("t", options.get("t", 0), num_envs)
        if demonstration.min() < 0 or demonstration.max() >= self._count:
            raise ValueError(
                f"reset option demo={options['demo']}: this world has demonstrations 0 to {self._count - 1}"
            )
        length = self._lengths[demonstration]
        beyond = np.flatnonzero((frame < 0) | (frame >= length))
        if len(beyond):
            slot = beyond[0]
            raise ValueError(
                f"reset option t={frame[slot]}: demonstration {demonstration[slot]} has frames 0 to {length[slot] - 1}"
            )
        device = self._choices.device
        return torch.from_numpy(demonstration).to(device), torch.from_numpy(frame).to(device)


def checked_frames(rgb: Any, num_envs: int) -> Tensor:
    """A user's picture(s) as a uint8 tensor (1, H, W, 3) or (B, H, W, 3).

    Raises:
        ValueError: another shape or dtype.
    """
    frames = rgb.detach() if isinstance(rgb, Tensor) else np.asarray(rgb)
    shape = tuple(frames.shape)
    if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape or (len(shape) == 4 and shape[0] not in (1, num_envs)):
        raise ValueError(f"reset option rgb has shape {shape}: give one frame (H, W, 3), or ({num_envs}, H, W, 3)")
    if frames.dtype not in (torch.uint8, np.uint8):
        raise ValueError(f"reset option rgb has dtype {frames.dtype}: give uint8 pixels, 0 to 255, in RGB order")
    tensor = frames if isinstance(frames, Tensor) else torch.tensor(frames)
    return tensor if tensor.ndim == 4 else tensor.unsqueeze(0)


def _slot_integers(name: str, value: Any, num_envs: int) -> np.ndarray:
    array = value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "iu" or array.shape not in ((), (num_envs,)):
        raise ValueError(f"reset option {name}={value!r}: give one integer, or an integer array ({num_envs},)")
    return np.broadcast_to(array, (num_envs,)).astype(np.int64)
