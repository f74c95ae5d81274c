"""An environment's spec in JSON's types, so that ``env.spec.to_json()`` works whatever its arguments were."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec


class PortableSpec:
    """A mixin in front of Gymnasium's base classes: ``spec``, which ``gym.make`` and ``gym.make_vec`` set, is kept with
    paths, enums, devices and NumPy's numbers among its arguments as strings and numbers, and with the episode length
    that the environment has.

    Attributes:
        max_chunks: env steps after which an episode is truncated.
    """

    max_chunks: int
    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What the environment was made from; None if its class was called."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec.kwargs, spec.max_episode_steps = _plain(spec.kwargs), self.max_chunks
        self._spec = spec


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        return value.item()
    # torch.device is known by its name, for simulators do without torch
    return str(value) if isinstance(value, PurePath) or type(value).__name__ == "device" else value
