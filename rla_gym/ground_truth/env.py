"""The ground truth: robosuite behind the same spaces as the dream.

robosuite and MuJoCo are imported when an environment is made, never when this module is.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rla_gym.ground_truth.rendering import OffscreenRenderer, choose_gl_backend
from rla_gym.tasks import TaskSpec, get_task

_MODEL_SEED = 0
"""robosuite draws the object's size when it builds the model: one seed, so every process has the same object."""


class RobosuiteEnv(gym.Env[np.ndarray, np.ndarray]):
    """A robosuite task in chunks of actions.

    One step is one chunk: K control steps. The action is flat, ``(K*A,)``, row-major ``(K, A)``, within
    [-1, 1]; what lies outside is clipped. Observations are ``(size, size, 3)`` uint8 pictures (``obs="rgb"``)
    or ``(L, C)`` float32 features of a world's encoder (``obs="features"``). The reward is 1.0 when the
    task is achieved at the end of the chunk, which also terminates the episode, else 0.0. After
    ``max_chunks`` the episode is truncated. ``info`` holds ``success`` (bool) and ``control_steps`` (int,
    since the reset).

    The same seed and placement give the same initial state, whatever the environment did before.

    Args:
        task: name of the task.
        placement: name of the object placement, such as ``"standard"`` or ``"wide"``.
            ``reset(options={"placement": ...})`` changes it from that episode on.
        obs: ``"features"`` or ``"rgb"``.
        world: world whose encoder makes the features: a bundled name or a folder. Unused with ``"rgb"``.
        chunk_length: control steps in a step (K); the task's own if None.
        max_chunks: steps in an episode; the task's own if None.
        render_mode: ``"rgb_array"`` or None.
        device: torch device of the encoder.

    Raises:
        ValueError: for an unknown task, placement, observation or render mode, or counts below one.
        ImportError: if robosuite is not installed, does not fit the installed MuJoCo, or there is no GL.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2.5}  # noqa: RUF012 (gymnasium's)

    def __init__(
        self,
        task: str = "Lift",
        *,
        placement: str = "standard",
        obs: Literal["features", "rgb"] = "features",
        world: str = "lift",
        chunk_length: int | None = None,
        max_chunks: int | None = None,
        render_mode: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.task = get_task(task)
        self.task.placement_half_width(placement)
        if obs not in ("features", "rgb"):
            raise ValueError(f"unknown obs {obs!r}: choose 'features' or 'rgb'")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"unknown render_mode {render_mode!r}: choose 'rgb_array' or None")
        self.chunk_length = self.task.chunk_length if chunk_length is None else chunk_length
        self.max_chunks = self.task.max_chunks if max_chunks is None else max_chunks
        for name, count in (("chunk_length", self.chunk_length), ("max_chunks", self.max_chunks)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        self.placement = placement
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": self.task.control_hz / self.chunk_length}
        self.action_space = spaces.Box(-1.0, 1.0, (self.chunk_length * self.task.action_dim,), np.float32)
        size = self.task.camera.size
        self._device = device
        self._encode = None
        self.observation_space: spaces.Box = spaces.Box(0, 255, (size, size, 3), np.uint8)
        if obs == "features":
            world_model = importlib.import_module("world_models.world_model")
            self._encode = world_model.load_encoder(world, device=device)
            shape = (self._encode.num_tokens, self._encode.channels)
            self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self._sim_env, self._placer = _make_robosuite(self.task)
        self._model = self._sim_env.sim.model._model
        self._data = self._sim_env.sim.data._data
        self._mujoco = importlib.import_module("mujoco")
        robot = self._sim_env.robots[0]
        arm = robot.arms[0]
        self._eef_site = robot.eef_site_id[arm]
        self._finger_qpos = list(robot._ref_gripper_joint_pos_indexes[arm])
        self._object_body = getattr(self._sim_env, f"{self.task.object_name}_body_id")
        self._renderer: OffscreenRenderer | None = OffscreenRenderer(self._model, self.task.camera)
        self._chunks = -1  # no episode yet
        self._control_steps = 0
        self._previous_readings = np.zeros(4, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: fixes the initial state, and those of later resets without a seed.
            options: ``{"placement": name}`` to change the placement.

        Returns:
            Observation and info.

        Raises:
            ValueError: for an unknown placement or option.
        """
        super().reset(seed=seed)
        options = options or {}
        unknown = set(options) - {"placement"}
        if unknown:
            raise ValueError(f"unknown reset options {sorted(unknown)}: the only one is 'placement'")
        placement = options.get("placement", self.placement)
        half_width = self.task.placement_half_width(placement)
        self.placement = placement
        rng = np.random.default_rng(int(self.np_random.integers(2**62)))
        self._sim_env.rng = rng  # the robot's initial joint noise
        self._placer.rng = rng
        self._placer.x_range = self._placer.y_range = (-half_width, half_width)
        self._sim_env.reset()
        self._chunks = 0
        self._control_steps = 0
        self._previous_readings = self.readings()
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Executes one chunk.

        Args:
            action: (K*A,) float, row-major (K, A).

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            ValueError: for a wrong shape or dtype, or NaN or infinity in the action.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._chunks < 0:
            raise gym.error.ResetNeeded("call reset() before step()")
        chunk = self._checked(action, (self.chunk_length * self.task.action_dim,), "(K*A,)")
        for control in chunk.reshape(self.chunk_length, self.task.action_dim):
            self._advance(control)
        self._chunks += 1
        success = self.is_success()
        truncated = not success and self._chunks >= self.max_chunks
        return self._observation(), float(success), success, truncated, self._info()

    def control_step(self, action: np.ndarray) -> None:
        """Executes one control step, without a picture.

        Args:
            action: (A,) float within [-1, 1]; what lies outside is clipped.

        Raises:
            ValueError: for a wrong shape or dtype, or NaN or infinity in the action.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._chunks < 0:
            raise gym.error.ResetNeeded("call reset() before control_step()")
        self._advance(self._checked(action, (self.task.action_dim,), "(A,)"))

    def render_frame(self) -> np.ndarray:
        """The picture of the present state: (size, size, 3) uint8, origin at the top left."""
        if self._renderer is None:
            raise gym.error.ClosedEnvironmentError("this environment is closed: make a new one")
        return self._renderer.render(self._data)

    def render(self) -> np.ndarray | None:
        """The picture of the present state with ``render_mode="rgb_array"``, else None."""
        return self.render_frame() if self.render_mode == "rgb_array" else None

    def is_success(self) -> bool:
        """Whether the task is achieved in the present state, by robosuite's own criterion."""
        return bool(self._sim_env._check_success())

    def simulator_state(self) -> dict[str, np.ndarray]:
        """The truth behind the picture; for evaluation and scripted experts, never for training.

        Returns:
            float64 arrays: ``cube_position`` (3,) and ``eef_position`` (3,) in metres, world frame;
            ``gripper_opening`` (1,), the distance between the fingers in metres; ``state`` (D,), time and
            the joint positions and velocities of the whole simulation.
        """
        data = self._data
        left, right = data.qpos[self._finger_qpos]
        return {
            "cube_position": data.xpos[self._object_body].copy(),
            "eef_position": data.site_xpos[self._eef_site].copy(),
            "gripper_opening": np.array([left - right]),
            "state": np.concatenate([[data.time], data.qpos, data.qvel]),
        }

    def readings(self) -> np.ndarray:
        """What the robot itself senses, (4,) float32: hand position (x, y, z) and gripper opening in metres."""
        state = self.simulator_state()
        return np.array([*state["eef_position"], *state["gripper_opening"]], np.float32)

    def proprioception(self) -> np.ndarray:
        """:meth:`readings` and their change since the control step before, (8,) float32: what a world's state takes."""
        readings = self.readings()
        return np.concatenate([readings, readings - self._previous_readings])

    def close(self) -> None:
        """Frees the renderer and the simulation. Calling it twice does no harm."""
        if getattr(self, "_renderer", None) is not None:
            self._renderer.close()  # type: ignore[union-attr]
            self._renderer = None
            self._sim_env.close()

    def _checked(self, action: Any, shape: tuple[int, ...], meaning: str) -> np.ndarray:
        array = np.asarray(action)
        if array.shape != shape:
            names = ", ".join(self.task.action_names)
            raise ValueError(
                f"action has shape {array.shape}, expected {shape} = {meaning} "
                f"with K={self.chunk_length}, A={self.task.action_dim} ({names})"
            )
        if array.dtype.kind != "f":
            raise ValueError(f"action has dtype {array.dtype}: convert it to float32")
        if not np.isfinite(array).all():
            raise ValueError(f"action holds NaN or infinity at index {int(np.argmax(~np.isfinite(array)))}: {array}")
        return np.clip(array.astype(np.float64), -1.0, 1.0)

    def _advance(self, control: np.ndarray) -> None:
        self._previous_readings = self.readings()
        full = np.zeros(self._sim_env.action_dim)
        full[:3] = control[:3]
        full[-1] = control[3]
        self._sim_env.step(full)
        # MuJoCo leaves body positions one substep behind the joints; this touches nothing else.
        self._mujoco.mj_kinematics(self._model, self._data)
        self._control_steps += 1

    def _observation(self) -> np.ndarray:
        frame = self.render_frame()
        if self._encode is None:
            return frame
        import torch

        readings = torch.from_numpy(self.proprioception())[None] if self._encode.readings else None
        with torch.inference_mode():
            features = self._encode(torch.from_numpy(frame)[None].to(self._device), readings)
        return features[0].to("cpu", torch.float32).numpy()

    def _info(self) -> dict[str, Any]:
        return {"success": self.is_success(), "control_steps": self._control_steps}


