"""Attention pooling with learned queries, the one way in which tokens become a vector here.

Perceiver (arXiv 2103.03206) and V-JEPA's attentive probes (arXiv 2404.08471) pool in this way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionPool(nn.Module):
    """Q learned queries attend over tokens; each gathers what it looks for. One head: attention lies where a thing is.

    Args:
        queries: number Q of queries.
        width: channels W of a query and of a key.
        spread: standard deviation of the initial queries. With unit-variance keys a spread of one or more lets each
            query look elsewhere from the start; near-uniform attention takes hundreds of steps to find a place.
        scale: factor of the products of queries and keys; None takes 1 / sqrt(W).
        positions: number L of tokens, to learn beside the queries how much each of them prefers each position; None
            leaves positions to the keys.
    """

    def __init__(
        self,
        queries: int,
        width: int,
        *,
        spread: float = 1.0,
        scale: float | None = None,
        positions: int | None = None,
    ) -> None:
        super().__init__()
        self._scale = scale
        self.queries = nn.Parameter(torch.randn(queries, width) * spread)
        self.position_bias = None if positions is None else nn.Parameter(torch.zeros(queries, positions))

    def forward(self, keys: Tensor, values: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """What the queries gather.

        Args:
            keys: tokens ``(B, L, W)``.
            values: what is gathered, ``(B, L, V)``; None takes the keys.
            shift: added to the queries of each sample, ``(B, Q, W)``, to steer where they look.

        Returns:
            ``(B, Q, V)``, of the keys' dtype.
        """
        keys = keys.unsqueeze(1)
        values = keys if values is None else values.unsqueeze(1)
        queries = self.queries.expand(len(keys), 1, -1, -1) if shift is None else (self.queries + shift).unsqueeze(1)
        gathered = F.scaled_dot_product_attention(
            queries.to(keys.dtype), keys, values, self.position_bias, scale=self._scale
        )
        return gathered.squeeze(1)


class PositionedTokens(nn.Module):
    """Tokens projected to W channels, with a learned embedding of their position, normalised: keys for a pool.

    Args:
        num_tokens: tokens L.
        channels: channels C of a token.
        width: channels W of a key.
        initial: gives the position embeddings ``(L, W)`` to begin with, from L and W; None draws them.
    """

    def __init__(
        self, num_tokens: int, channels: int, width: int, initial: Callable[[int, int], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width)
        self.position = nn.Parameter((initial or random_positions)(num_tokens, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, L, C)`` to keys ``(B, L, W)``."""
        return self.norm(self.project(tokens) + self.position)


def random_positions(num_tokens: int, width: int) -> Tensor:
    """Position embeddings ``(L, W)`` without any order."""
    return 0.5 * torch.randn(num_tokens, width)
