"""The dream as a single Gymnasium environment: one slot of the vector environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from rla_gym import episode_length
from rla_gym.arguments import checked_seeds, integer
from rla_gym.arrays import array_or_tensor
from rla_gym.dream_state import DreamState
from rla_gym.observations import row
from rla_gym.portable_spec import PortableSpec
from rla_gym.vector_env import RLAWMVectorEnv


class RLAWMEnv(PortableSpec, gym.Env[Any, Any]):
    """One imagined episode at a time; a step is one action chunk.

    Action: (K*A,) float in [-1, 1], row-major (K, A). Observation: what ``obs`` names, by default patch tokens (L, C)
    float32, see :class:`rla_gym.observations.Observations`. Info: those of the vector environment as Python scalars:
    ``success`` and ``is_success`` (bool, the same), ``success_probability``, ``reward_alignment``, ``reward_success``
    and ``uncertainty`` (float), ``control_steps`` (int, of this episode), ``demonstration`` (int, the one rewarded).

    ``RLAWMEnv(slot=i)`` gives the same episodes as slot ``i`` of an :class:`RLAWMVectorEnv` with the same seed.

    Example:
        >>> env = gym.make("RLAWM-Lift-v0")  # doctest: +SKIP
        >>> obs, info = env.reset(seed=0)  # doctest: +SKIP

    Args:
        slot: which slot of a vector environment to be.
        max_chunks: env steps after which an episode is truncated; None for the ``max_episode_steps`` of the
            ``gym.make`` that makes this environment, or for the task's own.
        render_mode: None or "rgb_array".
        arguments: those of :class:`rla_gym.vector_env.RLAWMVectorEnv`, except ``num_envs``, ``autoreset_mode`` and
            ``first_slot``: ``task``, ``world``, ``obs``, ``output``, ``out_of_bounds``, and every field of
            :class:`rla_gym.dream_config.DreamConfig`. With ``output="torch"`` observations are tensors.

    Attributes:
        chunk_length: K.
        max_chunks: env steps after which an episode is truncated.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self, *, slot: int = 0, render_mode: str | None = None, max_chunks: int | None = None, **arguments: Any
    ) -> None:
        taken = [name for name in ("num_envs", "first_slot", "autoreset_mode") if name in arguments]
        if taken:
            raise TypeError(
                f"RLAWMEnv has no argument {taken[0]!r}: it is one slot of an RLAWMVectorEnv, chosen by 'slot'"
            )
        self._vector = RLAWMVectorEnv(
            1,
            first_slot=integer("slot", slot),
            render_mode=render_mode,
            autoreset_mode=AutoresetMode.DISABLED,
            max_chunks=episode_length.in_gym_make(max_chunks),
            **arguments,
        )
        self._started = False
        self.render_mode = render_mode
        self.chunk_length, self.max_chunks = self._vector.chunk_length, self._vector.max_chunks
        self.metadata = {**type(self).metadata, "render_fps": self._vector.metadata["render_fps"]}
        self.action_space = self._vector.single_action_space
        self.observation_space = self._vector.single_observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; seed and options as in :meth:`rla_gym.vector_env.RLAWMVectorEnv.reset`."""
        (seed,) = checked_seeds(seed, 1)
        if seed is None and not self._started:
            seed = self.np_random_seed  # drawn from entropy
        batch = self._vector.reset(seed=seed, options=options)
        super().reset(seed=seed)
        self._started = True
        return _first(*batch)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Predicts the next state from an action chunk: action (K*A,) float array or tensor.

        Raises:
            ValueError: another shape or dtype, NaN or infinity, or beyond the bounds where these raise.
            gymnasium.error.ResetNeeded: before the first :meth:`reset`.
        """
        array = array_or_tensor("action", action)
        if tuple(array.shape) != self.action_space.shape:
            shape = tuple(array.shape)
            raise ValueError(f"action has shape {shape}: give {self.action_space.shape}, row-major (K, A)")
        observations, rewards, terminated, truncated, infos = self._vector.step(array[None])
        observation, info = _first(observations, infos)
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def get_state(self) -> DreamState:
        """Saves the episode, as :meth:`rla_gym.vector_env.RLAWMVectorEnv.get_state` does."""
        return self._vector.get_state()

    def set_state(self, state: DreamState, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Restores a saved state of one slot, see :meth:`rla_gym.vector_env.RLAWMVectorEnv.set_state`."""
        batch = self._vector.set_state(state, seed=seed)
        self._started = True
        return _first(*batch)

    def render(self) -> np.ndarray | None:
        """The present state as an (H, W, 3) uint8 frame, decoded now; None without ``render_mode="rgb_array"``."""
        frames = self._vector.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Releases the world. A second call does nothing."""
        self._vector.close()


def _first(observations: Any, infos: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Observation and info of the one slot in a batch of one."""
    return row(observations, 0), {name: values[0].item() for name, values in infos.items() if not name.startswith("_")}