def _make_robosuite(task: TaskSpec) -> tuple[Any, Any]:
    """The robosuite environment of a task and the sampler that places its object."""
    choose_gl_backend()
    # robosuite logs at import: hints for its developers, and every optional package that is missing.
    logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
    try:
        robosuite = importlib.import_module("robosuite")
        controllers = importlib.import_module("robosuite.controllers")
        samplers = importlib.import_module("robosuite.utils.placement_samplers")
    except ImportError as error:
        raise ImportError(f'the ground truth needs robosuite ({error}): pip install "rla-gym[robosuite]"') from error
    controller = controllers.load_composite_controller_config(robot=task.robot)
    controller["body_parts"]["right"]["type"] = task.controller
    placer = samplers.UniformRandomSampler(
        name="ObjectSampler",
        x_range=(-0.03, 0.03),  # replaced at every reset
        y_range=(-0.03, 0.03),
        rotation=None,
        ensure_object_boundary_in_range=False,
        ensure_valid_placement=True,
        reference_pos=np.array((0.0, 0.0, 0.8)),
        z_offset=0.01,
        rng=np.random.default_rng(_MODEL_SEED),
    )
    try:
        env = robosuite.make(
            task.robosuite_name,
            robots=task.robot,
            controller_configs=controller,
            placement_initializer=placer,
            has_renderer=False,
            has_offscreen_renderer=False,  # the renderer is ours
            use_camera_obs=False,
            use_object_obs=False,
            control_freq=task.control_hz,
            hard_reset=False,
            ignore_done=True,
            seed=_MODEL_SEED,
        )
    except (AssertionError, AttributeError, TypeError) as error:  # what newer MuJoCos have led to
        version = importlib.import_module("mujoco").__version__
        raise ImportError(
            f'this robosuite does not fit MuJoCo {version} ({type(error).__name__}): pip install "rla-gym[robosuite]" '
            "installs the versions that go together"
        ) from error
    for observable in list(env.observation_names):
        env.modify_observable(observable, "enabled", False)  # we read the state ourselves; this costs 25 times a step
    return env, placer
