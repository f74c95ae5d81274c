"""Encoder of action chunks: what every world model is conditioned on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ActionChunkEncoder(nn.Module):
    """Per-step MLP, then a GRU over the steps (arXiv 2605.07079); the number of steps K may vary between calls.

    Args:
        action_dim: dimensions A of one action.
        width: channels of the embedding.
    """

    def __init__(self, action_dim: int, width: int) -> None:
        super().__init__()
        self.step = nn.Sequential(nn.Linear(action_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.recurrence = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, width)

    def forward(self, actions: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Actions ``(B, K, A)`` to an embedding ``(B, W)``.

        Args:
            actions: chunk; steps past a sample's length are ignored.
            lengths: valid steps ``(B,)`` int64 of each sample; None means all K.
        """
        states, _ = self.recurrence(self.step(actions))
        if lengths is None:
            return self.out(states[:, -1])
        return self.out(states[torch.arange(len(states), device=states.device), lengths - 1])
