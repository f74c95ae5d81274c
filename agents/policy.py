"""Policies over patch tokens: one network, one folder format, loaded without running code.

A policy maps features ``(B, L, C)`` and the index of the current chunk ``(B,)`` to a flat action chunk ``(B, K*A)``,
row-major ``(K, A)``: the action of the ``RLAWM-*`` and ``Robosuite-*`` environments. A policy folder holds
``config.json`` (kind, sizes, world, task, how it was trained) and ``policy.safetensors`` (weights).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from world_models.checkpoint import save_json, save_tensors

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "policy.safetensors"


class Policy(nn.Module):
    """What every policy offers; `TokenPolicy`, `agents.blind.BlindPolicy` and `agents.planner.Planner` are the kinds.

    Attributes:
        kind: name of the kind in ``config.json``.
        SIZES: the constructor's integer arguments, saved in ``config.json`` and given back to it on loading.
        facts: JSON facts saved beside the sizes (``method``, ``world``, ``task``, ``training``).
    """

    kind: ClassVar[str]
    SIZES: ClassVar[tuple[str, ...]] = ("num_tokens", "channels", "chunk_length", "action_dim")

    def __init__(self, num_tokens: int, channels: int, chunk_length: int, action_dim: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.channels = channels
        self.chunk_length = chunk_length
        self.action_dim = action_dim
        self.action_size = chunk_length * action_dim
        self.facts: dict[str, Any] = {}

    def forward(self, features: Tensor, step: Tensor | None = None) -> Tensor:
        """Mean action chunk, not clipped: features (B, L, C) float, step (B,) int64 -> (B, K*A) float32."""
        raise NotImplementedError

    def act(self, features: Tensor, step: Tensor | None = None) -> Tensor:
        """The deterministic action: the mean clipped to [-1, 1], without gradients.

        Args:
            features: (B, L, C) float tokens, as the environments give them with ``obs="features"``.
            step: (B,) int64, chunks done in the episode; None counts as zero.

        Returns:
            (B, K*A) float32 in [-1, 1] on the policy's device.

        Raises:
            ValueError: the features have other tokens or channels than those the policy was trained on.
        """
        if features.ndim != 3 or tuple(features.shape[1:]) != (self.num_tokens, self.channels):
            raise ValueError(
                f"the policy reads features (B, {self.num_tokens}, {self.channels}), got {tuple(features.shape)}; "
                "make the environment with obs='features' and with the world that the policy was trained on"
            )
        with torch.no_grad():
            return self(features, step).clamp(-1.0, 1.0)

    @property
    def method(self) -> str:
        """Name in result rows: ``"bc"``, ``"ppo"``, ``"blind"``, ``"cem"`` and so on; the kind where none was saved."""
        return str(self.facts.get("method", self.kind))

    def save(self, folder: str | Path) -> Path:
        """Write ``policy.safetensors``, then ``config.json``, each atomically, into ``folder``; returns the folder."""
        folder = Path(folder)
        save_tensors(folder / WEIGHTS_FILE, self.state_dict())
        sizes = {name: getattr(self, name) for name in self.SIZES}
        save_json(folder / CONFIG_FILE, {"kind": self.kind, **sizes, **self.facts})
        return folder


class TokenTrunk(nn.Module):
    """Attention pooling over tokens with learned queries, then an MLP: (B, L, C) -> (B, hidden).

    The queries attend straight to the projected tokens (no key and value projections: both fold into the queries and
    into the MLP), so the only work per token is one linear layer, and a batch of 64 is cheap on a CPU.
    """

    def __init__(self, num_tokens: int, channels: int, width: int = 128, queries: int = 8, hidden: int = 256) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width)
        self.position = nn.Parameter(position_embedding(num_tokens, width))
        self.norm = nn.LayerNorm(width)
        # unit-variance queries: every query looks elsewhere from the start instead of averaging all tokens
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.mlp = nn.Sequential(
            nn.LayerNorm(queries * width),
            nn.Linear(queries * width, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.norm(self.project(features) + self.position).unsqueeze(1)
        queries = self.queries.expand(len(features), 1, -1, -1)
        pooled = nn.functional.scaled_dot_product_attention(queries, tokens, tokens)
        return self.mlp(pooled.flatten(1))


def position_embedding(num_tokens: int, width: int) -> Tensor:
    """Start value (L, width) of a learned position embedding: 2-D sine and cosine for a square grid, else random."""
    side = math.isqrt(num_tokens)
    if side * side != num_tokens or width % 4:
        return 0.5 * torch.randn(num_tokens, width)
    # periods of twenty tokens down to two: the slow ones tell where on the grid the attention lies
    frequencies = math.pi * torch.logspace(-1.0, 0.0, width // 4)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = torch.stack([rows.flatten(), columns.flatten()], 1)[:, :, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 2).flatten(1)


class TokenPolicy(Policy):
    """Gaussian policy over patch tokens: attention pooling, MLP, linear mean, state-independent log std.

    The mean has no tanh: actions are clipped by the environment, and PPO's ratios stay those of a plain Gaussian.

    Args:
        num_tokens: L patch tokens.
        channels: C channels of a token.
        chunk_length: K control steps in a chunk.
        action_dim: A numbers in a control step.
        width: channels of a token inside the policy.
        queries: learned queries of the attention pooling.
    """

    kind = "token"
    SIZES = (*Policy.SIZES, "width", "queries")

    def __init__(
        self,
        num_tokens: int,
        channels: int,
        chunk_length: int,
        action_dim: int,
        width: int = 128,
        queries: int = 8,
    ) -> None:
        super().__init__(num_tokens, channels, chunk_length, action_dim)
        self.width = width
        self.queries = queries
        self.trunk = TokenTrunk(num_tokens, channels, width, queries, hidden=2 * width)
        self.head = nn.Linear(2 * width, self.action_size)
        self.log_std = nn.Parameter(torch.full((self.action_size,), math.log(0.15)))

    def forward(self, features: Tensor, step: Tensor | None = None) -> Tensor:
        return self.head(self.trunk(features))


class TokenCritic(nn.Module):
    """Value of features: its own trunk of the policy's shape, so that it cannot disturb the actor's features.

    It does not see the clock: truncated episodes are bootstrapped, so its values are those of endless episodes.
    """

    def __init__(self, policy: TokenPolicy) -> None:
        super().__init__()
        hidden = 2 * policy.width
        self.trunk = TokenTrunk(policy.num_tokens, policy.channels, policy.width, policy.queries, hidden)
        # the cloned trunk already sees what matters for acting: a better start than random, and a copy, not a share
        self.trunk.load_state_dict(policy.trunk.state_dict())
        self.head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, L, C) -> values (B,)."""
        return self.head(self.trunk(features)).squeeze(-1)


