"""Transformer blocks of the autoencoder and of the flow: pre-norm, adaLN-zero, cross-attention over a fixed context."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Context = tuple[Tensor, Tensor]
"""Keys and values ``(B, heads, L, W / heads)`` of a context that does not change between solver steps."""


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys.

    Args:
        width: channels W.
        heads: number of heads; W must be a multiple of it.
        context_width: channels of what is attended to, for cross-attention; None attends to the tokens themselves.

    Raises:
        ValueError: the width is no multiple of the heads.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width or width, 2 * width)
        self.query_norm, self.key_norm = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)
        self.out = nn.Linear(width, width)

    def context(self, tokens: Tensor) -> Context:
        """Keys and values of tokens ``(B, L, context_width)``, to be computed once for many queries."""
        keys, values = self.key_value(tokens).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.key_norm(keys), values

    def forward(self, tokens: Tensor, context: Context | None = None) -> Tensor:
        """Tokens ``(B, n, W)`` to the update ``(B, n, W)``; without a context they attend to themselves."""
        queries = self.query_norm(self.query(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2))
        keys, values = self.context(tokens) if context is None else context
        attended = F.scaled_dot_product_attention(queries, keys.to(queries.dtype), values.to(queries.dtype))
        return self.out(attended.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention where there is a context, and an MLP; steered by a condition where there is one.

    The branches are shifted, scaled and gated by the condition (adaLN-zero, arXiv 2212.09748): at first a block is the
    identity.

    Args:
        width: channels W.
        heads: attention heads.
        conditioned: whether a condition steers the block.
        context_width: channels of the cross-attention's context; None for no cross-attention.
        ratio: hidden size of the MLP over W.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        conditioned: bool = False,
        context_width: int | None = None,
        ratio: float = 4.0,
    ) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.attention = Attention(width, heads)
        self.cross = None if context_width is None else Attention(width, heads, context_width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        branches = 2 if self.cross is None else 3
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=not conditioned) for _ in range(branches))
        self.modulation: nn.Linear | None = None
        if conditioned:
            self.modulation = nn.Linear(width, 3 * branches * width)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Tokens ``(B, n, W)``, condition ``(B, W)`` and the cross-attention's context to tokens ``(B, n, W)``."""
        branches: list[tuple[nn.Module, tuple[Context, ...]]] = [(self.attention, ())]
        if self.cross is not None:
            assert context is not None
            branches.append((self.cross, (context,)))
        branches.append((self.mlp, ()))
        if self.modulation is None:
            for norm, (branch, arguments) in zip(self.norms, branches, strict=True):
                x = x + branch(norm(x), *arguments)
            return x
        assert condition is not None
        parts = self.modulation(F.silu(condition)).unsqueeze(1).chunk(3 * len(branches), dim=-1)
        for index, (norm, (branch, arguments)) in enumerate(zip(self.norms, branches, strict=True)):
            shift, scale, gate = parts[3 * index : 3 * index + 3]
            x = x + gate * branch(norm(x) * (1 + scale) + shift, *arguments)
        return x


class Transformer(nn.Module):
    """A stack of blocks with a last norm.

    Args:
        width, heads, conditioned, context_width: of :class:`TransformerBlock`.
        depth: blocks.
    """

    def __init__(
        self, width: int, depth: int, heads: int, *, conditioned: bool = False, context_width: int | None = None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, conditioned=conditioned, context_width=context_width) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def contexts(self, tokens: Tensor) -> list[Context]:
        """Keys and values of a context ``(B, L, context_width)`` for each block's cross-attention."""
        return [block.cross.context(tokens) for block in self.blocks]  # type: ignore[union-attr,operator]

    def forward(self, x: Tensor, condition: Tensor | None = None, contexts: list[Context] | None = None) -> Tensor:
        """Tokens ``(B, n, W)`` to normalised tokens ``(B, n, W)``."""
        for index, block in enumerate(self.blocks):
            x = block(x, condition, None if contexts is None else contexts[index])
        return self.norm(x)


def learned_tokens(count: int, width: int) -> nn.Parameter:
    """Learned vectors ``(count, W)``, as large as what they are added to: small ones are told apart only after long."""
    return nn.Parameter(0.5 * torch.randn(count, width))
