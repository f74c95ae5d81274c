"""The dream for Stable-Baselines3: its VecEnv interface over the vector environment, without copying twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from rla_gym.vector_env import RLAWMVectorEnv

try:
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices
except ImportError as problem:
    raise ImportError('DreamVecEnv needs Stable-Baselines3: pip install "rla-gym[agents]"') from problem


class DreamVecEnv(VecEnv):
    """A Stable-Baselines3 VecEnv whose slots are predicted in one batch.

    Finished slots are reset in the same step; their infos then hold ``terminal_observation``, ``TimeLimit.truncated``
    and ``is_success`` as Stable-Baselines3 expects them: what its own ``make_vec_env`` over single environments gives.
    Wrap it in ``VecMonitor`` for episode returns.

    Example:
        >>> dream = RLAWMVectorEnv(64, autoreset_mode="SameStep")  # doctest: +SKIP
        >>> PPO("MlpPolicy", VecMonitor(DreamVecEnv(dream))).learn(10_000)  # doctest: +SKIP

    Args:
        vector_env: made with ``output="numpy"`` and ``autoreset_mode="SameStep"``; closed together with this.

    Raises:
        ValueError: ``vector_env`` has another output or autoreset mode.
    """

    def __init__(self, vector_env: RLAWMVectorEnv) -> None:
        if vector_env.output != "numpy" or vector_env.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"Stable-Baselines3 takes numpy and resets in the same step, but the environment has output="
                f"{vector_env.output!r} and autoreset_mode={vector_env.autoreset_mode.value!r}: make it with "
                "output='numpy', autoreset_mode='SameStep'"
            )
        self.vector_env = vector_env
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)
        self.metadata = vector_env.metadata  # a recorder's films run at its rate
        self._actions: np.ndarray | None = None

    def reset(self) -> np.ndarray:
        """First observations of new episodes, (num_envs, ...) or a dict of these.

        Seed and options are those of ``seed()`` and ``set_options()``.

        Raises:
            ValueError: options that differ between slots.
        """
        if any(options != self._options[0] for options in self._options[1:]):
            raise ValueError("options differ between slots: give one dict, with one value per slot where it matters")
        observations, infos = self.vector_env.reset(seed=self._seeds[0], options=self._options[0] or None)
        self.reset_infos = _per_slot(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions (num_envs, K*A) for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Observations (num_envs, ...), rewards (num_envs,) float32, dones (num_envs,) bool, one info per slot."""
        observations, rewards, terminated, truncated, batch = self.vector_env.step(self._actions)
        done = terminated | truncated
        infos = _per_slot(batch, self.num_envs)
        finals = _per_slot(batch["final_info"], self.num_envs) if done.any() else []
        for slot in np.flatnonzero(done).tolist():
            self.reset_infos[slot] = infos[slot]
            infos[slot] = {**finals[slot], "terminal_observation": batch["final_obs"][slot]}
        for info, out_of_time in zip(infos, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = out_of_time
        return observations, rewards.astype(np.float32), done, infos

    def close(self) -> None:
        """Closes the vector environment."""
        self.vector_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The present frames, (H, W, 3) uint8 each; None without ``render_mode="rgb_array"``."""
        return self.vector_env.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the vector environment, which all slots share; spaces are those of one slot."""
        name = f"single_{attr_name}" if attr_name in ("observation_space", "action_space") else attr_name
        return [getattr(self.vector_env, name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Not possible: slots are rows of one batch. Raises NotImplementedError."""
        raise NotImplementedError(f"cannot set {attr_name!r}: pass it to RLAWMVectorEnv when you make it")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Not possible: slots are rows of one batch. Raises NotImplementedError."""
        raise NotImplementedError(f"cannot call {method_name!r} on a slot: call it on .vector_env")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """False for every slot."""
        return [False for _ in self._get_indices(indices)]


def _per_slot(batch: dict[str, Any], count: int) -> list[dict[str, Any]]:
    columns = {name: values.tolist() for name, values in batch.items() if f"_{name}" in batch and "final" not in name}
    return [{name: column[slot] for name, column in columns.items()} for slot in range(count)]
