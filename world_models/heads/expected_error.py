"""The error that a prediction expects of itself, token by token, and its calibration to held-out episodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.layers.linear import zero_linear

WIDTH = 32
"""Hidden channels of the head."""


class ExpectedErrorHead(nn.Module):
    """Hidden tokens of a predictor, and the error expected of its input, to the error expected of its output.

    Args:
        width: channels W of a hidden token.
    """

    calibration: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width + 1, WIDTH)
        self.out = zero_linear(WIDTH, 1)
        # Errors are larger on episodes that were not trained on: (a, b) of uncertainty = a * error ** b.
        self.register_buffer("calibration", torch.ones(2))

    def forward(self, tokens: Tensor, error: Tensor | None) -> Tensor:
        """Expected mean absolute error ``(B, L)`` float32 of each predicted token; no gradient reaches the inputs.

        Args:
            tokens: the predictor's last hidden tokens ``(B, L, W)``.
            error: error ``(B, L)`` expected of each token of a state that was itself predicted; None for real ones.
        """
        # The gradient stops here: predicting one's errors must not make them.
        tokens = tokens.detach()
        before = torch.zeros_like(tokens[:, :, 0]) if error is None else error.detach()
        hidden = F.gelu(self.hidden(torch.cat([tokens, before[:, :, None].to(tokens.dtype)], dim=-1)))
        return F.softplus(self.out(hidden).squeeze(-1).float() - 1.0)

    def uncertainty(self, error: Tensor) -> Tensor:
        """Expected errors ``(B, L)`` of the tokens to the calibrated error ``(B,)`` of a number of the whole state."""
        factor, power = self.calibration
        return factor * error.mean(dim=1) ** power
