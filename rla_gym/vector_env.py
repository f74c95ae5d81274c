"""The dream as a Gymnasium vector environment: one batched world-model step on the device for all slots."""

from __future__ import annotations

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

from rla_gym import episode_length, infos, world_cache
from rla_gym.actions import ActionReader
from rla_gym.arguments import (
    OUT_OF_BOUNDS,
    OUTPUTS,
    RENDER_MODES,
    autoreset_of,
    checked_seeds,
    integer,
    one_of,
    usable_device,
)
from rla_gym.dream import Dream
from rla_gym.dream_config import DreamConfig
from rla_gym.dream_state import DreamState
from rla_gym.observations import Observations, check_obs
from rla_gym.portable_spec import PortableSpec
from rla_gym.tasks import bundled_world, get_task
from rla_gym.world_fit import check_world_fits

Seed = int | Sequence[int | None] | None


class RLAWMVectorEnv(PortableSpec, VectorEnv[Any, Any, Any]):
    """``num_envs`` imagined episodes side by side. One step is one action chunk: K control steps of A dimensions.

    The noise and the initial states of slot ``i`` are a function of (seed, ``first_slot + i``, episode, step) alone, so
    its trajectory does not depend on ``num_envs`` or on what other slots do (up to float rounding in batched matmuls).
    Actions are (num_envs, K*A) float in [-1, 1], row-major (K, A). Observations are what ``obs`` names, by default the
    tokens (num_envs, L, C) float32; :class:`rla_gym.observations.Observations` lists all and says which suits whom.
    Infos follow Gymnasium's vector convention (``key`` and mask ``_key``, each (num_envs,)): ``success`` bool, and
    ``is_success``, the same by Stable-Baselines3's name, ``success_probability`` float, ``reward_alignment`` and
    ``reward_success`` float, which sum to the reward,
    ``uncertainty`` float (mean absolute error of a number of the state that the model expects of this step),
    ``control_steps`` int (of this episode), ``demonstration`` int (the one rewarded).

    With ``output="torch"`` everything returned is a tensor on ``device``, and :meth:`step` never waits for it if the
    actions are on it, too: ``final_obs`` and ``final_info`` are then always there, to be read where ``_final_obs`` is
    True, and bad actions on a GPU are reported by this step or a later one, without waiting for the GPU.

    Example:
        >>> dream = gym.make_vec("RLAWM-Lift-v0", num_envs=64, output="torch", reward="goal")  # doctest: +SKIP
        >>> obs, info = dream.reset(seed=0)  # doctest: +SKIP

    Args:
        num_envs: slots B.
        task: name of a task in :mod:`rla_gym.tasks`, which must be the world's; None for whatever the world shows.
        world: name of a bundled world or of an installed package's, or a world folder; None for the task's bundled one.
        obs: name of an observation, or several names for a dict of them.
        output: "numpy" or "torch".
        out_of_bounds: "clip" actions to [-1, 1], or "raise" an error for those beyond.
        autoreset_mode: Gymnasium's NEXT_STEP (default), SAME_STEP or DISABLED, or its string.
        render_mode: None or "rgb_array".
        first_slot: number of the first slot, for workers that share one run's slots.
        max_episode_steps: Gymnasium's word for ``max_chunks``, which counts where both are given.
        settings: every field of :class:`rla_gym.dream_config.DreamConfig`, which documents them: ``dynamics``,
            ``device``, ``precision``, ``reward``, ``success_bonus``, ``terminate_on_success``, ``initial_states``,
            ``chunk_length``, ``prediction_length``, ``max_chunks``, ``solver_steps``, ``draws``,
            ``max_uncertainty``.

    Attributes:
        world: folder of the world.
        chunk_length: K.
        max_chunks: env steps after which an episode is truncated.
        success_threshold: success probability from which on an imagined state counts as a success.

    Raises:
        TypeError: an argument is unknown, or the world is named by something else than a string or a path.
        ValueError, FileNotFoundError: an argument is out of its range, or there is no such task, world or device.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    closed = True  # until there is something to close

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: str | None = "Lift",
        world: str | Path | None = None,
        obs: str | Sequence[str] = "features",
        output: str = "numpy",
        out_of_bounds: str = "clip",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        first_slot: int = 0,
        max_episode_steps: int | None = None,
        **settings: Any,
    ) -> None:
        settings["max_chunks"] = episode_length.resolve(settings.get("max_chunks"), max_episode_steps)
        config = DreamConfig.from_arguments(settings, RLAWMVectorEnv)
        spec = None if task is None else get_task(task)
        if world is None:
            if task is None:
                raise ValueError("RLAWM-v0 is for a world of one's own: name it by world=, a folder or hf://owner/name")
            world = bundled_world(task)
        check_obs(obs)
        one_of(OUTPUTS, output=output)
        one_of(OUT_OF_BOUNDS, out_of_bounds=out_of_bounds)
        one_of(RENDER_MODES, render_mode=render_mode)
        num_envs, first_slot = integer("num_envs", num_envs), integer("first_slot", first_slot)
        self.autoreset_mode = autoreset_of(autoreset_mode)
        device = usable_device(config.device)
        key, opened = world_cache.acquire_world(
            world, config.dynamics, device, config.precision, config.prediction_length
        )
        self._release = weakref.finalize(self, world_cache.release, key)  # also when it is never closed
        model = opened.world.model
        if spec is not None:
            check_world_fits(spec, model.config, world)
        for doubt in opened.doubts():
            gym.logger.warn(doubt)
        self._dream = Dream(opened, device, config, num_envs=num_envs, first_slot=first_slot)
        self.chunk_length, self.max_chunks = self._dream.chunk_length, self._dream.max_chunks
        self.num_envs, self.render_mode, self.output = num_envs, render_mode, output
        self.world, self.success_threshold = str(opened.world.folder), opened.success_threshold
        self.metadata = type(self).metadata | {"autoreset_mode": self.autoreset_mode}
        self.metadata["render_fps"] = model.config.fps / self.chunk_length

        tokens, action_size = (model.num_tokens, model.channels), self.chunk_length * model.action_dim
        self._observations = Observations(
            obs, tokens=tokens, frame_shape=model.frame_shape, action_size=action_size,
            proprioception_dim=model.proprioception_dim,
        )  # fmt: skip
        self._read = ActionReader(num_envs, self.chunk_length, model.action_dim, device, out_of_bounds)
        self.single_observation_space = self._observations.space
        self.single_action_space = Box(-1.0, 1.0, (action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._started = self.closed = False

    @torch.no_grad()
    def reset(self, *, seed: Seed = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts a new episode in every slot, or in those of ``options["reset_mask"]``.

        Args:
            seed: one for all slots (their trajectories differ by their numbers), or one int or None per slot. None
                goes on to the next episode of the seed in use.
            options: "demo" (int or (num_envs,) ints) and "t" (its frame) choose the initial state; "rgb", a uint8 frame
                (H, W, 3) of any size or one per slot (num_envs, H, W, 3), starts from that picture, rewarded by the
                demonstration whose first frame is nearest unless "demo" is given; "proprioception", (R,) or
                (num_envs, R) float, is needed with it unless the world is from video alone; "reset_mask" (num_envs,)
                bool chooses the slots to reset.

        Raises:
            ValueError: a seed or option is unknown, out of range or contradicts another; nothing has changed then.
        """
        self._check_open()
        seeds = checked_seeds(seed, self.num_envs)
        if not self._started:
            seeds = [self.np_random_seed if one is None else one for one in seeds]  # drawn from entropy
        mask = self._dream.begin(seeds, options, everyone=not self._started)
        if seed is not None and not hasattr(seed, "__len__"):
            super().reset(seed=seeds[0])
        self._started = True
        return self._converted(self._observe(), self._dream.infos(mask))

    @torch.no_grad()
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Predicts the next state of every slot from an action chunk: actions (num_envs, K*A) float array or tensor.

        Returns:
            Observations, rewards (num_envs,) (float32 tensor or float64 array), terminated and truncated (num_envs,)
            bool, infos. Finished slots are reset as Gymnasium's own vector environments do in this autoreset mode.

        Raises:
            ValueError: actions of another shape or dtype, with NaN or infinity, or beyond the bounds where these raise.
            gymnasium.error.ResetNeeded: before the first :meth:`reset`, as by every method but :meth:`set_state`.
        """
        self._check_open("step()")
        reward, terminated, truncated = self._dream.step(self._read(actions))
        slots, final = self._dream.slots, {}
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            finished = slots.ended  # in the step before: this one only resets them, and their action is ignored
            self._dream.next_episode(finished)
            reward = torch.where(finished, 0.0, reward)
            terminated, truncated = terminated & ~finished, truncated & ~finished
            slots.ended = terminated | truncated
        elif self.autoreset_mode is AutoresetMode.SAME_STEP:
            finished = terminated | truncated
            if self.output == "torch" or finished.any():
                final = infos.final(self._observe(), self._dream.infos(finished), finished)
            self._dream.next_episode(finished)
        reward = reward.double() if self.output == "numpy" else reward  # as in Gymnasium's own vector environments
        info = {**final, **self._dream.infos(self._dream.everyone)}
        return self._converted(self._observe(), reward, terminated, truncated, info)

    def get_state(self) -> DreamState:
        """Saves every slot: picklable, and indexable by slot to branch, see :class:`rla_gym.dream_state.DreamState`."""
        self._check_open("get_state()")
        return self._dream.save()

    @torch.no_grad()
    def set_state(self, state: DreamState, *, seed: Seed = None) -> tuple[Any, dict[str, Any]]:
        """Restores a saved state; from it an environment made with the same arguments goes on as the one that saved it.

        Args:
            state: one slot for each of this environment's. Branches of one slot share its noise: only their actions
                tell them apart.
            seed: as in :meth:`reset`; from here on each slot draws the noise of this seed and of its number here.

        Returns:
            Observations and infos of the restored step.

        Raises:
            ValueError, TypeError: a bad seed, or a state that does not fit this environment; nothing has changed then.
        """
        self._check_open()
        self._dream.restore(state, checked_seeds(seed, self.num_envs))
        self._started = True
        return self._converted(self._observe(), self._dream.infos(self._dream.everyone))

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present state of every slot as a tuple of (H, W, 3) uint8 frames; decoded by this call alone."""
        self._check_open("render()")
        if self.render_mode is None:
            gym.logger.warn("render() without a render mode: make the environment with render_mode='rgb_array'")
            return None
        with torch.no_grad():
            return tuple(self._dream.decode().cpu().numpy())

    def close_extras(self, **kwargs: Any) -> None:
        """Releases the world; the last environment that uses it frees its memory."""
        self._release()
        del self._dream

    def _check_open(self, before: str = "") -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("this environment is closed: make a new one")
        if before and not self._started:
            raise gym.error.ResetNeeded(f"call reset() before {before}")

    def _observe(self) -> Any:
        return self._observations.build(self._dream.parts())

    def _converted(self, *values: Any) -> Any:
        if self.output == "torch":
            return values
        *arrays, info = values
        return *map(infos.to_numpy, arrays), infos.info_to_numpy(info)
