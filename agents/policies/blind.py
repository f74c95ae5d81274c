"""The blind policy: a fixed table of action chunks, whatever the state is."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.policies.base import Policy


class BlindPolicy(Policy):
    """Plays a fixed table of action chunks by the step index; past its end the last chunk is repeated.

    Args:
        num_tokens: L of the observations it ignores.
        channels: C of the observations it ignores.
        chunk_length: K control steps in a chunk.
        action_dim: A numbers in a control step.
        num_chunks: chunks in the table.
    """

    kind = "blind"
    SIZES = (*Policy.SIZES, "num_chunks")
    actions: Tensor

    def __init__(self, num_tokens: int, channels: int, chunk_length: int, action_dim: int, num_chunks: int) -> None:
        super().__init__(num_tokens, channels, chunk_length, action_dim)
        self.num_chunks = num_chunks
        self.register_buffer("actions", torch.zeros(num_chunks, self.action_size))

    def forward(self, features: Tensor, step: Tensor | None = None) -> Tensor:
        if step is None:
            raise ValueError("the blind policy reads the chunk index alone: call act(features, step) with step (B,)")
        return self.actions[step.to(self.actions.device).long().clamp(0, self.num_chunks - 1)]
