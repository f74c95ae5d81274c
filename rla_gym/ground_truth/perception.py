"""Observations of simulators, and their reward for closeness to demonstrations. torch is imported only when needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rla_gym.arguments import OUTPUTS, one_of, text
from rla_gym.observations import Observations, check_obs, pool
from rla_gym.tasks import TaskSpec, bundled_world

if TYPE_CHECKING:
    from rla_gym.ground_truth.real_features import Encoder, VideoAlignment

SIMULATOR_PARTS = ("last_action", "proprioception", "remaining_time", "rgb")
"""Names of the observation parts that a simulator gives by itself; a world's encoder makes the others of them."""


class Perception:
    """Observations of B simulators from the parts that these give.

    Args:
        obs, world, reward, output, device: as in :class:`rla_gym.ground_truth.env.RobosuiteEnv`.
        task: what is simulated.
        num_envs: B.
        action_size: K*A.

    Attributes:
        space: of one observation.
        alignment: the video-aligned reward; None where it is sparse.

    Raises:
        ValueError, FileNotFoundError: an argument is out of its range, or there is no such world.
    """

    def __init__(
        self,
        obs: str | Sequence[str],
        task: TaskSpec,
        *,
        num_envs: int,
        action_size: int,
        world: str | Path | None,
        reward: str,
        output: str,
        device: str,
    ) -> None:
        names = check_obs(obs)
        world = world or bundled_world(task.name)
        one_of(OUTPUTS, output=output)
        text(reward=reward)
        self._output, self._device = output, device
        self._encoder: Encoder | None = None
        self.alignment: VideoAlignment | None = None
        tokens = (1, 1)
        if reward != "sparse" or not set(names) <= set(SIMULATOR_PARTS):
            real_features = importlib.import_module("rla_gym.ground_truth.real_features")
            if reward != "sparse":
                self.alignment = real_features.VideoAlignment(reward, world, task, num_envs, device)
            self._encoder = real_features.Encoder(world, task, device)
            tokens = self._encoder.tokens
        self._observations = Observations(
            obs,
            tokens=tokens,
            frame_shape=(task.camera.size, task.camera.size),
            action_size=action_size,
            proprioception_dim=task.proprioception_dim,
        )
        self.space = self._observations.space

    def features(self, parts: dict[str, np.ndarray]) -> Any:
        """States (B, L, C), a float32 tensor; None where neither observation nor reward needs them.

        Args:
            parts: at least ``rgb`` (B, H, W, 3) uint8 and ``proprioception`` (B, R) float32.
        """
        return None if self._encoder is None else self._encoder(parts["rgb"], parts["proprioception"])

    def observe(self, parts: dict[str, np.ndarray], features: Any) -> Any:
        """The observations of B simulators: arrays, tensors, or a dict of them, as ``obs`` and ``output`` say.

        Args:
            parts: name -> (B, ...) array, for every one of :data:`SIMULATOR_PARTS`.
            features: (B, L, C), what :meth:`features` made of them.
        """
        every_part: dict[str, Callable[[], Any]] = {name: partial(parts.get, name) for name in SIMULATOR_PARTS}
        every_part |= {"features": lambda: features, "pooled": lambda: pool(features)}
        observation = self._observations.build(every_part)
        if isinstance(observation, dict):
            return {name: self.convert(value) for name, value in observation.items()}
        return self.convert(observation)

    def convert(self, value: Any) -> Any:
        """An array or tensor as ``output`` asks: an array, or a tensor on ``device``; other values stay as they are."""
        if self._output == "numpy":
            return value if isinstance(value, np.ndarray) else value.cpu().numpy()
        if not isinstance(value, np.ndarray):
            return value
        import torch

        return torch.from_numpy(value).to(self._device)

    def close(self) -> None:
        """Lets go of the world."""
        if self._encoder is not None:
            self._encoder.close()
