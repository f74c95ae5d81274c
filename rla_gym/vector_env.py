"""The dream as a Gymnasium vector environment: one batched world-model step on the device for all slots."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from rewards.video_aligned import check_reward_name, make_reward
from rla_gym import counter_noise, infos, world_cache
from rla_gym.actions import ActionReader
from rla_gym.arguments import at_least, one_of, usable_device
from rla_gym.slots import Slots, checked_mask
from rla_gym.starts import STARTS, Starts, checked_frames
from rla_gym.tasks import get_task

# Streams of random numbers within an episode's key.
_STARTS, _NOISE = 0, 1


class RLAWMVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` episodes dreamed side by side. One step is one action chunk: K control steps of A dimensions.

    Slot ``i``'s noise and start states are a function of (seed, ``first_slot + i``, episode, step) alone, so its
    trajectory does not depend on ``num_envs`` or on what other slots do (up to float rounding in batched matmuls).

    Actions are (num_envs, K*A) float in [-1, 1], row-major (K, A); beyond the bounds they are clipped. Observations
    are patch tokens (num_envs, L, C) float32, or with ``obs="rgb"`` decoded frames (num_envs, H, W, 3) uint8. Infos
    follow Gymnasium's vector convention (``key`` and mask ``_key``, each (num_envs,)): ``success`` bool,
    ``success_probability`` float, ``control_steps`` int (of this episode), ``demonstration`` int (the one rewarded).

    Reward: minus the token distance to the demonstration at time t0 + m*K after m chunks from its frame t0
    ("corresponding"), or to its last frame ("goal"); ``success_bonus`` is added in every step that ends in success.

    With ``output="torch"`` everything returned is a tensor on ``device``, and :meth:`step` never waits for it if the
    actions are on it, too. Then same-step ``final_obs`` and ``final_info`` are always there, to be read where
    ``_final_obs`` is True, and NaN or infinity in actions on a GPU is reported by this step or a later one, as soon as
    the news arrives.

    Example:
        >>> dream = gym.make_vec("RLAWM-Lift-v0", num_envs=64, output="torch")  # doctest: +SKIP
        >>> obs, info = dream.reset(seed=0)  # doctest: +SKIP
        >>> obs, reward, terminated, truncated, info = dream.step(torch.zeros(64, 32))  # doctest: +SKIP

    Args:
        num_envs: slots B.
        task: name of a task in :mod:`rla_gym.tasks`, which must be the world's; None for whatever the world shows.
        world: name of a bundled world, or a world folder.
        dynamics: "flow" (samples futures) or "regression" (predicts one).
        device: a torch device.
        obs: "features" or "rgb".
        output: "numpy" or "torch".
        reward: "corresponding" or "goal".
        success_bonus: added to the reward of a step that ends in success.
        terminate_on_success: whether success ends the episode.
        starts: "mixed" or "first", see :class:`rla_gym.starts.Starts`.
        chunk_length: K, 1 up to the world's (default) chunk length.
        max_chunks: steps after which an episode is truncated.
        solver_steps: steps of the flow's solver; None for the world's own.
        autoreset_mode: Gymnasium's NEXT_STEP (default), SAME_STEP or DISABLED, or its string.
        render_mode: None or "rgb_array".
        first_slot: number of the first slot, for workers that share one run's slots.

    Attributes:
        world: folder of the world.
        chunk_length: K.
        success_threshold: success probability from which on a state counts as a success.

    Raises:
        ValueError, FileNotFoundError: an argument is out of its range, or there is no such task, world or device.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: str | None = "Lift",
        world: str | Path = "lift",
        dynamics: str = "flow",
        device: str = "cpu",
        obs: str = "features",
        output: str = "numpy",
        reward: str = "corresponding",
        success_bonus: float = 1.0,
        terminate_on_success: bool = True,
        starts: str = "mixed",
        chunk_length: int | None = None,
        max_chunks: int = 6,
        solver_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        first_slot: int = 0,
    ) -> None:
        if task is not None:
            get_task(task)
        one_of("obs", obs, ("features", "rgb"))
        one_of("output", output, ("numpy", "torch"))
        one_of("starts", starts, STARTS)
        one_of("render_mode", render_mode, (None, "rgb_array"))
        check_reward_name(reward)
        at_least("num_envs", num_envs, 1)
        at_least("max_chunks", max_chunks, 1)
        at_least("solver_steps", solver_steps, 1)
        at_least("first_slot", first_slot, 0)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self._device = usable_device(device)

        key, opened = world_cache.acquire(world, dynamics, self._device)
        self._release = weakref.finalize(self, world_cache.release, key)  # also when it is never closed
        self.world = str(opened.world.folder)
        self._model, self._detector = opened.world.model, opened.detector
        self.success_threshold = opened.detector.threshold
        self._demonstrations = opened.world.demonstrations
        if task not in (None, self._model.config.task):
            raise ValueError(
                f"world {world!r} shows task {self._model.config.task!r}, not {task!r}: choose a world of {task!r}, "
                "or pass task=None to dream this one"
            )
        self.chunk_length = self._model.chunk_length if chunk_length is None else chunk_length
        if not 1 <= self.chunk_length <= self._model.chunk_length:
            raise ValueError(
                f"chunk_length={chunk_length} must be between 1 and {self._model.chunk_length}, the longest chunk "
                f"that world {world!r} was trained on"
            )
        self._reward = make_reward(reward, self._demonstrations)
        with torch.no_grad():
            solved = self._detector.first_success(self._demonstrations)
        self._starts = Starts(self._demonstrations, starts, self.chunk_length, solved)
        self._obs, self.output, self._bonus = obs, output, success_bonus
        self._terminate, self._max_chunks, self._solver_steps = terminate_on_success, max_chunks, solver_steps

        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": self._model.config.fps / self.chunk_length,
            "autoreset_mode": self.autoreset_mode,
        }
        tokens = (self._model.num_tokens, self._model.channels)
        size = self._model.image_size
        self.single_action_space = Box(-1.0, 1.0, (self.chunk_length * self._model.action_dim,), np.float32)
        self.single_observation_space = (
            Box(0, 255, (size, size, 3), np.uint8) if obs == "rgb" else Box(-np.inf, np.inf, tokens, np.float32)
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

        def zeros(dtype: torch.dtype) -> Tensor:
            return torch.zeros(num_envs, dtype=dtype, device=self._device)

        self._slots = Slots(num_envs, first_slot, self._device)
        self._demonstration, self._start, self._taken = zeros(torch.int64), zeros(torch.int64), zeros(torch.int64)
        self._features = torch.zeros(num_envs, *tokens, device=self._device)
        self._done, self._success, self._probability = zeros(torch.bool), zeros(torch.bool), zeros(torch.float32)
        self._started = False
        self._read = ActionReader(num_envs, self.chunk_length, self._model.action_dim, self._device)

    @torch.no_grad()
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts a new episode in every slot, or in those of ``options["reset_mask"]``.

        Args:
            seed: an int (for all slots: their numbers tell them apart), or one int or None per slot. A seed starts
                again at its episode 0; None goes on to the next episode (of a random seed, the very first time).
            options: ``{"demo": i, "t": frame}``, each an int or (num_envs,), to start at frame t (default 0) of
                demonstration i; ``{"rgb": (H, W, 3) or (num_envs, H, W, 3) uint8}`` to start from one's own picture,
                rewarded by the demonstration ("demo", or else the one with the nearest first frame);
                ``{"reset_mask": (num_envs,) bool}`` to leave the other slots as they are.

        Returns:
            Observations and infos as in the class's description.

        Raises:
            ValueError: an option is unknown or out of range.
            gymnasium.error.Error: a seed is negative.
        """
        self._check_open()
        options = options or {}
        chosen = self._starts.chosen(options, self.num_envs)
        mask = checked_mask(options.get("reset_mask"), self.num_envs, not self._started).to(self._device)
        frames = checked_frames(options["rgb"], self.num_envs) if "rgb" in options else None
        self._slots.reset(self._seeds(seed), mask)
        demonstration, start = chosen or self._drawn()
        features = self._demonstrations.at(demonstration, start).float()
        if frames is not None:
            features = self._model.encode(frames.to(self._device)).expand(self.num_envs, -1, -1)
            demonstration = self._starts.nearest(features) if chosen is None else demonstration
            start = start if chosen else torch.zeros_like(start)
        self._begin(mask, features, demonstration, start)
        self._done = self._done & ~mask
        self._started = True
        info = self._infos(mask)
        if self.output == "torch":
            return self._observe(), info
        return self._observe().cpu().numpy(), infos.to_numpy(info)

    @torch.no_grad()
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Dreams one action chunk on in every slot: actions (num_envs, K*A) float array or tensor.

        Returns:
            Observations, rewards (num_envs,) (float32 tensor or float64 array), terminated and truncated (num_envs,)
            bool, infos. Finished slots are reset as Gymnasium's own vector environments do in this autoreset mode.

        Raises:
            ValueError: actions of another shape or dtype, or with NaN or infinity.
            gymnasium.error.ResetNeeded: before the first :meth:`reset`.
        """
        self._check_open()
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before step()")
        chunk = self._read(actions)
        shape = self._model.noise_shape
        key = counter_noise.fold(self._slots.key, _NOISE, self._taken)
        noise = None if shape is None else counter_noise.normal(key, shape)
        with torch.inference_mode():
            self._features = self._model.predict(self._features, chunk, noise, self._solver_steps).features
        self._taken = self._taken + 1
        self._probability = self._detector.probability(self._features)
        self._success = self._probability >= self.success_threshold
        time = self._start + self._taken * self.chunk_length
        reward = self._reward(self._features, self._demonstration, time) + self._bonus * self._success
        terminated = self._success & self._terminate
        truncated = (self._taken >= self._max_chunks) & ~terminated
        final: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            finished = self._done  # in the step before: this one only resets them, and their action is ignored
            self._next_episode(finished)
            reward = torch.where(finished, 0.0, reward)
            terminated, truncated = terminated & ~finished, truncated & ~finished
            self._done = terminated | truncated
        elif self.autoreset_mode is AutoresetMode.SAME_STEP:
            finished = terminated | truncated
            if self.output == "torch" or finished.any():
                final = infos.final(self._observe(), self._infos(finished), finished)
            self._next_episode(finished)
        info = {**final, **self._infos(torch.ones_like(self._done))}
        if self.output == "torch":
            return self._observe(), reward, terminated, truncated, info
        rewards = reward.cpu().double().numpy()  # float64 as in Gymnasium's own vector environments
        return (
            self._observe().cpu().numpy(),
            rewards,
            terminated.cpu().numpy(),
            truncated.cpu().numpy(),
            infos.to_numpy(info),
        )

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present state of every slot as a tuple of (H, W, 3) uint8 frames; decoded only now that you ask.

        Raises:
            gymnasium.error.ResetNeeded: before the first :meth:`reset`.
        """
        self._check_open()
        if self.render_mode is None:
            gym.logger.warn("render() without a render mode: make the environment with render_mode='rgb_array'")
            return None
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before render()")
        return tuple(self._model.decode(self._features).cpu().numpy())

    def close_extras(self, **kwargs: Any) -> None:
        """Lets go of the world; the last environment that uses it frees its memory."""
        self._release()
        del self._model, self._detector, self._demonstrations, self._reward, self._starts, self._features

    def _check_open(self) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this environment is closed: make a new one")

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if isinstance(seed, Sequence | np.ndarray):
            seeds = [None if one is None else operator.index(one) for one in seed]
        else:
            seeds = [None if seed is None else operator.index(seed)] * self.num_envs
            super().reset(seed=seeds[0])
        if self._started:
            return seeds
        return [self.np_random_seed if one is None else one for one in seeds]  # drawn from entropy

    def _drawn(self) -> tuple[Tensor, Tensor]:
        return self._starts.draw(counter_noise.fold(self._slots.key, _STARTS))

    def _next_episode(self, mask: Tensor) -> None:
        self._slots.advance(mask)
        demonstration, start = self._drawn()
        self._begin(mask, self._demonstrations.at(demonstration, start).float(), demonstration, start)

    def _begin(self, mask: Tensor, features: Tensor, demonstration: Tensor, start: Tensor) -> None:
        self._features = torch.where(mask[:, None, None], features, self._features)
        self._demonstration = torch.where(mask, demonstration, self._demonstration)
        self._start = torch.where(mask, start, self._start)
        self._taken = torch.where(mask, 0, self._taken)
        self._probability = torch.where(mask, self._detector.probability(features), self._probability)
        self._success = self._success & ~mask  # who has done nothing yet has not succeeded

    def _observe(self) -> Tensor:
        if self._obs == "rgb":
            return self._model.decode(self._features)
        # Apart from the state itself, so that nobody who edits an observation edits the dream.
        return self._features.to("cpu" if self.output == "numpy" else self._device, copy=True)

    def _infos(self, mask: Tensor) -> dict[str, Any]:
        values = {
            "success": self._success,
            "success_probability": self._probability,
            "control_steps": self._taken * self.chunk_length,
            "demonstration": self._demonstration,
        }
        return infos.masked(values, mask)
