"""A look at what the hand is about to meet: attention over a state's tokens from where the hand is and will be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from world_models.layers.attention_pool import AttentionPool, PositionedTokens


class HandAttention(nn.Module):
    """A few queries, steered by the hand's path, gather what lies on it: tokens ``(B, L, C)`` to ``(B, W)``.

    Whether a grasp holds depends on where the object lies between the fingers, and on nothing else in the picture.
    Queries that follow the hand learn that from a few thousand grasps; mixing all tokens with all does not.

    Args:
        num_tokens: visual tokens L.
        channels: channels C of a token.
        path: numbers P that describe the hand's path.
        width: channels W of the output.
        queries: places that are looked at.
        inner: channels of a token inside.
    """

    def __init__(
        self, num_tokens: int, channels: int, path: int, width: int, queries: int = 8, inner: int = 96
    ) -> None:
        super().__init__()
        self.embed = PositionedTokens(num_tokens, channels, inner)
        self.pool = AttentionPool(queries, inner)
        self.steer = nn.Sequential(nn.Linear(path, width), nn.SiLU(), nn.Linear(width, queries * inner))
        self.out = nn.Sequential(
            nn.LayerNorm(queries * inner + path),
            nn.Linear(queries * inner + path, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width),
            nn.SiLU(),
        )

    def forward(self, tokens: Tensor, path: Tensor) -> Tensor:
        """Visual tokens ``(B, L, C)`` and the hand's path ``(B, P)`` to what lies on the path ``(B, W)``."""
        shift = self.steer(path).unflatten(1, self.pool.queries.shape)
        seen = self.pool(self.embed(tokens), shift=shift)
        return self.out(torch.cat([seen.flatten(1), path.to(seen.dtype)], dim=1))
