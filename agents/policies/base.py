"""What every policy offers, and the folder that it is saved in.

A policy maps features ``(B, L, C)`` and the index of the current chunk ``(B,)`` to a flat action chunk ``(B, K*A)``,
row-major ``(K, A)``: the action of the ``RLAWM-*`` and ``Robosuite-*`` environments. A policy folder holds
``config.json`` (kind, sizes, world, task, how it was trained) and ``policy.safetensors`` (weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from world_models.config import WorldConfig
from world_models.data.action_scale import ActionScale
from world_models.dataclass_reader import read_dataclass
from world_models.files import save_json, save_tensors
from world_models.world_names import remembered_world, world_reference

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "policy.safetensors"
ACTION_SCALE = "action_scale"
FORMAT = 2
"""Of policy folders; those of rla-gym 0.1 name none."""


SIZE_LIMITS: Mapping[str, tuple[int, int]] = {
    "num_tokens": (1, 65_537),
    "channels": (1, 8192),
    "chunk_length": (1, 256),
    "action_dim": (1, 256),
    "width": (1, 8192),
    "queries": (1, 1024),
    "num_chunks": (1, 100_000),
    "candidates": (1, 4096),
    "iterations": (1, 1000),
    "elites": (0, 4096),
    "planned": (1, 1000),
    "horizon": (1, 1000),
    "seed": (-(2**62), 2**62 - 1),
}
"""Least and greatest value of every kind's sizes."""


def check_sizes(sizes: Mapping[str, Any]) -> None:
    """Raise ValueError unless every size is a whole number within :data:`SIZE_LIMITS`."""
    for name, value in sizes.items():
        low, high = SIZE_LIMITS[name]
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name}={str(value)[:60]} must be a whole number from {low} to {high}")


def facts_of_world(name: str, world: WorldConfig) -> dict[str, Any]:
    """What a policy remembers of the world that it was made for: its name, its task, and its robot's actions."""
    facts: dict[str, Any] = {"world": world_reference(name), "task": world.task}
    scale = world.reading.action_scale
    return facts if scale is None else {**facts, ACTION_SCALE: asdict(scale)}


class Policy(nn.Module):
    """What every policy offers; :data:`agents.policies.io.KINDS` lists the kinds.

    Attributes:
        kind: name of the kind in ``config.json``.
        SIZES: the constructor's integer arguments, saved in ``config.json`` and given back to it on loading.
        facts: JSON facts saved beside the sizes (``method``, ``world``, ``task``, ``action_scale``, ``training``).
        source: the file that named these facts, for messages.
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
        self.source = "the policy"

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
        """The world that it was made for: a name or a folder; ``"lift"`` where none was saved.

        Raises:
            FileNotFoundError: that is a world of the hub that nobody has fetched yet: no file reaches the network.
        """
        return remembered_world(str(self.facts.get("world", "lift")), source=self.source)

    @property
    def task(self) -> str:
        """The task of that world; ``"Lift"`` where none was saved."""
        return str(self.facts.get("task", "Lift"))

    @cached_property
    def action_scale(self) -> ActionScale | None:
        """How its actions stand for the robot's; None where these are the same."""
        content = self.facts.get(ACTION_SCALE)
        if content is None:
            return None
        return read_dataclass(ActionScale, content, source=self.source, fix="train the policy anew, or fetch it again")

    def to_robot(self, actions: Tensor) -> np.ndarray:
        """Action chunks of :meth:`act` ``(B, K*A)`` in the robot's own units, ``(B, K, N)`` float64."""
        chunks = actions.detach().cpu().double().numpy().reshape(len(actions), self.chunk_length, self.action_dim)
        return chunks if self.action_scale is None else self.action_scale.to_robot(chunks)

    def check_facts(self) -> None:
        """Raise ValueError unless the facts have the types, and are within the ranges, that acting needs."""
        for name in ("method", "world", "task"):
            if not isinstance(self.facts.get(name, ""), str):
                raise ValueError(f"{name} is {str(self.facts[name])[:60]}, not a text")
        if "world" in self.facts:
            world_reference(self.facts["world"])
        if self.action_scale is not None and len(self.action_scale.dimensions) != self.action_dim:
            raise ValueError(
                f"{ACTION_SCALE} has {len(self.action_scale.dimensions)} dimensions, the policy has {self.action_dim}"
            )

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
