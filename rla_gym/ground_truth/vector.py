"""Several simulators side by side, with the same spaces and conventions as the vectorised dream."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from rla_gym.ground_truth.env import RobosuiteEnv


class RobosuiteVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` simulators; one step is one action chunk in each.

    The simulators give pictures, one after the other or each in a process of its own, and the features of all of
    them are encoded here in one batch. Actions, observations, rewards and infos are those of
    :class:`~rla_gym.ground_truth.env.RobosuiteEnv` with Gymnasium's vector conventions; ``reset(seed=s)`` seeds
    simulator i with ``s + i``. With ``output="torch"`` everything returned is a tensor on ``device``.

    Processes are spawned: a script that asks for ``"async"`` needs its ``if __name__ == "__main__":``.

    Args:
        num_envs: simulators B.
        task: name of the task.
        placement: name of the object placement.
        obs: ``"features"`` or ``"rgb"``.
        world: world whose encoder makes the features. Unused with ``"rgb"``.
        chunk_length: control steps in a step (K); the task's own if None.
        max_chunks: steps in an episode; the task's own if None.
        vectorization: ``"sync"`` or ``"async"``.
        output: ``"numpy"`` or ``"torch"``.
        autoreset_mode: Gymnasium's NEXT_STEP (default), SAME_STEP or DISABLED, or its string.
        render_mode: ``"rgb_array"`` or None.
        device: torch device of the encoder, and of everything returned with ``output="torch"``.

    Raises:
        ValueError: for an argument out of its range.
        ImportError: if robosuite is not installed, does not fit the installed MuJoCo, or there is no GL.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (gymnasium's)
        "render_modes": ["rgb_array"],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: str = "Lift",
        placement: str = "standard",
        obs: str = "features",
        world: str = "lift",
        chunk_length: int | None = None,
        max_chunks: int | None = None,
        vectorization: str = "sync",
        output: str = "numpy",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        device: str = "cpu",
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        for name, value, choices in (
            ("obs", obs, ("features", "rgb")),
            ("vectorization", vectorization, ("sync", "async")),
            ("output", output, ("numpy", "torch")),
            ("render_mode", render_mode, (None, "rgb_array")),
        ):
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}: choose {' or '.join(map(repr, choices))}")
        self.num_envs, self.render_mode, self.output = num_envs, render_mode, output
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self._device = device
        self._encode = None
        if obs == "features":  # before any simulator starts: a missing world is the cheaper error
            self._encode = importlib.import_module("world_models.world_model").load_encoder(world, device=device)
        make = partial(
            _make_simulator, task=task, placement=placement, chunk_length=chunk_length, max_chunks=max_chunks
        )
        self._simulators: SyncVectorEnv | AsyncVectorEnv
        if vectorization == "sync":
            self._simulators = SyncVectorEnv([make] * num_envs, autoreset_mode=self.autoreset_mode)
        else:
            # Spawned, for a GL context does not survive a fork.
            self._simulators = AsyncVectorEnv([make] * num_envs, context="spawn", autoreset_mode=self.autoreset_mode)
        self.metadata = {
            **self._simulators.metadata,
            "render_modes": ["rgb_array"],
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_action_space = self._simulators.single_action_space
        self.single_observation_space = self._simulators.single_observation_space
        if self._encode is not None:
            shape = (self._encode.num_tokens, self._encode.channels)
            self.single_observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._frames: np.ndarray | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode in every simulator, or in those of ``options["reset_mask"]``.

        Args:
            seed: an int s (simulator i gets s + i), or one int or None per simulator.
            options: ``{"placement": name}`` to change the placement, ``{"reset_mask": (num_envs,) bool}``.

        Returns:
            Observations and infos.

        Raises:
            ValueError: for an unknown placement or option.
        """
        seed = int(seed) if isinstance(seed, np.integer) else seed
        super().reset(seed=seed if isinstance(seed, int) else None)
        options = None if options is None else dict(options)  # Gymnasium takes the mask out of it
        if options is not None and "reset_mask" in options:
            options["reset_mask"] = np.asarray(options["reset_mask"], dtype=bool)
        seeds = seed if seed is None or isinstance(seed, int) else list(seed)
        self._frames, infos = self._simulators.reset(seed=seeds, options=options)
        return self._observe(self._frames), self._convert_infos(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Executes one chunk in every simulator.

        Args:
            actions: (num_envs, K*A) float array or tensor, row-major (K, A); beyond [-1, 1] they are clipped.

        Returns:
            Observations, rewards (num_envs,), terminated and truncated (num_envs,) bool, infos.

        Raises:
            ValueError: actions of another shape or dtype, or with NaN or infinity.
            gymnasium.error.ResetNeeded: before the first :meth:`reset`.
        """
        if self._frames is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        checked = self._checked(actions)
        self._frames, rewards, terminated, truncated, infos = self._simulators.step(checked)
        ended = terminated | truncated
        if self.output == "numpy":
            return self._observe(self._frames), rewards, terminated, truncated, self._convert_infos(infos)
        import torch

        if self.autoreset_mode is AutoresetMode.SAME_STEP:  # as the dream: always there, to be read where the mask is
            infos.setdefault("final_obs", np.full(self.num_envs, None, dtype=object))
            infos.setdefault("final_info", {})
            infos["_final_obs"] = infos["_final_info"] = ended
        return (
            self._observe(self._frames),
            torch.from_numpy(rewards).to(self._device, torch.float32),
            torch.from_numpy(terminated).to(self._device),
            torch.from_numpy(truncated).to(self._device),
            self._convert_infos(infos),
        )

    def simulator_state(self) -> dict[str, np.ndarray]:
        """The truth in every simulator: as ``RobosuiteEnv.simulator_state()``, each array with (num_envs,) in front.

        For evaluation only, never for training.
        """
        states = self._simulators.call("simulator_state")
        return {name: np.stack([state[name] for state in states]) for name in states[0]}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present picture of every simulator, (size, size, 3) uint8 each; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._frames is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        return tuple(self._frames.copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the simulators and their processes."""
        self._simulators.close(**kwargs)

    def _checked(self, actions: Any) -> np.ndarray:
        if hasattr(actions, "detach"):
            actions = actions.detach().cpu().numpy()
        array = np.asarray(actions)
        if array.shape != self.action_space.shape:
            raise ValueError(
                f"actions have shape {array.shape}, but {self.num_envs} simulators with chunks of "
                f"{self.single_action_space.shape} values need {self.action_space.shape}, row-major (K, A)"
            )
        if array.dtype.kind != "f":
            raise ValueError(f"actions have dtype {array.dtype}: convert them to float32")
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise ValueError(f"actions of simulator {bad[0]} hold NaN or infinity: look for a diverged policy")
        return np.clip(array, -1.0, 1.0).astype(np.float32)

    def _observe(self, frames: np.ndarray) -> Any:
        """What (B, size, size, 3) frames are as observations: (B, ...) array or tensor."""
        if self._encode is None and self.output == "numpy":
            return frames
        import torch

        if self._encode is None:
            return torch.from_numpy(frames).to(self._device, copy=True)
        with torch.inference_mode():
            features = self._encode(torch.from_numpy(frames).to(self._device)).float()
        # A tensor made in inference mode could not enter a policy's training.
        return features.clone() if self.output == "torch" else features.cpu().numpy()

    def _convert_infos(self, infos: dict[str, Any]) -> dict[str, Any]:
        """Pictures in ``final_obs`` become observations; with torch output every array becomes a tensor."""
        infos = dict(infos)
        if "final_obs" in infos:
            ended = np.flatnonzero(infos["_final_obs"])
            observed = self._observe(np.stack(infos["final_obs"][ended])) if len(ended) else []
            if self.output == "numpy":
                final = np.full(self.num_envs, None, dtype=object)
                for slot, observation in zip(ended, observed, strict=True):
                    final[slot] = observation
                infos["final_obs"] = final
            else:
                infos["final_obs"] = self._scattered(ended, observed)
        return infos if self.output == "numpy" else {name: self._tensor(value) for name, value in infos.items()}

    def _scattered(self, slots: np.ndarray, values: Any) -> Any:
        import torch

        dtype = torch.uint8 if self._encode is None else torch.float32
        shape = self.single_observation_space.shape
        assert shape is not None
        result = torch.zeros(self.num_envs, *shape, dtype=dtype, device=self._device)
        if len(slots):
            result[torch.from_numpy(slots).to(self._device)] = values
        return result

    def _tensor(self, value: Any) -> Any:
        import torch

        if isinstance(value, dict):
            return {name: self._tensor(item) for name, item in value.items()}
        return torch.from_numpy(value).to(self._device) if isinstance(value, np.ndarray) else value


def _make_simulator(**arguments: Any) -> RobosuiteEnv:
    os.environ.setdefault("LP_NUM_THREADS", "1")  # software GL: other cores have simulators of their own
    return RobosuiteEnv(obs="rgb", **arguments)
