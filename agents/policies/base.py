"""What every policy offers, and the folder that it is saved in.

A policy maps features ``(B, L, C)`` and the index of the current chunk ``(B,)`` to a flat action chunk ``(B, K*A)``,
row-major ``(K, A)``: the action of the ``RLAWM-*`` and ``Robosuite-*`` environments. A policy folder holds
``config.json`` (kind, sizes, world, task, how it was trained) and ``policy.safetensors`` (weights).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from world_models.files import save_json, save_tensors

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "policy.safetensors"
FORMAT = 2
"""Of policy folders; those of rla-gym 0.1 name none."""


class Policy(nn.Module):
    """What every policy offers; :data:`agents.policies.io.KINDS` lists the kinds.

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

    @property
    def world(self) -> str:
        """The world that it was made for: a bundled world's name or a folder; ``"lift"`` where none was saved."""
        return str(self.facts.get("world", "lift"))

    @property
    def task(self) -> str:
        """The task of that world; ``"Lift"`` where none was saved."""
        return str(self.facts.get("task", "Lift"))

    @property
    def sizes(self) -> dict[str, int]:
        """The constructor's arguments, by the names in ``SIZES``."""
        return {name: getattr(self, name) for name in self.SIZES}

    def check_fits(
        self, observation_shape: tuple[int, ...] | None, action_shape: tuple[int, ...] | None, fix: str
    ) -> None:
        """ValueError, which ends with ``fix``, unless one environment has (L, C) features and (K*A,) actions."""
        expected = ((self.num_tokens, self.channels), (self.action_size,))
        if (observation_shape, action_shape) != expected:
            raise ValueError(
                f"the policy maps {expected[0]} to {expected[1]}, the environment has {observation_shape} and "
                f"{action_shape}; {fix}"
            )

    def save(self, folder: str | Path) -> Path:
        """Write ``policy.safetensors``, then ``config.json``, each atomically, into ``folder``; returns the folder."""
        folder = Path(folder)
        save_tensors(folder / WEIGHTS_FILE, self.state_dict())
        save_json(folder / CONFIG_FILE, {"format": FORMAT, "kind": self.kind, **self.sizes, **self.facts})
        return folder
