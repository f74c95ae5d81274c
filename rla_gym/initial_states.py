"""Where an episode starts: at a frame of a demonstration or at another episode's first frame, drawn by counter."""

from __future__ import annotations

import torch
from torch import Tensor

from rla_gym import counter_noise
from world_models.data.demonstrations import Demonstrations

INITIAL_STATES = ("mixed", "first", "everywhere")


class InitialStates:
    """Draws initial states.

    Args:
        demonstrations: N demonstrations, on the device where initial states are wanted.
        mode: "mixed" (half the episodes start at a demonstration's first frame, half at a random one from which the
            goal is still at least a chunk away), "first" (always the first frame), or "everywhere" (as "mixed", but
            episodes that start at the beginning do so in any first state that the world holds, and follow the
            demonstration whose first frame is nearest).
        chunk_length: K, frames in a chunk.
        solved: frame (N,) int64 at which each demonstration has reached its goal; None takes its end.
    """

    def __init__(
        self, demonstrations: Demonstrations, mode: str, chunk_length: int, solved: Tensor | None = None
    ) -> None:
        self._count = len(demonstrations.lengths)
        self._first = mode == "first"
        self._demonstrations, self._further = demonstrations, None
        if mode == "everywhere":
            if demonstrations.first_states is None:
                raise ValueError(
                    "initial_states='everywhere' needs a world with first states of further episodes, and this one has "
                    "none: train it with --first-states, or choose initial_states='mixed'"
                )
            self._further = demonstrations.first_states.float()
            self._nearest = nearest_demonstration(demonstrations, self._further)
        self._choices = ((demonstrations.lengths if solved is None else solved) - chunk_length).clamp_min(1)

    def draw(self, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The initial state of each slot, from keys (B,) int64; no host sync.

        Returns:
            State (B, L, C) float32, demonstration (B,) int64 and the frame (B,) int64 of it that the state stands for.
        """
        demonstration = counter_noise.integers(counter_noise.fold(key, 0), self._count)
        frame = torch.zeros_like(demonstration)
        if self._first:
            return self._demonstrations.at(demonstration, frame), demonstration, frame
        inside = counter_noise.integers(counter_noise.fold(key, 1), 2)
        frame = inside * counter_noise.integers(counter_noise.fold(key, 2), self._choices[demonstration])
        if self._further is None:
            return self._demonstrations.at(demonstration, frame), demonstration, frame
        other = counter_noise.integers(counter_noise.fold(key, 3), len(self._further))
        begins = inside == 0
        demonstration = torch.where(begins, self._nearest[other], demonstration)
        within = self._demonstrations.at(demonstration, frame)
        return torch.where(begins[:, None, None], self._further[other], within), demonstration, frame


def nearest_demonstration(demonstrations: Demonstrations, features: Tensor) -> Tensor:
    """The demonstration whose first frame is nearest in token L1: (B, L, C) float -> (B,) int64."""
    first = demonstrations.features[:, 0].flatten(1).float()
    return torch.cdist(features.flatten(1).float(), first, p=1.0).argmin(dim=1)
