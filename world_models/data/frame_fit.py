"""Frames of any shape to squares, in one way for training, for pictures that users give and for the simulator's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from world_models.data.reading import FitName

_AT_ONCE = 32
"""Frames that are fitted together: more would only take memory."""


def fit_frames(frames: Tensor, fit: FitName, size: int) -> Tensor:
    """Frames as squares.

    Args:
        frames: ``(B, H, W, 3)`` uint8 of any height and width.
        fit: "letterbox" keeps the whole picture between black bars, "crop" keeps its middle, "stretch" distorts it.
        size: side S of the squares, pixels.

    Returns:
        ``(B, S, S, 3)`` uint8. Frames that are such squares are returned as they are.
    """
    height, width = frames.shape[1:3]
    if height == width == size:
        return frames
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frames = frames[:, top : top + side, left : left + side]
        height = width = side
    longest = max(height, width)
    scaled = (size, size)
    if fit == "letterbox":
        scaled = max(1, round(size * height / longest)), max(1, round(size * width / longest))
    image = frames.permute(0, 3, 1, 2).float()
    if scaled != (height, width):
        image = F.interpolate(image, scaled, mode="bilinear", antialias=True)
    top, left = (size - scaled[0]) // 2, (size - scaled[1]) // 2
    image = F.pad(image, (left, size - scaled[1] - left, top, size - scaled[0] - top))
    return image.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def fit_array(frames: np.ndarray, fit: FitName, size: int) -> np.ndarray:
    """What :func:`fit_frames` gives, for an array ``(T, H, W, 3)`` uint8 of many frames."""
    return torch.cat([fit_frames(part, fit, size) for part in torch.from_numpy(frames).split(_AT_ONCE)]).numpy()
