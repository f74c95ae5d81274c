"""Residual Latent Action autoencoder (arXiv 2605.07079): a few tokens that explain s_(t+h) - s_t.

The encoder is linear and solved in closed form: the principal components of the residuals of whole states. Twenty
seconds of it beat an hour of a trained transformer encoder here, and because the components are orthonormal, an error
of the latent action *is* the error of the tokens, which is what the flow should minimise. The decoder adds what the
components left out, seen from s_t.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from world_models.mixer import Mixer, Mixing, zero_linear


@dataclass(frozen=True)
class RLAConfig:
    """Sizes of the autoencoder.

    Attributes:
        latents: number n of latent tokens.
        latent_dim: channels d of a latent token.
        width: channels inside the decoder.
        depth: blocks of the decoder.
        mixing: how the decoder's tokens see each other.
        horizon: largest number of frames h between the two states of a training pair.
    """

    latents: int = 32
    latent_dim: int = 32
    width: int = 160
    depth: int = 3
    mixing: Mixing = "positions"
    horizon: int = 12


class RLA(nn.Module):
    """Encodes the change of features between two frames and decodes it on top of the first.

    Args:
        config: sizes.
        num_tokens: tokens L of a state.
        channels: channels C of a token.

    Raises:
        ValueError: the latent action is larger than the state.
    """

    components: Tensor

    def __init__(self, config: RLAConfig, num_tokens: int, channels: int) -> None:
        super().__init__()
        self.config = config
        self.state_shape = (num_tokens, channels)
        size, latent_size = num_tokens * channels, config.latents * config.latent_dim
        if latent_size > size:
            raise ValueError(
                f"{config.latents} x {config.latent_dim} latents are more than the {size} numbers of a state"
            )
        self.register_buffer("components", torch.zeros(size, latent_size))
        self.decoder = Mixer(num_tokens, 2 * channels, config.width, config.depth, mixing=config.mixing)
        self.detail_out = zero_linear(config.width, channels)

    @torch.no_grad()
    def fit_components(self, residuals: Tensor) -> None:
        """Take the principal components of residuals ``(N, L, C)``, uncentred, so that no motion is the zero latent."""
        flat = residuals.flatten(1).float()
        covariance = flat.T @ flat / len(flat)
        self.components.copy_(torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : self.components.shape[1]])

    def encode(self, features: Tensor, next_features: Tensor) -> Tensor:
        """States ``(B, L, C)`` at t and t + h to the latent action ``(B, n, d)``."""
        residual = next_features - features
        latent = residual.flatten(1) @ self.components.to(residual.dtype)
        return latent.unflatten(1, (self.config.latents, self.config.latent_dim))

    def decode(self, features: Tensor, latent: Tensor) -> Tensor:
        """State ``(B, L, C)`` at t and latent action ``(B, n, d)`` to the state ``(B, L, C)`` at t + h."""
        residual = self.residual(latent)
        detail = self.detail_out(self.decoder(torch.cat([features, residual], dim=-1)))
        return features + residual + detail

    def residual(self, latent: Tensor) -> Tensor:
        """Change of a state ``(B, L, C)`` that a latent action ``(B, n, d)`` tells, without the decoder's detail."""
        return (latent.flatten(1) @ self.components.T.to(latent.dtype)).unflatten(1, self.state_shape)

    def forward(self, features: Tensor, next_features: Tensor) -> Tensor:
        """Reconstruction ``(B, L, C)`` of the later state through the bottleneck."""
        return self.decode(features, self.encode(features, next_features))


def token_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 + MSE between tokens ``(B, L, C)``, a scalar."""
    error = prediction.float() - target
    return (error.abs() + error.square()).mean()
