"""Latent actions by projection: the principal components of changes of the state.

A linear stand-in for the Residual Latent Action autoencoder of arXiv 2605.07079, whose encoder and decoder are learned
transformers. It is solved in closed form in seconds. Its components are orthonormal, so an error of the latent action
equals the error of the tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentProjection(nn.Module):
    """Residuals of states ``(L, C)`` to latent actions of n tokens with d channels, and back.

    Args:
        num_tokens: tokens L of a state.
        channels: channels C of a token.
        latents: latent tokens n.
        latent_dim: channels d of a latent token.

    Raises:
        ValueError: the latent action is larger than the state.
    """

    components: Tensor

    def __init__(self, num_tokens: int, channels: int, latents: int, latent_dim: int) -> None:
        super().__init__()
        self.state_shape, self.latent_shape = (num_tokens, channels), (latents, latent_dim)
        size, latent_size = num_tokens * channels, latents * latent_dim
        if latent_size > size:
            raise ValueError(f"{latents} x {latent_dim} latents are more than the {size} numbers of a state")
        self.register_buffer("components", torch.zeros(size, latent_size))

    @torch.no_grad()
    def fit(self, residuals: Tensor) -> None:
        """Take the principal components of residuals ``(N, L, C)``, uncentred, so that no motion is the zero latent."""
        flat = residuals.flatten(1).float()
        covariance = flat.T @ flat / len(flat)
        self.components.copy_(torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : self.components.shape[1]])

    def encode(self, features: Tensor, next_features: Tensor) -> Tensor:
        """States ``(B, L, C)`` at t and t + h to the latent action ``(B, n, d)``."""
        residual = next_features - features
        return (residual.flatten(1) @ self.components.to(residual.dtype)).unflatten(1, self.latent_shape)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent action ``(B, n, d)`` to the change of the state ``(B, L, C)`` that it stands for."""
        return (latent.flatten(1) @ self.components.T.to(latent.dtype)).unflatten(1, self.state_shape)
