"""Features of real pictures by a world's encoder, and the reward for their closeness to the world's demonstrations."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards.success import SuccessDetector
from rewards.video_aligned import make_reward
from rla_gym import world_cache
from rla_gym.arguments import usable_device
from rla_gym.initial_states import nearest_demonstration
from rla_gym.tasks import TaskSpec
from rla_gym.world_fit import check_world_fits
from world_models.data.demonstrations import Demonstrations
from world_models.io import read_config, world_folder


class Encoder:
    """A world's encoder, shared with the other environments of this process.

    Args:
        world: a bundled name or a folder.
        task: what is simulated.
        device: torch device.

    Attributes:
        tokens: (L, C) of a state.

    Raises:
        ValueError, FileNotFoundError: no such world or device, or the world takes other proprioception than the task's.
    """

    def __init__(self, world: str | Path, task: TaskSpec, device: str) -> None:
        self._device = usable_device(device)
        key, self._encode = world_cache.acquire_encoder(world, self._device)
        self.close = weakref.finalize(self, world_cache.release, key)
        self.tokens: tuple[int, int] = (self._encode.num_tokens, self._encode.channels)
        if self._encode.proprioception_dim not in (0, task.proprioception_dim):
            raise ValueError(
                f"the world {world!r} takes {self._encode.proprioception_dim} proprioceptive values, this simulator "
                f"gives {task.proprioception_dim}; train one on data from `rla-gym collect`, or with "
                "--no-proprioception"
            )

    @torch.no_grad()
    def __call__(self, frames: np.ndarray, proprioception: np.ndarray) -> Tensor:
        """States (B, L, C) float32 on the device.

        Args:
            frames: (B, H, W, 3) uint8.
            proprioception: (B, R) float32; a world from video alone ignores it.
        """
        taken = torch.from_numpy(proprioception).to(self._device) if self._encode.proprioception_dim else None
        return self._encode(torch.from_numpy(frames).to(self._device), taken).float()


class VideoAlignment:
    """How close each of B simulators is to a demonstration: the one whose first frame was nearest to its first.

    Args:
        reward: see :mod:`rewards.video_aligned`.
        world: whose demonstrations and success detector.
        task: what is simulated.
        num_envs: B.
        device: torch device.

    Attributes:
        demonstration: (B,) int64 array, the one each simulator is compared with.

    Raises:
        ValueError, FileNotFoundError: no such world, or it is of another task than ``task``.
    """

    def __init__(self, reward: str, world: str | Path, task: TaskSpec, num_envs: int, device: str) -> None:
        folder = world_folder(world)
        check_world_fits(task, read_config(folder), world)
        self._demonstrations = Demonstrations.load(folder).to(device)
        self._reward = make_reward(reward, self._demonstrations, SuccessDetector.load(folder, device))
        self._device = device
        self.demonstration = np.zeros(num_envs, np.int64)

    def begin(self, features: Tensor, mask: np.ndarray) -> None:
        """Simulators in ``mask`` (B,) bool begin an episode in the states (B, L, C)."""
        nearest = nearest_demonstration(self._demonstrations, features).cpu().numpy()
        self.demonstration = np.where(mask, nearest, self.demonstration)

    def __call__(self, features: Tensor, control_steps: np.ndarray) -> np.ndarray:
        """The reward of states (B, L, C) after (B,) control steps, (B,) float64; zero where there were none."""
        places: list[Any] = [torch.from_numpy(array).to(self._device) for array in (self.demonstration, control_steps)]
        return np.where(control_steps > 0, self._reward(features, *places).double().cpu().numpy(), 0.0)
