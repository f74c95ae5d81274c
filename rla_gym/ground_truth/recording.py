"""Records episodes in the simulator: pictures, actions, proprioception, and the simulator's state for evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rla_gym.ground_truth.behaviours import make_behaviour
from rla_gym.ground_truth.env import RobosuiteEnv
from rla_gym.ground_truth.experts import Behaviour
from rla_gym.ground_truth.hidden_causes import HiddenCauses
from rla_gym.ground_truth.recording_config import RecordingConfig
from rla_gym.tasks import TaskSpec, get_task


def recorded_columns(task: TaskSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a recording of a task holds for every frame, besides picture and action."""
    return {
        "observation.state": (len(task.proprioception),),
        "next.success": (1,),
        # For evaluation only; nothing may train on these.
        **{f"simulator.{name}_position": (3,) for name in task.objects},
        "simulator.eef_position": (3,),
        "simulator.gripper_opening": (1,),
        "simulator.state": (task.state_dim,),
    }


class ChunkPolicy(Protocol):
    """A policy as collection calls it. It is pickled into every worker, so heavy things load at the first call."""

    def __call__(self, rgb: np.ndarray, proprioception: np.ndarray, step: int) -> np.ndarray:
        """The chunk (K, A) or (K*A,) float within [-1, 1].

        Args:
            rgb: picture (size, size, 3) uint8.
            proprioception: (R,) float32, as :meth:`rla_gym.ground_truth.env.RobosuiteEnv.proprioception` gives it.
            step: number of the chunk, from 0 on.
        """
        ...


@dataclass(frozen=True)
class Recording:
    """One recorded episode of T control steps; frame t is the picture before action t.

    Attributes:
        frames: (T, size, size, 3) uint8.
        actions: (T, A) float32.
        columns: name -> (T, ...) float32, ``next.success`` bool.
        success: whether the task is achieved in the last frame.
    """

    frames: np.ndarray
    actions: np.ndarray
    columns: dict[str, np.ndarray]
    success: bool


def record_episode(env: RobosuiteEnv, behaviour: Behaviour, length: int) -> Recording:
    """Records ``length`` control steps from the environment's present state.

    Args:
        env: an environment that was reset.
        behaviour: chooses the actions.
        length: control steps (T).
    """
    size, action_dim = env.task.camera.size, env.task.action_dim
    frames = np.empty((length, size, size, 3), np.uint8)
    actions = np.empty((length, action_dim), np.float32)
    shapes = recorded_columns(env.task).items()
    columns = {name: np.empty((length, *shape), np.float32) for name, shape in shapes}
    columns["next.success"] = np.empty((length, 1), bool)
    success = False
    for step in range(length):
        frames[step] = env.render_frame()
        state = env.simulator_state()
        for name, value in state.items():
            columns[f"simulator.{name}"][step] = value
        columns["observation.state"][step] = env.proprioception()[: len(env.task.proprioception)]
        success = env.is_success()
        actions[step] = behaviour.act(state)
        env.control_step(actions[step])
        columns["next.success"][step] = env.is_success()
    return Recording(frames, actions, columns, success)


class PolicyBehaviour:
    """A policy's rollout, with noise, after a few random control steps.

    Args:
        env: the environment that gives the policy its pictures.
        policy: see :class:`ChunkPolicy`.
        rng: source of all chance.
        noise: standard deviation of the Gaussian noise on every action dimension.
    """

    def __init__(self, env: RobosuiteEnv, policy: ChunkPolicy, rng: np.random.Generator, noise: float) -> None:
        self._env, self._policy, self._rng, self._noise = env, policy, rng, noise
        self._start_steps = int(rng.integers(0, 7))
        self._start_motion = rng.uniform(-1, 1, env.task.action_dim)
        self._chunk = np.zeros((0, env.task.action_dim))
        self._chunks = 0

    def act(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        """The next action (A,) within [-1, 1]; it does not depend on the state."""
        if self._start_steps > 0:
            self._start_steps -= 1
            return self._start_motion
        if len(self._chunk) == 0:
            chunk = np.asarray(
                self._policy(self._env.render_frame(), self._env.proprioception(), self._chunks), np.float64
            )
            self._chunk = chunk.reshape(-1, self._env.task.action_dim)
            self._chunks += 1
        action, self._chunk = self._chunk[0], self._chunk[1:]
        return np.clip(action + self._noise * self._rng.standard_normal(len(action)), -1, 1)


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode of a collection.

    Attributes:
        index: its number in the dataset.
        kind: how its actions were chosen.
        seed: that the simulator was reset with.
        recording: pictures, actions and columns.
    """

    index: int
    kind: str
    seed: int
    recording: Recording


class EpisodeRecorder:
    """One simulator that records episode after episode; an episode depends on the settings and its index alone.

    Args:
        config: how it is recorded.
        policy: for episodes of the kind ``policy``.

    Raises:
        ImportError: without robosuite or GL.
    """

    def __init__(self, config: RecordingConfig, policy: ChunkPolicy | None) -> None:
        os.environ.setdefault("LP_NUM_THREADS", "1")  # software GL: the other recorders use the other cores
        if policy is not None:
            import torch

            torch.set_num_threads(1)
        self._config, self._policy = config, policy
        task = get_task(config.task)
        self._placements = tuple(task.placements)
        self._env = RobosuiteEnv(config.task, obs="rgb", chunk_length=task.chunk_length)

    def __call__(self, index: int) -> RecordedEpisode:
        """Records episode ``index``."""
        config = self._config
        kind = config.kind(index)
        rng = np.random.default_rng([config.seed, index])
        drawn = self._placements[int(rng.integers(len(self._placements)))]
        placement = drawn if config.placement == "mixed" else config.placement
        seed = config.reset_seed(index)
        self._env.reset(seed=seed, options={"placement": placement})
        if kind == "policy":
            assert self._policy is not None
            behaviour: Behaviour = PolicyBehaviour(self._env, self._policy, rng, config.policy_noise)
        else:
            behaviour = make_behaviour(kind, rng, config.task, guessing=config.guesses(index))
        with self._hidden(index):
            return RecordedEpisode(index, kind, seed, record_episode(self._env, behaviour, config.episode_length))

    def _hidden(self, index: int) -> AbstractContextManager[None]:
        """The hidden causes of an episode, without an offset: where the object lies is chance anyway, and seen."""
        if not self._config.hidden:
            return nullcontext()
        rng = np.random.default_rng([self._config.seed, index, 2])
        return self._env.hidden(HiddenCauses(offset=0.0).draw(rng, len(self._env.task.objects)))
