"""The policy that learns: attention pooling over a state's tokens, an MLP, and a Gaussian over action chunks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from agents.policies.base import Policy
from world_models.layers.attention_pool import AttentionPool, PositionedTokens, random_positions


class TokenTrunk(nn.Module):
    """Attention pooling over tokens with learned queries, then an MLP: (B, L, C) -> (B, hidden).

    The queries attend straight to the projected tokens (no key and value projections: both fold into the queries and
    into the MLP), so the only work per token is one linear layer, and a batch of 64 is cheap on a CPU.

    Args:
        num_tokens: tokens L.
        channels: channels C of a token.
        width: channels of a token inside.
        queries: learned queries of the pooling.
        hidden: channels of the output.

    Attributes:
        hidden: the same.
    """

    def __init__(self, num_tokens: int, channels: int, width: int = 128, queries: int = 8, hidden: int = 256) -> None:
        super().__init__()
        self.hidden = hidden
        self.embed = PositionedTokens(num_tokens, channels, width, position_embedding)
        self.pool = AttentionPool(queries, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(queries * width),
            nn.Linear(queries * width, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """features (B, L, C) -> (B, hidden)."""
        return self.mlp(self.pool(self.embed(features)).flatten(1))


def position_embedding(num_tokens: int, width: int) -> Tensor:
    """Initial value (L, width) of a learned position embedding: 2-D sine and cosine for a square grid, else random."""
    side = math.isqrt(num_tokens)
    if side * side != num_tokens or width % 4:
        return random_positions(num_tokens, width)
    # periods of twenty tokens down to two: the slow ones alone tell distant positions apart
    frequencies = math.pi * torch.logspace(-1.0, 0.0, width // 4)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = torch.stack([rows.flatten(), columns.flatten()], 1)[:, :, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 2).flatten(1)


class TokenPolicy(Policy):
    """Gaussian policy over patch tokens: attention pooling, MLP, linear mean, state-independent log std.

    The mean has no tanh: actions are clipped by the environment, and PPO's ratios stay those of a plain Gaussian.

    Args:
        num_tokens: L patch tokens.
        channels: C channels of a token.
        chunk_length: K control steps in a chunk.
        action_dim: A numbers in a control step.
        width: channels of a token inside the policy.
        queries: learned queries of the attention pooling.
    """

    kind = "token"
    SIZES = (*Policy.SIZES, "width", "queries")

    def __init__(
        self,
        num_tokens: int,
        channels: int,
        chunk_length: int,
        action_dim: int,
        width: int = 128,
        queries: int = 8,
    ) -> None:
        super().__init__(num_tokens, channels, chunk_length, action_dim)
        self.width = width
        self.queries = queries
        self.trunk = self.new_trunk()
        self.head = nn.Linear(self.trunk.hidden, self.action_size)
        self.log_std = nn.Parameter(torch.full((self.action_size,), math.log(0.15)))

    def forward(self, features: Tensor, step: Tensor | None = None) -> Tensor:
        return self.head(self.trunk(features))

    def new_trunk(self) -> TokenTrunk:
        """A trunk of the policy's sizes with weights of its own, newly drawn."""
        return TokenTrunk(self.num_tokens, self.channels, self.width, self.queries, hidden=2 * self.width)


class TokenCritic(nn.Module):
    """Value of features, with a trunk of its own in the policy's sizes: its gradients leave the actor's trunk alone.

    The time in the episode is no input: truncated episodes are bootstrapped, so values are those of endless episodes.
    """

    def __init__(self, policy: TokenPolicy) -> None:
        super().__init__()
        self.trunk = policy.new_trunk()
        # a copy of the cloned trunk, whose features already serve to act: a better start than random weights
        self.trunk.load_state_dict(policy.trunk.state_dict())
        self.head = nn.Linear(self.trunk.hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, L, C) -> values (B,)."""
        return self.head(self.trunk(features)).squeeze(-1)
