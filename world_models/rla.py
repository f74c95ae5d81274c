"""Residual Latent Action autoencoder (arXiv 2605.07079): a few tokens that explain s_(t+h) - s_t."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from world_models.transformer import Block, learned_tokens


@dataclass(frozen=True)
class RLAConfig:
    """Sizes of the autoencoder.

    Attributes:
        latents: number n of latent tokens.
        latent_dim: channels d of a latent token.
        width: channels inside the transformers.
        encoder_depth: blocks of the encoder.
        decoder_depth: blocks of the decoder.
        heads: attention heads.
        horizon: largest number of frames h between the two states of a training pair.
    """

    latents: int = 16
    latent_dim: int = 32
    width: int = 160
    encoder_depth: int = 2
    decoder_depth: int = 4
    heads: int = 5
    horizon: int = 12


class RLA(nn.Module):
    """Encodes the change of features between two frames and decodes it on top of the first.

    Args:
        config: sizes.
        num_tokens: patch tokens L of a state.
        channels: channels C of a patch token.
    """

    def __init__(self, config: RLAConfig, num_tokens: int, channels: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.residual_in = nn.Linear(channels, width)
        self.encoder_positions = learned_tokens(num_tokens, width)
        self.queries = learned_tokens(config.latents, width)
        self.encoder = nn.ModuleList(Block(width, config.heads) for _ in range(config.encoder_depth))
        self.latent_out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.latent_dim))

        self.state_in = nn.Linear(channels, width)
        self.decoder_positions = learned_tokens(num_tokens, width)
        self.latent_in = nn.Linear(config.latent_dim, width)
        self.latent_positions = learned_tokens(config.latents, width)
        self.decoder = nn.ModuleList(Block(width, config.heads) for _ in range(config.decoder_depth))
        self.residual_out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))
        # Zero output at the start: the decoder begins as persistence and learns only what moves.
        output = self.residual_out[1]
        assert isinstance(output, nn.Linear)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)

    def encode(self, features: Tensor, next_features: Tensor) -> Tensor:
        """States ``(B, L, C)`` at t and t + h to the latent action ``(B, n, d)``."""
        tokens = self.residual_in(next_features - features) + self.encoder_positions
        x = torch.cat([self.queries.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        for block in self.encoder:
            x = block(x)
        return self.latent_out(x[:, : self.config.latents])

    def decode(self, features: Tensor, latent: Tensor) -> Tensor:
        """State ``(B, L, C)`` at t and latent action ``(B, n, d)`` to the state ``(B, L, C)`` at t + h."""
        latents = self.latent_in(latent) + self.latent_positions
        tokens = self.state_in(features) + self.decoder_positions
        x = torch.cat([latents.to(tokens.dtype), tokens], dim=1)
        for block in self.decoder:
            x = block(x)
        return features + self.residual_out(x[:, self.config.latents :])

    def forward(self, features: Tensor, next_features: Tensor) -> Tensor:
        """Reconstruction ``(B, L, C)`` of the later state through the bottleneck."""
        return self.decode(features, self.encode(features, next_features))


def motion_weights(features: Tensor, next_features: Tensor, strength: float = 2.0) -> Tensor:
    """Weight ``(B, L, 1)`` of each token in the loss, one on average, higher where the residual moves.

    Most of a robot video is still background; without the weights the loss is spent on it.
    """
    motion = (next_features - features).abs().mean(dim=-1, keepdim=True)
    weights = 1.0 + strength * motion / motion.mean().clamp_min(1e-6)
    return weights / weights.mean()


def token_loss(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted L1 + MSE between tokens ``(B, L, C)``, a scalar."""
    error = prediction.float() - target
    return (weights * (error.abs() + error.square())).mean()
