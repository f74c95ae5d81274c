"""A saved policy as the collection of episodes calls it: rollouts of weak policies give a world data of failures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from agents.policies.base import Policy
from agents.policies.io import load_policy
from world_models.encoders.state import StateEncoder
from world_models.io import load_encoder


class CollectingPolicy:
    """Maps a camera frame to an action chunk; cheap to pickle, loads its weights at the first call of a process.

    Args:
        folder: policy folder.
        world: whose encoder gives the features; None for the one the policy was trained with.

    Raises:
        FileNotFoundError: there is no policy in ``folder``.
    """

    def __init__(self, folder: str | Path, world: str | None = None) -> None:
        self.folder, self.world = Path(folder).resolve(), world
        if not (self.folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} is no policy folder (config.json is missing); `rla-gym agent bc` makes one"
            )
        self.name = self.folder.name
        self._loaded: tuple[Policy, StateEncoder] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_loaded": None}

    @torch.inference_mode()
    def __call__(self, rgb: np.ndarray, proprioception: np.ndarray, step: int) -> np.ndarray:
        """The chunk ``(K * A,)`` for a frame ``(H, W, 3)`` uint8 and proprioception ``(R,)`` at chunk ``step``."""
        if self._loaded is None:
            policy = load_policy(self.folder)
            self._loaded = policy, load_encoder(self.world or policy.world)
        policy, encoder = self._loaded
        values = torch.from_numpy(proprioception)[None] if encoder.proprioception_dim else None
        features = encoder(torch.from_numpy(np.ascontiguousarray(rgb))[None], values)
        return policy.act(features, torch.tensor([step]))[0].clamp(-1, 1).numpy()
