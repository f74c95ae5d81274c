"""What users ask of ``reset(options=...)``: checked as a whole before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rla_gym.arguments import brief
from rla_gym.arrays import array_or_tensor, as_tensor, is_kind

OPTIONS = ("demo", "t", "rgb", "proprioception", "reset_mask")


@dataclass(frozen=True)
class ResetOptions:
    """Checked reset options of B slots.

    Attributes:
        mask: (B,) bool, the slots that are reset.
        demonstration, frame: (B,) int64, the demonstration to follow and the frame of it to start at, chosen by "demo"
            and "t"; None where they are left open.
        rgb: (B, H, W, 3) or (1, H, W, 3) uint8, the pictures to start from; None to start in the demonstration.
        proprioception: (B, R) or (1, R) float32, the robot's values in the pictures, as many rows as these; None for a
            world from video alone.
    """

    mask: Tensor
    demonstration: Tensor | None
    frame: Tensor | None
    rgb: Tensor | None
    proprioception: Tensor | None

    @classmethod
    def read(
        cls,
        options: Any,
        lengths: np.ndarray,
        num_envs: int,
        proprioception_dim: int,
        *,
        everyone: bool,
        device: torch.device,
    ) -> ResetOptions:
        """The options of one ``reset``.

        Args:
            options: what the user gave.
            lengths: (N,) frames of each demonstration.
            num_envs: B.
            proprioception_dim: R, proprioceptive values in the world's state and their change; 0 for none.
            everyone: whether every slot is due, as the first time.
            device: where the tensors go.

        Raises:
            ValueError: an unknown option, one of a wrong shape, dtype or range, "t" without "demo", or "rgb" and
                "proprioception" not together where the world has both.
            TypeError: a mask of another dtype than bool, as in Gymnasium's own vector environments.
        """
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            raise ValueError(f"options={brief(options)}: give a dict with keys among {', '.join(map(repr, OPTIONS))}")
        unknown = [name for name in options if name not in OPTIONS]
        if unknown:
            raise ValueError(f"unknown reset option {unknown[0]!r}: use {', '.join(map(repr, OPTIONS))}")
        demonstration, frame = _chosen(options, lengths, num_envs)
        mask = _mask(options.get("reset_mask"), num_envs, everyone)
        rgb = _frames(options["rgb"], num_envs) if "rgb" in options else None
        values = _proprioception(options, proprioception_dim, num_envs)
        if rgb is not None and values is not None and len(rgb) != len(values):
            rgb, values = rgb.expand(num_envs, -1, -1, -1), values.expand(num_envs, -1)
        return cls(
            mask.to(device),
            *(None if item is None else item.to(device) for item in (demonstration, frame, rgb, values)),
        )


def _mask(mask: Any, num_envs: int, everyone: bool) -> Tensor:
    if mask is None:
        return torch.ones(num_envs, dtype=torch.bool)
    array = array_or_tensor("reset_mask", mask)
    if tuple(array.shape) != (num_envs,) or not is_kind(array, "b"):
        problem = ValueError if tuple(array.shape) != (num_envs,) else TypeError
        raise problem(f"reset_mask has dtype {array.dtype} and shape {tuple(array.shape)}: give bool ({num_envs},)")
    if not array.any() or (everyone and not array.all()):
        raise ValueError(f"reset_mask={brief(mask)}: reset at least one slot, and every slot the first time")
    return as_tensor(array, torch.bool)


def _chosen(
    options: Mapping[str, Any], lengths: np.ndarray, num_envs: int
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    if "demo" not in options:
        if "t" in options:
            raise ValueError(f"reset option t={brief(options['t'])} needs 'demo' too: options={{'demo': 0, 't': ...}}")
        return None, None
    demonstration = _slot_integers("demo", options["demo"], num_envs)
    frame = _slot_integers("t", options.get("t", 0), num_envs)
    if demonstration.min() < 0 or demonstration.max() >= len(lengths):
        given = brief(options["demo"])
        raise ValueError(f"reset option demo={given}: this world has demonstrations 0 to {len(lengths) - 1}")
    length = lengths[demonstration]
    beyond = np.flatnonzero((frame < 0) | (frame >= length))
    if len(beyond):
        slot = beyond[0]
        raise ValueError(
            f"reset option t={frame[slot]}: demonstration {demonstration[slot]} has frames 0 to {length[slot] - 1}"
        )
    return torch.from_numpy(demonstration), torch.from_numpy(frame)


def _frames(rgb: Any, num_envs: int) -> Tensor:
    frames = array_or_tensor("reset option rgb", rgb)
    shape = tuple(frames.shape)
    if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape or (len(shape) == 4 and shape[0] not in (1, num_envs)):
        raise ValueError(f"reset option rgb has shape {shape}: give one frame (H, W, 3), or ({num_envs}, H, W, 3)")
    if frames.dtype not in (torch.uint8, np.uint8):
        raise ValueError(f"reset option rgb has dtype {frames.dtype}: give uint8 pixels, 0 to 255, in RGB order")
    tensor = as_tensor(frames, torch.uint8)
    return tensor if tensor.ndim == 4 else tensor.unsqueeze(0)


def _proprioception(options: Mapping[str, Any], dim: int, num_envs: int) -> Tensor | None:
    if "proprioception" not in options:
        if "rgb" in options and dim:
            raise ValueError(
                f"reset option rgb needs 'proprioception' too in this world: ({dim},) floats, the robot's values and "
                "their change since the control step before, as the twin observes them"
            )
        return None
    if "rgb" not in options or not dim:
        reason = "needs 'rgb' too" if dim else "is not wanted: this world was trained from video alone"
        raise ValueError(f"reset option proprioception {reason}")
    array = array_or_tensor("reset option proprioception", options["proprioception"])
    if not is_kind(array, "fi") or tuple(array.shape) not in ((dim,), (1, dim), (num_envs, dim)):
        raise ValueError(
            f"reset option proprioception has dtype {array.dtype} and shape {tuple(array.shape)}: give ({dim},) or "
            f"({num_envs}, {dim}) floats"
        )
    values = as_tensor(array, torch.float32).reshape(-1, dim)
    if not values.isfinite().all():
        given = brief(options["proprioception"])
        raise ValueError(f"reset option proprioception={given} holds NaN, infinity or a number beyond float32")
    return values


def _slot_integers(name: str, value: Any, num_envs: int) -> np.ndarray:
    array = array_or_tensor(f"reset option {name}", value)
    if not is_kind(array, "i") or tuple(array.shape) not in ((), (num_envs,)):
        raise ValueError(f"reset option {name}={brief(value)}: give one integer, or an integer array ({num_envs},)")
    return np.broadcast_to(as_tensor(array, torch.int64).cpu().numpy(), (num_envs,)).copy()
