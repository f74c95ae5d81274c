"""Deterministic world model in feature space, in the manner of DINO-WM (arXiv 2411.04983): the baseline."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from world_models.action_chunk import ActionChunkEncoder
from world_models.transformer import Block, learned_tokens


@dataclass(frozen=True)
class RegressionConfig:
    """Sizes of the regression model: transformer width, blocks and attention heads."""

    width: int = 160
    depth: int = 8
    heads: int = 5


class FeatureRegression(nn.Module):
    """Predicts s_(t+K) directly from s_t and an action chunk.

    Args:
        config: sizes.
        num_tokens: patch tokens L of a state.
        channels: channels C of a patch token.
        action_dim: dimensions A of one action.
    """

    def __init__(self, config: RegressionConfig, num_tokens: int, channels: int, action_dim: int) -> None:
        super().__init__()
        self.config = config
        self.chunk_encoder = ActionChunkEncoder(action_dim, config.width)
        self.state_in = nn.Linear(channels, config.width)
        self.positions = learned_tokens(num_tokens, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, modulated=True) for _ in range(config.depth))
        self.residual_out = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, channels))
        output = self.residual_out[1]
        assert isinstance(output, nn.Linear)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)

    def forward(self, features: Tensor, actions: Tensor, lengths: Tensor | None = None) -> Tensor:
        """State ``(B, L, C)`` and actions ``(B, K, A)`` to the state ``(B, L, C)`` after the chunk."""
        chunk = self.chunk_encoder(actions, lengths)
        x = self.state_in(features) + self.positions
        for block in self.blocks:
            x = block(x, chunk)
        return features + self.residual_out(x)
