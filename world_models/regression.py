"""Deterministic world model in feature space, in the manner of DINO-WM (arXiv 2411.04983).

It is the baseline, and the first stage of the flow: what can be foretold needs no noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.action_chunk import ActionChunkEncoder
from world_models.mixer import Mixer, Mixing, zero_linear
from world_models.proprioception import tile, untile
from world_models.rla import token_loss

ERROR_WIDTH = 32
"""Hidden channels of the head that expects errors."""


@dataclass(frozen=True)
class RegressionConfig:
    """Sizes of the regression model: width and number of its mixer blocks, and how tokens see each other in them."""

    width: int = 160
    depth: int = 6
    mixing: Mixing = "positions"


class ResidualPrediction(NamedTuple):
    """What a :class:`FeatureRegression` says of the state after a chunk.

    Attributes:
        residual: change of the state ``(B, L, C)``.
        tokens: the model's last hidden tokens ``(B, L, W)``.
        error: mean absolute error ``(B, L)`` that the model expects of each token, that of its input included.
        readings: foretold standardised proprioceptive values ``(B, 2, R)``: with nothing in the hand's way, and with
            what is there; or None.
    """

    residual: Tensor
    tokens: Tensor
    error: Tensor
    readings: Tensor | None


class FeatureRegression(nn.Module):
    """Predicts s_(t+K) directly from s_t and an action chunk, and how wrong that will be.

    Args:
        config: sizes.
        num_tokens: tokens L of a state; the last is the proprioceptive one, where there are readings.
        channels: channels C of a token.
        action_dim: dimensions A of one action.
        readings: values R in the proprioceptive token; 0 for a world from video alone.
    """

    error_calibration: Tensor

    def __init__(
        self, config: RegressionConfig, num_tokens: int, channels: int, action_dim: int, readings: int = 0
    ) -> None:
        super().__init__()
        self.config, self.readings = config, readings
        self.chunk_encoder = ActionChunkEncoder(action_dim, config.width, readings, num_tokens - 1, channels)
        self.mixer = Mixer(num_tokens, channels, config.width, config.depth, modulated=True, mixing=config.mixing)
        self.residual_out = zero_linear(config.width, channels)
        self.error_in = nn.Linear(config.width + 1, ERROR_WIDTH)
        self.error_out = zero_linear(ERROR_WIDTH, 1)
        # Errors are larger on episodes that were not trained on: (a, b) of uncertainty = a * error ** b.
        self.register_buffer("error_calibration", torch.ones(2))

    def forward(
        self, features: Tensor, actions: Tensor, lengths: Tensor | None = None, error: Tensor | None = None
    ) -> ResidualPrediction:
        """State ``(B, L, C)`` and actions ``(B, K, A)`` to what changes.

        Args:
            features: states.
            actions: chunks.
            lengths: valid steps ``(B,)`` int64 of each chunk; None means all K.
            error: error ``(B, L)`` expected of each token of a state that was itself predicted; None for real ones.
        """
        channels = features.shape[2]
        chunk, foretold, present = self._read_chunk(features, actions, lengths)
        tokens = self.mixer(features, chunk)
        residual = self.residual_out(tokens)
        if foretold is not None and present is not None:
            # What the robot will sense is known; the tokens correct it.
            known = tile((foretold[:, 1] - present).detach(), channels)
            residual = torch.cat([residual[:, :-1], residual[:, -1:] + known.to(residual.dtype)], dim=1)
        # The gradient stops here: foretelling one's errors must not make them.
        held = torch.zeros_like(features[:, :, 0]) if error is None else error.detach()
        hidden = F.gelu(self.error_in(torch.cat([tokens.detach(), held[:, :, None].to(tokens.dtype)], dim=-1)))
        expected = F.softplus(self.error_out(hidden).squeeze(-1).float() - 1.0)
        return ResidualPrediction(residual, tokens, expected, foretold)

    def uncertainty(self, error: Tensor) -> Tensor:
        """Expected errors ``(B, L)`` of the tokens to the calibrated one ``(B,)`` of a number of the whole state."""
        factor, power = self.error_calibration
        return factor * error.mean(dim=1) ** power

    def loss(self, prediction: ResidualPrediction, features: Tensor, target: Tensor) -> Tensor:
        """L1 + MSE of the tokens, L1 of the foretold readings, and the error of the foretold errors, a scalar.

        Args:
            prediction: made from ``features``.
            features: states ``(B, L, C)`` at t.
            target: states ``(B, L, C)`` after the chunk.
        """
        residual = target - features
        loss = token_loss(prediction.residual, residual)
        actual = (prediction.residual.detach().float() - residual).abs().mean(dim=2)
        loss = loss + 0.1 * F.mse_loss(prediction.error, actual)
        if prediction.readings is not None:
            loss = loss + readings_loss(prediction.readings, untile(target[:, -1:], self.readings))
        return loss

    def foretold_readings_loss(self, features: Tensor, actions: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """The part of :meth:`loss` that the chunk encoder has to itself, at a fraction of the cost; a scalar.

        Args:
            features: states ``(B, L, C)`` with readings.
            actions: chunks ``(B, K, A)``.
            lengths: valid steps ``(B,)`` int64 of each chunk.
            target: states ``(B, L, C)`` after the chunks.
        """
        _, foretold, _ = self._read_chunk(features, actions, lengths)
        assert foretold is not None
        return readings_loss(foretold, untile(target[:, -1:], self.readings))

    def _read_chunk(
        self, features: Tensor, actions: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embedding ``(B, W)`` of the chunk, foretold readings ``(B, 2, R)`` and present ones ``(B, R)``, if any."""
        if not self.readings:
            return *self.chunk_encoder(actions, lengths), None
        present = untile(features[:, -1:], self.readings)
        return *self.chunk_encoder(actions, lengths, present, features[:, :-1]), present


def readings_loss(foretold: Tensor, actual: Tensor) -> Tensor:
    """L1 of readings foretold twice ``(B, 2, R)``, each against the actual ones ``(B, R)``, added up; a scalar.

    An absolute error makes them the likeliest outcome where there are two, and not the middle between.
    """
    return 2 * F.l1_loss(foretold.float(), actual[:, None].expand_as(foretold).float())
