"""Where an episode starts: a frame of a demonstration, drawn by counter."""

from __future__ import annotations

import torch
from torch import Tensor

from rla_gym import counter_noise
from world_models.data.demonstrations import Demonstrations

STARTS = ("mixed", "first")


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
        self._count = len(demonstrations.lengths)
        self._mixed = mode == "mixed"
        self._choices = ((demonstrations.lengths if solved is None else solved) - chunk_length).clamp_min(1)

    def draw(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """The start of each slot: key (B,) int64 -> demonstration (B,) int64, frame (B,) int64; no host sync."""
        demonstration = counter_noise.integers(counter_noise.fold(key, 0), self._count)
        if not self._mixed:
            return demonstration, torch.zeros_like(demonstration)
        inside = counter_noise.integers(counter_noise.fold(key, 1), 2)
        return demonstration, inside * counter_noise.integers(counter_noise.fold(key, 2), self._choices[demonstration])


def nearest_demonstration(demonstrations: Demonstrations, features: Tensor) -> Tensor:
    """The demonstration whose first frame is nearest in token L1: (B, L, C) float -> (B,) int64."""
    first = demonstrations.features[:, 0].flatten(1).float()
    return torch.cdist(features.flatten(1).float(), first, p=1.0).argmin(dim=1)
