"""The ground truth: robosuite behind the same spaces as the dream.

robosuite, MuJoCo and torch are imported when an environment is made, never when this module is; torch only where
features are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rla_gym import episode_length
from rla_gym.arguments import OUT_OF_BOUNDS, RENDER_MODES, bonus, checked_seeds, flag, integer_or_none, one_of
from rla_gym.ground_truth.actions import checked_actions
from rla_gym.ground_truth.hidden_causes import DrawnCauses
from rla_gym.ground_truth.perception import Perception
from rla_gym.ground_truth.simulator import Simulator
from rla_gym.observations import row
from rla_gym.portable_spec import PortableSpec
from rla_gym.tasks import DEFAULT_TASK, get_task


class RobosuiteEnv(PortableSpec, gym.Env[Any, np.ndarray]):
    """A robosuite task in chunks of actions.

    One step is one chunk: K control steps. The action is flat, ``(K*A,)``, row-major ``(K, A)``, within [-1, 1].
    Observations are those of the dream, of real pictures: what ``obs`` names, by default the features ``(L, C)``
    float32 of a world's encoder, see :class:`rla_gym.observations.Observations`. Success is robosuite's criterion at
    the end of the chunk. ``info`` holds ``success`` and ``is_success`` (bool, the same), ``control_steps`` (int, since
    the reset), ``reward_alignment`` and ``reward_success`` (float, they sum to the reward), and with a video-aligned
    reward ``demonstration`` (int).

    The same seed and placement give the same initial state, whatever the environment did before.

    Args:
        task: name of the task.
        placement: name of the object placement, such as ``"standard"`` or ``"wide"``.
            ``reset(options={"placement": ...})`` changes it from that episode on.
        obs: name of an observation, or several names for a dict of them.
        world: world whose encoder makes the features, and whose demonstrations a video-aligned reward compares them
            with: a bundled name or a folder; None for the task's bundled one. Unused where neither is asked for.
        output: ``"numpy"`` or ``"torch"`` (tensors on ``device``).
        reward: ``"sparse"`` (nothing but the bonus), or ``"corresponding"`` or ``"goal"``: minus the token distance to
            the demonstration whose first frame is nearest to the episode's, at the same time or at its end, or
            ``"progress"``: minus the way left, by the nearest frames of all demonstrations, or
            ``"success_probability"``: minus the probability of no success that the world's detector gives.
        success_bonus: added to the reward of a step that ends in success.
        terminate_on_success: whether success ends the episode.
        out_of_bounds: ``"clip"`` actions to [-1, 1], or ``"raise"`` an error for those beyond.
        chunk_length: control steps in a step (K); the task's own if None.
        max_chunks: steps after which an episode is truncated; None for the ``max_episode_steps`` of the ``gym.make``
            that makes this environment, or for the task's own.
        render_mode: ``"rgb_array"`` or None.
        device: torch device of the encoder.

    Raises:
        ValueError, FileNotFoundError: an argument is out of its range, or there is no such world.
        ImportError: if robosuite is not installed, does not fit the installed MuJoCo, or there is no GL.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2.5}  # noqa: RUF012 (gymnasium's)

    def __init__(
        self,
        task: str = DEFAULT_TASK,
        *,
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
        render_mode: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.task = get_task(task)
        self.task.placement(placement)
        one_of(OUT_OF_BOUNDS, out_of_bounds=out_of_bounds)
        one_of(RENDER_MODES, render_mode=render_mode)
        chunk_length, max_chunks = integer_or_none("chunk_length", chunk_length), episode_length.in_gym_make(max_chunks)
        self.chunk_length = self.task.chunk_length if chunk_length is None else chunk_length
        self.max_chunks = self.task.max_chunks if max_chunks is None else max_chunks
        self.placement, self.render_mode = placement, render_mode
        self._bonus = bonus(success_bonus)
        self._terminate = flag("terminate_on_success", terminate_on_success)
        self._out_of_bounds = out_of_bounds
        self.metadata = {**self.metadata, "render_fps": self.task.control_hz / self.chunk_length}
        size = self.chunk_length * self.task.action_dim
        self._perception = Perception(
            obs, self.task, num_envs=1, action_size=size, world=world, reward=reward, output=output, device=device
        )
        self.action_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.observation_space = self._perception.space
        self._simulator: Simulator | None = Simulator(self.task)
        self._last_action = np.zeros(size, np.float32)
        self._chunks = -1  # no episode yet
        self._control_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: fixes the initial state, and those of later resets without a seed.
            options: ``{"placement": name}`` to change the placement.

        Returns:
            Observation and info.

        Raises:
            ValueError: for an unknown placement or option.
        """
        placement = check_options(options, self.placement)
        placed = self.task.placement(placement)
        simulator = self._open()
        super().reset(seed=checked_seeds(seed, 1)[0])
        self.placement = placement
        simulator.reset(np.random.default_rng(int(self.np_random.integers(2**62))), placed)
        self._chunks = self._control_steps = 0
        self._last_action[:] = 0.0
        parts = self._observation_parts()
        features = self._perception.features(parts)
        if self._perception.alignment is not None:
            self._perception.alignment.begin(features, np.ones(1, bool))
        return row(self._perception.observe(parts, features), 0), self._info(0.0, 0.0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Executes one chunk.

        Args:
            action: (K*A,) float array or tensor, row-major (K, A).

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            ValueError: another shape or dtype, NaN or infinity, or beyond the bounds where these raise.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        self._check_started("step()")
        length, names = self.chunk_length, ", ".join(self.task.action_names)
        meaning = f"(K*A,) with K={length}, A={self.task.action_dim} ({names})"
        chunk = checked_actions(action, (length * self.task.action_dim,), meaning, self._out_of_bounds)
        for control in chunk.reshape(length, -1):
            self._advance(control)
        self._last_action = chunk.astype(np.float32)
        self._chunks += 1
        parts = self._observation_parts()
        features = self._perception.features(parts)
        success = self.is_success()
        alignment, video = 0.0, self._perception.alignment
        if video is not None:
            alignment = float(video(features, np.array([self._control_steps]))[0])
        reward_success = self._bonus * float(success)
        terminated = success and self._terminate
        truncated = self._chunks >= self.max_chunks  # whether or not it succeeded, as in Gymnasium's TimeLimit
        observation = row(self._perception.observe(parts, features), 0)
        return observation, alignment + reward_success, terminated, truncated, self._info(alignment, reward_success)

    def control_step(self, action: np.ndarray) -> None:
        """Executes one control step, without a picture.

        Args:
            action: (A,) float within [-1, 1]; what lies outside is clipped.

        Raises:
            ValueError: for a wrong shape or dtype, or NaN or infinity in the action.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        self._check_started("control_step()")
        meaning = f"(A,), {', '.join(self.task.action_names)}"
        self._advance(checked_actions(action, (self.task.action_dim,), meaning))

    def hidden(self, causes: DrawnCauses) -> AbstractContextManager[None]:
        """Within it, hidden causes act from the present state on; afterwards the model is as before. Reset then."""
        return self._open().hidden(causes)

    def snapshot(self) -> dict[str, Any]:
        """Everything that the simulation's future depends on beside its actions, to :meth:`restore`; picklable.

        The episode's count of steps is not in it: copy or pickle the environment for that.
        """
        return self._open().snapshot()

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a :meth:`snapshot` of the same task, bit for bit."""
        self._check_started("restore()")
        self._open().restore(snapshot)

    def set_simulator_state(self, state: np.ndarray) -> None:
        """Put the simulation into a recorded state, for its picture; see :meth:`simulator_state`'s ``state``.

        Args:
            state: ``(D,)`` float64 with D the task's ``state_dim``.

        Raises:
            ValueError: it has another size, or is not finite.
        """
        self._check_started("set_simulator_state()")
        if state.shape != (self.task.state_dim,) or not np.isfinite(state).all():
            raise ValueError(
                f"the state has shape {state.shape}: {self.task.name} takes ({self.task.state_dim},) finite numbers"
            )
        self._open().set_state(state)

    def render_frame(self) -> np.ndarray:
        """The picture of the present state: (size, size, 3) uint8, origin at the top left."""
        return self._open().frame()

    def render(self) -> np.ndarray | None:
        """The picture of the present state with ``render_mode="rgb_array"``, else None."""
        return self.render_frame() if self.render_mode == "rgb_array" else None

    def is_success(self) -> bool:
        """Whether the task is achieved in the present state, by robosuite's criterion."""
        return self._open().is_success()

    def simulator_state(self) -> dict[str, np.ndarray]:
        """The state behind the picture; for evaluation and scripted experts, never for training.

        Returns:
            float64 arrays: ``cube_position`` (3,), so on for the task's other objects, and ``eef_position`` (3,) in
            metres, world frame; ``gripper_opening`` (1,), the distance between the fingers in metres; ``state`` (D,),
            time and the joint positions and velocities of the whole simulation.
        """
        return self._open().state()

    def proprioception(self) -> np.ndarray:
        """Proprioceptive values and their change since the control step before: (R,) float32, metres.

        The task's ``proprioception`` names the values: hand position (x, y, z) and gripper opening. The change is zero
        after a reset.
        """
        return self._open().proprioception()

    def close(self) -> None:
        """Frees the renderer, the simulation and the world. Calling it twice does no harm."""
        if getattr(self, "_simulator", None) is not None:
            self._open().close()
            self._simulator = None
            self._perception.close()

    def _open(self) -> Simulator:
        if self._simulator is None:
            raise gym.error.ClosedEnvironmentError("this environment is closed: make a new one")
        return self._simulator

    def _check_started(self, before: str) -> None:
        self._open()
        if self._chunks < 0:
            raise gym.error.ResetNeeded(f"call reset() before {before}")

    def _advance(self, control: np.ndarray) -> None:
        self._open().advance(control.astype(np.float64))
        self._control_steps += 1

    def _observation_parts(self) -> dict[str, np.ndarray]:
        """:data:`rla_gym.ground_truth.perception.SIMULATOR_PARTS`, each with a batch dimension of 1."""
        remaining = max(0.0, 1.0 - self._chunks / self.max_chunks)
        return {
            "proprioception": self.proprioception()[None],
            "rgb": self.render_frame()[None],
            "last_action": self._last_action[None].copy(),
            "remaining_time": np.array([[remaining]], np.float32),
        }

    def _info(self, alignment: float, reward_success: float) -> dict[str, Any]:
        success = self.is_success()
        info = {
            "success": success,
            "is_success": success,  # by this name Stable-Baselines3 and its tools look for it
            "control_steps": self._control_steps,
            "reward_alignment": alignment,
            "reward_success": reward_success,
        }
        video = self._perception.alignment
        return info if video is None else {**info, "demonstration": int(video.demonstration[0])}


def check_options(options: Any, placement: str) -> str:
    """The placement that reset options ask for, or the one given.

    Raises:
        ValueError: an unknown option.
    """
    options = {} if options is None else options
    unknown = sorted(set(options) - {"placement"})
    if unknown:
        raise ValueError(
            f"unknown reset option {unknown[0]!r}: a simulator takes 'placement', and several take 'reset_mask'"
        )
    return options.get("placement", placement)
