"""A linear layer that starts at zero."""

from __future__ import annotations

from torch import nn


def zero_linear(channels_in: int, channels_out: int) -> nn.Linear:
    """A linear layer that gives zero at first, so that what it is added to starts unchanged."""
    layer = nn.Linear(channels_in, channels_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
