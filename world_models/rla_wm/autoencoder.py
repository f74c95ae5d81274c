"""The Residual Latent Action autoencoder: a few tokens that explain the change between two states.

Encoder and decoder are transformers, trained on frames alone, without actions (arXiv 2605.07079).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from world_models.dataclass_reader import check_ranges
from world_models.layers.linear import zero_linear
from world_models.rla_wm.blocks import Transformer, learned_tokens


@dataclass(frozen=True)
class RLAConfig:
    """Sizes of the autoencoder.

    Attributes:
        latents: number n of latent tokens, 1 to 4096.
        latent_dim: channels d of a latent token, 1 to 4096.
        width: channels inside, 2 to 8192.
        depth: blocks of the encoder, and of the decoder, 1 to 128.
        heads: attention heads, 1 to 256.
        horizon: largest number of frames h between the two states of a training pair; the smallest is 2.

    Raises:
        ValueError: a size is out of its range.
    """

    latents: int = 16
    latent_dim: int = 16
    width: int = 128
    depth: int = 4
    heads: int = 4
    horizon: int = 16

    def __post_init__(self) -> None:
        check_ranges(
            self, latents=(1, 4096), latent_dim=(1, 4096), width=(2, 8192), depth=(1, 128), heads=(1, 256),
            horizon=(2, 10_000),
        )  # fmt: skip


class RLAutoencoder(nn.Module):
    """Encodes s_(t+h) - s_t into latent tokens, and decodes these on top of s_t.

    Args:
        config: sizes.
        num_tokens: tokens L of a state.
        channels: channels C of a token.
    """

    def __init__(self, config: RLAConfig, num_tokens: int, channels: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.queries = learned_tokens(config.latents, width)
        self.residual_in = nn.Linear(channels, width)
        self.residual_positions = learned_tokens(num_tokens, width)
        self.encoder = Transformer(width, config.depth, config.heads)
        self.latent_out = nn.Linear(width, config.latent_dim)
        self.latent_in = nn.Linear(config.latent_dim, width)
        self.latent_positions = learned_tokens(config.latents, width)
        self.state_in = nn.Linear(channels, width)
        self.state_positions = learned_tokens(num_tokens, width)
        self.decoder = Transformer(width, config.depth, config.heads)
        self.residual_out = zero_linear(width, channels)

    def encode(self, features: Tensor, next_features: Tensor) -> Tensor:
        """States ``(B, L, C)`` at t and t + h to the latent action ``(B, n, d)``."""
        residual = self.residual_in(next_features - features) + self.residual_positions
        queries = self.queries.expand(len(residual), -1, -1)
        hidden = self.encoder(torch.cat([queries.to(residual.dtype), residual], dim=1))
        return self.latent_out(hidden[:, : self.config.latents])

    def decode(self, features: Tensor, latent: Tensor) -> Tensor:
        """State ``(B, L, C)`` at t and latent action ``(B, n, d)`` to the state ``(B, L, C)`` at t + h, float32."""
        tokens = torch.cat(
            [self.latent_in(latent) + self.latent_positions, self.state_in(features) + self.state_positions], dim=1
        )
        hidden = self.decoder(tokens)[:, self.config.latents :]
        return features.float() + self.residual_out(hidden).float()

    def forward(self, features: Tensor, next_features: Tensor) -> Tensor:
        """Reconstruction ``(B, L, C)`` of the later state through the bottleneck."""
        return self.decode(features, self.encode(features, next_features))