def load_policy(folder: str | Path, device: str | torch.device = "cpu") -> Policy:
    """Load a policy folder, in evaluation mode. Reads JSON and safetensors only; no code in the folder is run.

    Example:
        >>> policy = load_policy("runs/bc")                                  # doctest: +SKIP
        >>> policy.act(torch.zeros(1, 64, 192), torch.tensor([0])).shape     # doctest: +SKIP
        torch.Size([1, 32])

    Raises:
        FileNotFoundError: the folder lacks ``config.json`` or ``policy.safetensors``.
        ValueError: unknown kind, or the two files do not fit together.
    """
    from agents.blind import BlindPolicy
    from agents.planner import Planner

    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no policy folder: it has no {name}; give the --out of `rla-gym agent bc` or `agent ppo`"
            )
    classes: dict[str, type[Policy]] = {kind.kind: kind for kind in (TokenPolicy, BlindPolicy, Planner)}
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        policy_class = classes[config["kind"]]
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / CONFIG_FILE} is no JSON ({error}); train the policy again") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG_FILE} must name a kind among {sorted(classes)}, got {error}") from error
    try:
        sizes = {name: int(config.pop(name)) for name in policy_class.SIZES}
        policy = policy_class(**sizes)
        policy.load_state_dict(load_safetensors((folder / WEIGHTS_FILE).read_bytes()))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: {WEIGHTS_FILE} and {CONFIG_FILE} do not fit ({error}); train it again") from error
    policy.facts = {name: value for name, value in config.items() if name != "kind"}
    return policy.to(device).eval()


def load_clone(folder: str | Path, device: str | torch.device = "cpu") -> TokenPolicy:
    """A policy folder that training can start from, as :func:`load_policy` loads it.

    Raises:
        ValueError: it is a policy that cannot learn; else as :func:`load_policy`.
    """
    clone = load_policy(folder, device)
    if not isinstance(clone, TokenPolicy):
        raise ValueError(f"{folder} is a {clone.kind!r} policy, which cannot learn; make one by `rla-gym agent bc`")
    return clone
