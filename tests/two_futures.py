"""A world where the same state and the same actions have two futures, and a short training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from world_models.training.fit import fit

SIDE, CHANNELS = 3, 4
LEFT = 0.7
"""Chance that the square turns left; nothing in state or action tells."""


class Crossing:
    """A square in the middle of a 3 x 3 picture goes down, and left or right: two futures of one state and action."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.background = torch.randn(SIDE * SIDE, CHANNELS, generator=generator)
        self.square = 3 * torch.randn(CHANNELS, generator=generator)

    def states(self, row: Tensor, column: Tensor) -> Tensor:
        """States ``(B, L, C)`` with the square at rows and columns ``(B,)``."""
        states = self.background.repeat(len(row), 1, 1)
        states[torch.arange(len(row)), row * SIDE + column] = self.square
        return states

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States, chunks of actions ``(B, 4, 2)``, later states, and the row that the square reaches ``(B,)``."""
        row = torch.randint(0, SIDE - 1, (count,), generator=generator)
        left = torch.rand(count, generator=generator) < LEFT
        actions = 0.1 * torch.randn(count, 4, 2, generator=generator)
        middle = torch.ones_like(row)
        return self.states(row, middle), actions, self.states(row + 1, torch.where(left, 0, 2)), row + 1


def train(module: torch.nn.Module, loss: Callable[[], Tensor], steps: int, learning_rate: float = 2e-3) -> None:
    optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = LambdaLR(optimiser, lambda step: min((step + 1) / 30, 0.5 + 0.5 * math.cos(math.pi * step / steps)))
    fit(optimiser, schedule, loss, steps, title="train", progress=False)
    module.eval().requires_grad_(False)
