"""Deterministic prediction of the next state's features by a mixer, in the manner of DINO-WM (arXiv 2411.04983)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.dataclass_reader import check_ranges
from world_models.encoders.proprioception import tile, untile
from world_models.heads.expected_error import ExpectedErrorHead
from world_models.layers.linear import zero_linear
from world_models.mixer.action_chunk import ActionChunkEncoder
from world_models.mixer.blocks import Mixer, Mixing


@dataclass(frozen=True)
class RegressionConfig:
    """Sizes of the regression model.

    Attributes:
        width: channels inside, 2 to 8192.
        depth: mixer blocks, 1 to 128.
        mixing: how tokens see each other in them.

    Raises:
        ValueError: a size is out of its range.
    """

    width: int = 160
    depth: int = 6
    mixing: Mixing = "positions"

    def __post_init__(self) -> None:
        check_ranges(self, width=(2, 8192), depth=(1, 128))


class ResidualPrediction(NamedTuple):
    """What a :class:`MixerRegression` says of the state after a chunk.

    Attributes:
        residual: change of the state ``(B, L, C)``.
        tokens: the model's last hidden tokens ``(B, L, W)``.
        error: mean absolute error ``(B, L)`` that the model expects of each token, that of its input included.
        proprioception: predicted standardised values ``(B, 2, R)``: with nothing in the hand's way, and with what is
            there; or None.
    """

    residual: Tensor
    tokens: Tensor
    error: Tensor
    proprioception: Tensor | None


class MixerRegression(nn.Module):
    """Predicts s_(t+K) directly from s_t and an action chunk, and the error of that prediction.

    Args:
        config: sizes.
        num_tokens: tokens L of a state; the last is the proprioceptive one, where there is one.
        channels: channels C of a token.
        action_dim: dimensions A of one action.
        proprioception_dim: values R in the proprioceptive token; 0 for a world from video alone.
    """

    def __init__(
        self, config: RegressionConfig, num_tokens: int, channels: int, action_dim: int, proprioception_dim: int = 0
    ) -> None:
        super().__init__()
        self.config, self.proprioception_dim = config, proprioception_dim
        self.chunk_encoder = ActionChunkEncoder(action_dim, config.width, proprioception_dim, num_tokens - 1, channels)
        self.mixer = Mixer(num_tokens, channels, config.width, config.depth, modulated=True, mixing=config.mixing)
        self.residual_out = zero_linear(config.width, channels)
        self.expected_error = ExpectedErrorHead(config.width)

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
        chunk, predicted, present = self._encode_chunk(features, actions, lengths)
        tokens = self.mixer(features, chunk)
        residual = self.residual_out(tokens)
        if predicted is not None and present is not None:
            # The chunk encoder has predicted proprioception already; the tokens correct it.
            change = tile((predicted[:, 1] - present).detach(), channels)
            residual = torch.cat([residual[:, :-1], residual[:, -1:] + change.to(residual.dtype)], dim=1)
        return ResidualPrediction(residual, tokens, self.expected_error(tokens, error), predicted)

    def loss(self, prediction: ResidualPrediction, features: Tensor, target: Tensor) -> Tensor:
        """L1 + MSE of the tokens, L1 of the predicted proprioception, MSE of the expected errors; a scalar.

        Args:
            prediction: made from ``features``.
            features: states ``(B, L, C)`` at t.
            target: states ``(B, L, C)`` after the chunk.
        """
        residual = target - features
        loss = token_loss(prediction.residual, residual)
        actual = (prediction.residual.detach().float() - residual).abs().mean(dim=2)
        loss = loss + 0.1 * F.mse_loss(prediction.error, actual)
        if prediction.proprioception is not None:
            actual_values = untile(target[:, -1:], self.proprioception_dim)
            loss = loss + proprioception_loss(prediction.proprioception, actual_values)
        return loss

    def proprioception_loss(self, features: Tensor, actions: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """The part of :meth:`loss` that the chunk encoder has to itself, at a fraction of the cost; a scalar.

        Args:
            features: states ``(B, L, C)`` with proprioception.
            actions: chunks ``(B, K, A)``.
            lengths: valid steps ``(B,)`` int64 of each chunk.
            target: states ``(B, L, C)`` after the chunks.
        """
        _, predicted, _ = self._encode_chunk(features, actions, lengths)
        assert predicted is not None
        return proprioception_loss(predicted, untile(target[:, -1:], self.proprioception_dim))

    def _encode_chunk(
        self, features: Tensor, actions: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embedding ``(B, W)``, predicted proprioception ``(B, 2, R)`` and the present one ``(B, R)``, if any."""
        if not self.proprioception_dim:
            return *self.chunk_encoder(actions, lengths), None
        present = untile(features[:, -1:], self.proprioception_dim)
        return *self.chunk_encoder(actions, lengths, present, features[:, :-1]), present


def token_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 + MSE between tokens ``(B, L, C)``, a scalar."""
    error = prediction.float() - target
    return (error.abs() + error.square()).mean()


def proprioception_loss(predicted: Tensor, actual: Tensor) -> Tensor:
    """L1 of proprioception predicted twice ``(B, 2, R)``, each against the actual values ``(B, R)``; their sum, scalar.

    Where there are two outcomes, an absolute error leads to the likelier one, and not to the middle between them.
    """
    return 2 * F.l1_loss(predicted.float(), actual[:, None].expand_as(predicted).float())
