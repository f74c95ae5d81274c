"""Several simulators side by side, with the same spaces and conventions as the vectorised dream."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from rla_gym import episode_length
from rla_gym.arguments import (
    OUT_OF_BOUNDS,
    RENDER_MODES,
    autoreset_of,
    bonus,
    checked_seeds,
    flag,
    integer,
    integer_or_none,
    one_of,
)
from rla_gym.ground_truth.actions import checked_actions
from rla_gym.ground_truth.env import RobosuiteEnv, check_options
from rla_gym.ground_truth.perception import SIMULATOR_PARTS, Perception
from rla_gym.ground_truth.processes import end_processes, start_processes
from rla_gym.observations import by_slot
from rla_gym.portable_spec import PortableSpec
from rla_gym.tasks import DEFAULT_TASK, get_task


class RobosuiteVectorEnv(PortableSpec, VectorEnv[Any, Any, Any]):
    """``num_envs`` simulators; one step is one action chunk in each.

    The simulators give pictures, one after the other or each in its own process, and this environment encodes the
    features of all of them in one batch. Actions, observations, rewards and infos are those of
    :class:`~rla_gym.ground_truth.env.RobosuiteEnv` with Gymnasium's vector conventions; ``reset(seed=s)`` seeds
    simulator i with ``s + i``. With ``output="torch"`` everything returned is a tensor on ``device``.

    Processes are spawned: a script that asks for ``"async"`` needs its ``if __name__ == "__main__":``. They end with
    :meth:`close`, with this object, with the script, and when one of them fails or a call is interrupted.

    Args:
        num_envs: simulators B.
        vectorization: ``"sync"`` or ``"async"``.
        autoreset_mode: Gymnasium's NEXT_STEP (default), SAME_STEP or DISABLED, or its string.
        max_episode_steps: Gymnasium's word for ``max_chunks``, which counts where both are given.
        task, placement, obs, world, output, reward, success_bonus, terminate_on_success, out_of_bounds, chunk_length,
            max_chunks, render_mode, device: as in :class:`~rla_gym.ground_truth.env.RobosuiteEnv`.

    Raises:
        ValueError, FileNotFoundError: an argument is out of its range, or there is no such world.
        ImportError: if robosuite is not installed, does not fit the installed MuJoCo, or there is no GL.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (gymnasium's)
        "render_modes": ["rgb_array"],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    closed = True  # until there is something to close

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: str = DEFAULT_TASK,
        placement: str = "standard",
        obs: str | Sequence[str] = "features",
        world: str | Path | None = None,
        output: str = "numpy",
        reward: str = "sparse",
        success_bonus: float = 1.0,
        terminate_on_success: bool = True,
        out_of_bounds: str = "clip",
        chunk_length: int | None = None,
        max_chunks: int | None = None,
        vectorization: str = "sync",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        device: str = "cpu",
        max_episode_steps: int | None = None,
    ) -> None:
        self._task = get_task(task)
        self._task.placement(placement)
        one_of(("sync", "async"), vectorization=vectorization)
        one_of(OUT_OF_BOUNDS, out_of_bounds=out_of_bounds)
        one_of(RENDER_MODES, render_mode=render_mode)
        success_bonus, terminate_on_success = bonus(success_bonus), flag("terminate_on_success", terminate_on_success)
        num_envs, chunk_length = integer("num_envs", num_envs), integer_or_none("chunk_length", chunk_length)
        max_chunks = episode_length.resolve(max_chunks, max_episode_steps)
        self.max_chunks = self._task.max_chunks if max_chunks is None else max_chunks
        self.autoreset_mode = autoreset_of(autoreset_mode)
        self.num_envs, self.render_mode, self.output = num_envs, render_mode, output
        self.chunk_length = self._task.chunk_length if chunk_length is None else chunk_length
        self._placement, self._out_of_bounds = placement, out_of_bounds
        size = self.chunk_length * self._task.action_dim
        self._perception = Perception(  # before any simulator starts: a missing world is the cheaper error
            obs, self._task, num_envs=num_envs, action_size=size, world=world, reward=reward, output=output,
            device=device,
        )  # fmt: skip
        make = partial(
            _make_simulator, task=task, placement=placement, success_bonus=success_bonus,
            terminate_on_success=terminate_on_success, chunk_length=chunk_length, max_chunks=max_chunks,
        )  # fmt: skip
        self._simulators: SyncVectorEnv | AsyncVectorEnv
        if vectorization == "sync":
            self._simulators = SyncVectorEnv([make] * num_envs, autoreset_mode=self.autoreset_mode)
        else:
            self._simulators = start_processes(make, num_envs, self.autoreset_mode)
        self.closed = False
        self.metadata = {
            **self._simulators.metadata,
            "render_modes": ["rgb_array"],
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_action_space = Box(-1.0, 1.0, (size,), np.float32)
        self.single_observation_space = self._perception.space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._parts: dict[str, np.ndarray] | None = None

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
            ValueError: for an unknown placement or option, a bad seed, or a mask of another shape or without a slot.
            TypeError: for a mask of another dtype.
        """
        self._check_open()
        options = {} if options is None else dict(options)  # Gymnasium takes the mask out of it
        mask = options.pop("reset_mask", None)
        self._task.placement(check_options(options, self._placement))
        if mask is not None:
            options["reset_mask"] = self._checked_mask(mask)
        seeds = checked_seeds(seed, self.num_envs)
        if isinstance(seed, int | np.integer):
            super().reset(seed=seeds[0])
            seeds = [int(seed) + simulator for simulator in range(self.num_envs)]
        self._parts, infos = self._ask("reset", seed=seeds, options=options)
        observations, infos, _ = self._perceive(infos)
        return observations, self._convert_infos(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Executes one chunk in every simulator.

        Args:
            actions: (num_envs, K*A) float array or tensor, row-major (K, A).

        Returns:
            Observations, rewards (num_envs,), terminated and truncated (num_envs,) bool, infos.

        Raises:
            ValueError: actions of another shape or dtype, with NaN or infinity, or beyond the bounds where these raise.
            gymnasium.error.ResetNeeded: before the first :meth:`reset`.
        """
        self._check_open("step()")
        shape = self.action_space.shape
        assert shape is not None
        meaning = f"{self.num_envs} simulators x K={self.chunk_length} control steps x A={self._task.action_dim}"
        chunks = checked_actions(actions, shape, meaning, self._out_of_bounds).astype(np.float32)
        self._parts, rewards, terminated, truncated, infos = self._ask("step", chunks)
        if self.output == "torch" and self.autoreset_mode is AutoresetMode.SAME_STEP:  # always there, as in the dream
            ended = terminated | truncated
            infos = {"final_obs": None, "_final_obs": ended, "final_info": {}, "_final_info": ended.copy(), **infos}
        observations, infos, alignment = self._perceive(infos)
        rewards = (rewards + alignment).astype(np.float64 if self.output == "numpy" else np.float32)
        convert = self._perception.convert
        return observations, convert(rewards), convert(terminated), convert(truncated), self._convert_infos(infos)

    def simulator_state(self) -> dict[str, np.ndarray]:
        """The state of every simulator: as ``RobosuiteEnv.simulator_state()``, each array with (num_envs,) in front.

        For evaluation only, never for training.
        """
        states = self._ask("call", "simulator_state")
        return {name: np.stack([state[name] for state in states]) for name in states[0]}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present picture of every simulator, (size, size, 3) uint8 each; None without a render mode."""
        if self.render_mode is None:
            return None
        self._check_open("render()")
        assert self._parts is not None
        return tuple(self._parts["rgb"].copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the simulators and their processes."""
        if isinstance(self._simulators, AsyncVectorEnv):
            end_processes(self._simulators)
        else:
            self._simulators.close(**kwargs)
        self._perception.close()

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            return getattr(self._simulators, method)(*arguments, **named)
        except BaseException:
            if isinstance(self._simulators, AsyncVectorEnv):
                self.close()  # one has failed or was interrupted half-way: the others cannot go on without it
            raise

    def _check_open(self, before: str = "") -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this environment is closed: make a new one")
        if before and self._parts is None:
            raise gym.error.ResetNeeded(f"call reset() before {before}")

    def _checked_mask(self, mask: Any) -> np.ndarray:
        array = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)
        if array.shape != (self.num_envs,) or array.dtype != np.bool_:
            problem = ValueError if array.shape != (self.num_envs,) else TypeError
            raise problem(f"reset_mask has dtype {array.dtype} and shape {array.shape}: give bool ({self.num_envs},)")
        if not array.any() or (self._parts is None and not array.all()):
            raise ValueError(f"reset_mask={array}: reset at least one slot, and every slot the first time")
        return array

    def _perceive(self, infos: dict[str, Any]) -> tuple[Any, dict[str, Any], np.ndarray]:
        """Observations of the present parts, infos with what the features add, and the alignment reward (B,).

        Pictures of the present and of episodes that ended within this step are encoded together.
        """
        parts, infos = self._parts, dict(infos)
        assert parts is not None
        ended = np.flatnonzero(infos.get("_final_obs", np.zeros(self.num_envs, bool)))
        last = {name: np.stack([infos["final_obs"][slot][name] for slot in ended]) for name in parts if len(ended)}
        last = last or {name: array[:0] for name, array in parts.items()}
        features: Any = self._perception.features(
            {name: np.concatenate([parts[name], last[name]]) for name in ("rgb", "proprioception")}
        )
        nothing: tuple[Any, Any] = (None, None)
        present, final = nothing if features is None else (features[: self.num_envs], features[self.num_envs :])
        if "final_obs" in infos:
            infos["final_obs"] = _scatter(self._perception.observe(last, final), ended, self.num_envs)
        alignment = np.zeros(self.num_envs)
        if self._perception.alignment is not None:
            reached, steps = present.clone(), infos["control_steps"].copy()
            if len(ended):
                reached[ended], steps[ended] = final, infos["final_info"]["control_steps"][ended]
            alignment = self._perception.alignment(reached, steps)
            self._add_alignment(infos, alignment, present)
        return self._perception.observe(parts, present), infos, alignment

    def _add_alignment(self, infos: dict[str, Any], alignment: np.ndarray, present: Any) -> None:
        """Puts the alignment of the steps just taken into the infos, and begins what has begun in this step."""
        video = self._perception.alignment
        assert video is not None

        def write(into: dict[str, Any], values: np.ndarray) -> None:
            mask = into["_control_steps"]
            into["reward_alignment"] = np.where(mask, values, 0.0)
            into["demonstration"], into["_demonstration"] = np.where(mask, video.demonstration, 0), mask.copy()

        if infos.get("final_info"):
            write(infos["final_info"], alignment)
        began = infos["_control_steps"] & (infos["control_steps"] == 0)
        video.begin(present, began)
        write(infos, np.where(began, 0.0, alignment))

    def _convert_infos(self, infos: dict[str, Any]) -> dict[str, Any]:
        """Infos in the form that ``output`` asks for."""
        if self.output == "torch":
            convert = self._perception.convert
            return {name: self._convert_infos(v) if isinstance(v, dict) else convert(v) for name, v in infos.items()}
        if "final_obs" in infos:
            infos["final_obs"] = by_slot(infos["final_obs"], infos["_final_obs"])
        return infos


def _scatter(values: Any, slots: np.ndarray, count: int) -> Any:
    """Observations (len(slots), ...), or a dict of them, as the rows ``slots`` of ``count``; the others are zero."""
    if isinstance(values, dict):
        return {name: _scatter(value, slots, count) for name, value in values.items()}
    shape = (count, *values.shape[1:])
    rows = np.zeros(shape, values.dtype) if isinstance(values, np.ndarray) else values.new_zeros(shape)
    rows[slots] = values
    return rows


def _make_simulator(**arguments: Any) -> RobosuiteEnv:
    os.environ.setdefault("LP_NUM_THREADS", "1")  # software GL: the other simulators use the other cores
    return RobosuiteEnv(obs=SIMULATOR_PARTS, **arguments)
