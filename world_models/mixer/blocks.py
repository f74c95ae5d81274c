"""Mixer blocks over a fixed grid of tokens, and the stack of them that every model here is made of.

A fixed camera makes position mean something: a learned matrix between positions (MLP-Mixer, arXiv 2105.01601) reaches a
lower error than attention in the same time on these grids, at two fifths of its cost per block; docs/fidelity.md has
the numbers.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Mixing = Literal["positions", "attention"]
ATTENTION_HEAD = 32
"""Channels of an attention head."""


class PositionMixing(nn.Module):
    """The same two-layer perceptron over the L positions, for every channel."""

    def __init__(self, num_tokens: int, ratio: float = 2.0) -> None:
        super().__init__()
        hidden = int(num_tokens * ratio)
        self.token_in = nn.Linear(num_tokens, hidden)
        self.token_out = nn.Linear(hidden, num_tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, L, W)`` to the update ``(B, L, W)``."""
        return self.token_out(F.gelu(self.token_in(x.transpose(1, 2)))).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention, for grids too large for a matrix between positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % ATTENTION_HEAD:
            raise ValueError(f"width {width} is not a multiple of {ATTENTION_HEAD}, the channels of an attention head")
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, L, W)`` to the update ``(B, L, W)``."""
        heads = self.query_key_value(x).unflatten(2, (3, -1, ATTENTION_HEAD)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class MixerBlock(nn.Module):
    """Mixes positions, then channels; both branches optionally modulated (adaLN-zero, arXiv 2212.09748).

    Args:
        num_tokens: tokens L of the grid.
        width: channels W of a token.
        modulated: shift, scale and gate both branches by a condition vector.
        mixing: how tokens see each other.
        channel_ratio: hidden size of the channel perceptron over W.
    """

    def __init__(
        self,
        num_tokens: int,
        width: int,
        *,
        modulated: bool = False,
        mixing: Mixing = "positions",
        channel_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        if mixing not in ("positions", "attention"):
            raise ValueError(f"unknown mixing {mixing!r}: choose 'positions' or 'attention'")
        self.token_norm = nn.LayerNorm(width, elementwise_affine=not modulated)
        self.channel_norm = nn.LayerNorm(width, elementwise_affine=not modulated)
        channel_hidden = int(width * channel_ratio)
        self.token_mixing = PositionMixing(num_tokens) if mixing == "positions" else SelfAttention(width)
        self.channel_mlp = nn.Sequential(nn.Linear(width, channel_hidden), nn.GELU(), nn.Linear(channel_hidden, width))
        self.modulation: nn.Linear | None = None
        if modulated:
            self.modulation = nn.Linear(width, 6 * width)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Tokens ``(B, L, W)`` to tokens ``(B, L, W)``; ``condition`` is ``(B, W)`` when modulated."""
        if self.modulation is None:
            x = x + self.token_mixing(self.token_norm(x))
            return x + self.channel_mlp(self.channel_norm(x))
        if condition is None:
            raise ValueError("a modulated block needs a condition (B, W)")
        parts = self.modulation(F.silu(condition)).unsqueeze(1).chunk(6, dim=-1)
        token_shift, token_scale, token_gate, channel_shift, channel_scale, channel_gate = parts
        x = x + token_gate * self.token_mixing(self.token_norm(x) * (1 + token_scale) + token_shift)
        return x + channel_gate * self.channel_mlp(self.channel_norm(x) * (1 + channel_scale) + channel_shift)


class Mixer(nn.Module):
    """A stack of mixer blocks over embedded tokens.

    Args:
        num_tokens: tokens L.
        channels_in: channels of a token as it comes.
        width: channels W inside.
        depth: blocks.
        modulated: whether a condition vector steers the blocks.
        mixing: how tokens see each other.
    """

    def __init__(
        self,
        num_tokens: int,
        channels_in: int,
        width: int,
        depth: int,
        *,
        modulated: bool = False,
        mixing: Mixing = "positions",
    ) -> None:
        super().__init__()
        self.token_in = nn.Linear(channels_in, width)
        self.positions = nn.Parameter(torch.randn(num_tokens, width) * 0.02)
        self.blocks = nn.ModuleList(
            MixerBlock(num_tokens, width, modulated=modulated, mixing=mixing) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, condition: Tensor | None = None) -> Tensor:
        """Tokens ``(B, L, channels_in)`` to normalised tokens ``(B, L, W)``; ``condition`` is ``(B, W)``."""
        precision = self.positions.dtype  # bfloat16 where the model was asked for reduced precision
        x = self.token_in(tokens.to(precision)) + self.positions
        condition = None if condition is None else condition.to(precision)
        for block in self.blocks:
            x = block(x, condition)
        return self.norm(x).to(tokens.dtype)
