"""How far imagined pictures are from real ones: pixel error, SSIM and PSNR, beside what a still picture would score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from world_models.base import WorldModel
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import episode_offsets

BACKGROUND_FRAMES = 256
"""Training frames whose median is the background, at most."""
MOST_DECIBEL = 100.0
"""PSNR of two equal pictures, which would be infinite."""
_BATCH = 64
"""Pictures that are decoded or compared at once: more need much memory and save no time."""
_RADIUS, _SIGMA = 5, 1.5
"""Of the Gaussian window of SSIM, in pixels: Wang et al., 2004."""


@dataclass(frozen=True)
class PictureErrors:
    """Errors of the pictures of E imagined episodes after each of M chunks; pixels are in [0, 1].

    Attributes:
        pixel: mean absolute error ``(E, M)`` of a pixel's colour.
        persistence: the same of the real first picture.
        background: the same of the background alone.
        ssim: structural similarity to the real pictures ``(E, M)``, 1 for equal ones.
        psnr: peak signal-to-noise ratio in dB ``(E, M)``, at most :data:`MOST_DECIBEL`.
    """

    pixel: np.ndarray
    persistence: np.ndarray
    background: np.ndarray
    ssim: np.ndarray
    psnr: np.ndarray


def picture_errors(imagined: Tensor, real: Tensor, background: Tensor) -> PictureErrors:
    """Compare imagined pictures with real ones.

    Args:
        imagined: ``(E, M, S, S, 3)`` uint8 after each chunk.
        real: ``(E, M + 1, S, S, 3)`` uint8, first and after each chunk.
        background: ``(S, S, 3)`` uint8.
    """
    first = real[:, :1].expand_as(imagined).flatten(0, 1)
    shown, true = imagined.flatten(0, 1), real[:, 1:].flatten(0, 1)
    parts: list[Tensor] = []
    for rows in torch.arange(len(true)).split(_BATCH):
        ours, theirs, still = (_in_unit_range(pictures[rows]) for pictures in (shown, true, first))
        error = (ours - theirs).abs().mean(dim=(1, 2, 3))
        persistence = (still - theirs).abs().mean(dim=(1, 2, 3))
        alone = (_in_unit_range(background[None]) - theirs).abs().mean(dim=(1, 2, 3))
        parts.append(torch.stack([error, persistence, alone, ssim(ours, theirs), psnr(ours, theirs)]))
    tables = torch.cat(parts, dim=1).unflatten(1, imagined.shape[:2]).numpy()
    return PictureErrors(*tables)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of images, mean over channels and over all places of the window.

    Args:
        first, second: ``(N, 3, H, W)`` float in [0, 1].

    Returns:
        ``(N,)`` float32 in [-1, 1]; 1 for equal images. The window has 11 pixels, or fewer where an image is smaller.
    """
    first, second = first.double(), second.double()  # variances are small differences of large numbers
    rows, columns = (_windows(side, radius=min(_RADIUS, (min(first.shape[-2:]) - 1) // 2)) for side in first.shape[-2:])

    def local_mean(images: Tensor) -> Tensor:
        return rows @ images @ columns.T

    mean, other_mean = local_mean(first), local_mean(second)
    variances = local_mean(first.square()) - mean.square() + local_mean(second.square()) - other_mean.square()
    covariance = local_mean(first * second) - mean * other_mean
    luminance = (2 * mean * other_mean + 0.01**2) / (mean.square() + other_mean.square() + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variances + 0.03**2)
    return (luminance * structure).mean(dim=(1, 2, 3)).float()


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio ``(N,)`` in dB of images ``(N, 3, H, W)`` in [0, 1], :data:`MOST_DECIBEL` at most."""
    squares = (first - second).square().mean(dim=(1, 2, 3))
    return -10 * squares.clamp_min(10 ** (-MOST_DECIBEL / 10)).log10()


def decoded(model: WorldModel, states: Tensor) -> Tensor:
    """Pictures ``(E, M, H, W, 3)`` uint8 of states ``(E, M, L, C)``."""
    pictures = [model.decode(batch.float()) for batch in states.flatten(0, 1).split(_BATCH)]
    return torch.cat(pictures).unflatten(0, states.shape[:2])


def sized(pictures: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """Recorded pictures ``(..., H, W, 3)`` uint8 in the height and width of a world's, ``(..., *shape, 3)`` uint8."""
    tensor = torch.from_numpy(np.array(pictures))
    if tensor.shape[-3:-1] == shape:
        return tensor
    images = F.interpolate(
        _in_unit_range(tensor.reshape(-1, *tensor.shape[-3:])),
        shape,
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    rounded = images.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return rounded.reshape(*tensor.shape[:-3], *shape, 3)


def background_of(dataset: EpisodeDataset, frames: np.ndarray) -> np.ndarray:
    """The picture without what moves ``(H, W, 3)`` uint8: the median of training frames, pixel by pixel.

    No other still picture has a smaller pixel error on those frames.

    Args:
        dataset: the episodes.
        frames: ``(F, H, W, 3)`` uint8 of all of them; may be memory-mapped.
    """
    offsets = episode_offsets(dataset.lengths)
    rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in dataset.split("train")])
    chosen = rows[:: -(-len(rows) // BACKGROUND_FRAMES)]
    return np.median(frames[chosen], axis=0).round().astype(np.uint8)


def _in_unit_range(pictures: Tensor) -> Tensor:
    """Pictures ``(N, H, W, 3)`` uint8 to images ``(N, 3, H, W)`` in [0, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 255


def _windows(side: int, radius: int) -> Tensor:
    """Weights of the window at each of its places along a side, ``(side - 2 radius, side)`` float64."""
    weights = torch.exp(-torch.arange(-radius, radius + 1, dtype=torch.float64).square() / (2 * _SIGMA**2))
    windows = torch.zeros(side - 2 * radius, side, dtype=torch.float64)
    for offset, weight in enumerate(weights / weights.sum()):
        windows.diagonal(offset).fill_(weight)
    return windows
