"""Proprioception as one more token of the state.

A gripper's opening is a few pixels, and it decides a grasp; every robot measures it. The token holds the standardised
proprioception and its change since the control step before (one frame shows no velocity), each value repeated over an
equal share of the channels, so that a loss on tokens sees them. DINO-WM (arXiv 2411.04983) feeds proprioception in the
same way. A world from pure video has no such token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ProprioceptionToken(nn.Module):
    """Proprioception to a token and back.

    Args:
        size: values P.
        channels: channels C of a token, at least 2 P.

    Raises:
        ValueError: the values do not fit the channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        if not 1 <= size <= channels // 2:
            raise ValueError(f"{size} proprioceptive values do not fit {channels} channels; keep at most half as many")
        self.size, self.channels = size, channels
        self.register_buffer("mean", torch.zeros(2 * size))
        self.register_buffer("std", torch.ones(2 * size))

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Store mean and spread of proprioception with its change, ``(F, 2 P)``."""
        self.mean.copy_(values.mean(dim=0))
        self.std.copy_(values.std(dim=0).clamp_min(1e-6))

    @torch.no_grad()
    def fits(self, values: Tensor) -> bool:
        """Whether proprioception with its change ``(F, 2 P)`` has nearly the mean and spread that are stored."""
        if values.shape[1] != 2 * self.size:
            return False
        ratio = values.std(dim=0).clamp_min(1e-6) / self.std
        moved = (values.mean(dim=0) - self.mean).abs() / self.std
        return bool(((ratio > 0.5) & (ratio < 2) & (moved < 1)).all())

    def forward(self, values: Tensor) -> Tensor:
        """Proprioception with its change ``(B, 2 P)``, in the robot's units, to tokens ``(B, 1, C)`` float32."""
        if values.ndim != 2 or values.shape[1] != 2 * self.size:
            raise ValueError(
                f"proprioception has shape {tuple(values.shape)}; this world takes (B, {2 * self.size}): {self.size} "
                "values and their change since the control step before"
            )
        return tile((values.float() - self.mean) / self.std, self.channels)

    def values(self, token: Tensor) -> Tensor:
        """The inverse: token ``(B, 1, C)`` to proprioception with its change ``(B, 2 P)``, in the robot's units."""
        return untile(token, 2 * self.size) * self.std + self.mean


def tile(values: Tensor, channels: int) -> Tensor:
    """Standardised values ``(B, R)`` to a token ``(B, 1, channels)``; channels that are left over are zero."""
    repeated = values.repeat_interleave(channels // values.shape[1], dim=1)
    return nn.functional.pad(repeated, (0, channels - repeated.shape[1])).unsqueeze(1)


def untile(token: Tensor, count: int) -> Tensor:
    """Token ``(B, 1, C)`` to its standardised values ``(B, count)``."""
    share = token.shape[2] // count
    return token[:, 0, : count * share].unflatten(1, (count, share)).mean(dim=2)


def with_change(values: Tensor, first: Tensor) -> Tensor:
    """Proprioception ``(F, P)`` of consecutive frames with its change, ``(F, 2 P)``.

    Args:
        values: of all episodes, one after the other.
        first: ``(F,)`` bool, frames that begin an episode; nothing has changed there.
    """
    change = torch.diff(values, dim=0, prepend=values[:1])
    return torch.cat([values, torch.where(first[:, None], 0.0, change)], dim=1)
