"""The transformer parts that the latent-action autoencoder and the world models share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KeysAndValues = tuple[Tensor, Tensor]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(B, L, W)`` to ``(B, heads, L, W / heads)``."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, heads, L, D)`` to ``(B, L, heads * D)``."""
    batch, heads, length, depth = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * depth)


class CrossAttention(nn.Module):
    """Attention from ``x`` to a context whose keys and values are computed once and reused by every solver step."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def keys_and_values(self, context: Tensor) -> KeysAndValues:
        """Keys and values ``(B, heads, S, D)`` of a context ``(B, S, W)``."""
        keys, values = self.key_value(context).chunk(2, dim=-1)
        return split_heads(keys, self.heads), split_heads(values, self.heads)

    def forward(self, x: Tensor, keys_and_values: KeysAndValues) -> Tensor:
        """``(B, L, W)`` to the attended update ``(B, L, W)``, without the residual connection."""
        queries = split_heads(self.query(self.norm(x)), self.heads)
        return self.out(merge_heads(F.scaled_dot_product_attention(queries, *keys_and_values)))


class Block(nn.Module):
    """Pre-norm transformer block, optionally modulated (adaLN-zero, arXiv 2212.09748) and with cross-attention.

    Args:
        width: channels of a token.
        heads: attention heads; must divide ``width``.
        mlp_ratio: hidden width of the MLP over ``width``.
        modulated: shift, scale and gate both branches by a condition vector.
        cross: attend to a context between self-attention and the MLP.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float = 4.0, *, modulated: bool = False, cross: bool = False
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}; choose heads that divide it")
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=not modulated)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.cross_attention = CrossAttention(width, heads) if cross else None
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=not modulated)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation: nn.Sequential | None = None
        if modulated:
            # Through a bottleneck: full-rank modulation would hold a third of the block's parameters.
            out = nn.Linear(width // 4, 6 * width)
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)
            self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, width // 4), nn.SiLU(), out)

    def forward(self, x: Tensor, condition: Tensor | None = None, context: KeysAndValues | None = None) -> Tensor:
        """Tokens ``(B, L, W)`` to tokens ``(B, L, W)``; ``condition`` is ``(B, W)`` when modulated."""
        if self.modulation is None:
            x = x + self._attend(self.attention_norm(x))
            if self.cross_attention is not None and context is not None:
                x = x + self.cross_attention(x, context)
            return x + self.mlp(self.mlp_norm(x))
        if condition is None:
            raise ValueError("a modulated block needs a condition (B, W)")
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate_a * self._attend(self.attention_norm(x) * (1 + scale_a) + shift_a)
        if self.cross_attention is not None and context is not None:
            x = x + self.cross_attention(x, context)
        return x + gate_m * self.mlp(self.mlp_norm(x) * (1 + scale_m) + shift_m)

    def _attend(self, x: Tensor) -> Tensor:
        queries, keys, values = (split_heads(part, self.heads) for part in self.query_key_value(x).chunk(3, dim=-1))
        return self.attention_out(merge_heads(F.scaled_dot_product_attention(queries, keys, values)))


def learned_tokens(count: int, width: int) -> nn.Parameter:
    """Learned tokens or positions ``(count, width)``, small at the start."""
    return nn.Parameter(torch.randn(count, width) * 0.02)
