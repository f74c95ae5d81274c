"""The simulation itself: a robosuite task with its camera, one control step at a time.

robosuite and MuJoCo are imported when a simulator is made, never when this module is.
"""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rla_gym.ground_truth.gl import prepare_gl
from rla_gym.ground_truth.hidden_causes import DrawnCauses, applied
from rla_gym.ground_truth.rendering import OffscreenRenderer
from rla_gym.tasks import Placement, TaskSpec

_MODEL_SEED = 0
"""robosuite draws the object's size when it builds the model: one seed, so every process has the same object."""


class Simulator:
    """A robosuite task. The same generator and placement give the same initial state, whatever was done before.

    It can be pickled and copied: the copy goes on from the same state, bit for bit, with a GL context of its own.

    Args:
        task: what to simulate.

    Raises:
        ImportError: robosuite is not installed, does not fit the installed MuJoCo, or there is no GL.
    """

    def __init__(self, task: TaskSpec) -> None:
        self._task = task
        self._env, self._placer = _make_robosuite(task)
        self._model = self._env.sim.model._model
        self._data = self._env.sim.data._data
        self._mujoco = importlib.import_module("mujoco")
        robot = self._env.robots[0]
        arm = robot.arms[0]
        self._eef_site = robot.eef_site_id[arm]
        self._finger_qpos = list(robot._ref_gripper_joint_pos_indexes[arm])
        self._objects = {name: getattr(self._env, f"{body}_body_id") for name, body in task.objects.items()}
        self._gripper, self._proprioception = task.gripper_index, task.proprioception
        self._renderer = OffscreenRenderer(self._model, task.camera)
        self._action_noise: tuple[np.random.Generator, float] | None = None
        self._values_before = self.proprioceptive_values()

    def __getstate__(self) -> dict[str, Any]:
        """The task, and a snapshot."""
        return {"task": self._task, "snapshot": self.snapshot()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """A new simulation in the state of :meth:`__getstate__`."""
        self.__init__(saved["task"])  # type: ignore[misc]
        self.restore(saved["snapshot"])

    def snapshot(self) -> dict[str, Any]:
        """Everything that the next control step depends on; it can be pickled."""
        physics = np.empty(self._mujoco.mj_stateSize(self._model, self._whole_state()))
        self._mujoco.mj_getState(self._model, self._data, physics, self._whole_state())
        return {
            "physics": physics,
            "values_before": self._values_before,
            "controllers": [_numbers_of(controller) for controller in self._controllers()],
            "times": (self._env.cur_time, self._env.timestep),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to a snapshot of a simulation of this task, bit for bit."""
        self._env.cur_time, self._env.timestep = saved["times"]
        for controller, numbers in zip(self._controllers(), saved["controllers"], strict=True):
            vars(controller).update(numbers)
        self._mujoco.mj_setState(self._model, self._data, saved["physics"], self._whole_state())
        self._mujoco.mj_forward(self._model, self._data)
        self._mujoco.mj_setState(self._model, self._data, saved["physics"], self._whole_state())  # with its warm start
        self._values_before = saved["values_before"].copy()

    def set_state(self, state: np.ndarray) -> None:
        """Put the simulation into a flat state ``(D,)`` as :meth:`state` gives it: time, positions, velocities.

        What controllers remember stays as it is: this is for pictures of states, not for going on from them.
        """
        positions = 1 + self._model.nq
        self._data.time = state[0]
        self._data.qpos[:], self._data.qvel[:] = state[1:positions], state[positions:]
        self._mujoco.mj_forward(self._model, self._data)
        self._values_before = self.proprioceptive_values()

    def _controllers(self) -> list[Any]:
        """What remembers something from one control step to the next: goals, and how far the gripper is."""
        robot = self._env.robots[0]
        return [robot.gripper[robot.arms[0]], *robot.composite_controller.part_controllers.values()]

    def _whole_state(self) -> int:
        return self._mujoco.mjtState.mjSTATE_INTEGRATION.value

    def reset(self, rng: np.random.Generator, placement: Placement) -> None:
        """A new initial state from ``rng``."""
        self._env.rng = rng  # the robot's initial joint noise
        self._placer.rng = rng
        self._placer.placement = placement
        self._env.reset()
        self._values_before = self.proprioceptive_values()

    def advance(self, control: np.ndarray) -> None:
        """One control step: (A,) float64 within [-1, 1]."""
        self._values_before = self.proprioceptive_values()
        if self._action_noise is not None:
            noise, deviation = self._action_noise
            control = np.clip(control + noise.normal(0.0, deviation, control.shape), -1.0, 1.0)
        motion = np.delete(control, self._gripper)
        full = np.zeros(self._env.action_dim)
        full[: len(motion)] = motion
        full[-1] = control[self._gripper]  # robosuite's gripper comes last
        self._env.step(full)
        # MuJoCo leaves body positions one substep behind the joints; this touches nothing else.
        self._mujoco.mj_kinematics(self._model, self._data)

    @contextmanager
    def hidden(self, causes: DrawnCauses) -> Iterator[None]:
        """Within it, hidden causes act on the simulation; they begin with the present state."""
        with applied(causes, self._model, self._data, list(self._objects.values())):
            self._action_noise = np.random.default_rng(causes.noise_seed), causes.action_noise
            try:
                yield
            finally:
                self._action_noise = None

    def frame(self) -> np.ndarray:
        """The picture of the present state: (size, size, 3) uint8, origin at the top left."""
        return self._renderer.render(self._data)

    def is_success(self) -> bool:
        """Whether the task is achieved in the present state, by robosuite's criterion."""
        return bool(self._env._check_success())

    def proprioceptive_values(self) -> np.ndarray:
        """What the robot measures of itself, by the names of the task's ``proprioception``: (P,) float32, metres.

        ``hand_x``, ``hand_y``, ``hand_z``: position of the hand, world frame; ``gripper_opening``: distance between the
        fingers.
        """
        left, right = self._data.qpos[self._finger_qpos]
        hand_x, hand_y, hand_z = self._data.site_xpos[self._eef_site]
        values = {"hand_x": hand_x, "hand_y": hand_y, "hand_z": hand_z, "gripper_opening": left - right}
        return np.array([values[name] for name in self._proprioception], np.float32)

    def proprioception(self) -> np.ndarray:
        """:meth:`proprioceptive_values` and their change since the control step before, (R,) float32, metres."""
        values = self.proprioceptive_values()
        return np.concatenate([values, values - self._values_before])

    def state(self) -> dict[str, np.ndarray]:
        """The state behind the picture, see :meth:`rla_gym.ground_truth.env.RobosuiteEnv.simulator_state`."""
        data = self._data
        left, right = data.qpos[self._finger_qpos]
        return {
            **{f"{name}_position": data.xpos[body].copy() for name, body in self._objects.items()},
            "eef_position": data.site_xpos[self._eef_site].copy(),
            "gripper_opening": np.array([left - right]),
            "state": np.concatenate([[data.time], data.qpos, data.qvel]),
        }

    def close(self) -> None:
        """Frees the renderer and the simulation."""
        self._renderer.close()
        self._env.close()


def _numbers_of(controller: Any) -> dict[str, Any]:
    """Copies of a controller's attributes that are numbers or arrays of them: not its links to the simulation."""
    numbers = (np.ndarray, np.generic, int, float, type(None))
    return {name: copy.copy(value) for name, value in vars(controller).items() if isinstance(value, numbers)}


def quiet_robosuite() -> None:
    """Silence what robosuite logs at import: hints for its developers, and every optional package that is missing."""
    logging.getLogger("robosuite_logs").addFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _make_robosuite(task: TaskSpec) -> tuple[Any, Any]:
    """The robosuite environment of a task and the sampler that places its objects."""
    prepare_gl()
    quiet_robosuite()
    try:
        robosuite = importlib.import_module("robosuite")
        controllers = importlib.import_module("robosuite.controllers")
        samplers = importlib.import_module("robosuite.utils.placement_samplers")
    except ImportError as error:
        raise ImportError(f'the ground truth needs robosuite ({error}): pip install "rla-gym[robosuite]"') from error
    controller = controllers.load_composite_controller_config(robot=task.robot)
    controller["body_parts"]["right"]["type"] = task.controller
    placer = _placer_class(samplers.UniformRandomSampler)(
        name="ObjectSampler",
        rotation=None,
        ensure_object_boundary_in_range=False,
        ensure_valid_placement=True,
        reference_pos=np.array((0.0, 0.0, task.table_height)),
        z_offset=0.01,
        rng=np.random.default_rng(_MODEL_SEED),
    )
    placer.placement = next(iter(task.placements.values()))  # replaced at every reset
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


def _placer_class(sampler: type) -> type:
    """robosuite's sampler with one square per object; a class made here, where robosuite has been imported."""

    class Placer(sampler):
        placement: Placement
        mujoco_objects: list[Any]

        def sample(self, fixtures: Any = None, reference: Any = None, on_top: bool = True) -> Any:
            placed = dict(fixtures or {})
            objects = self.mujoco_objects
            for placeable, (x, y) in zip(objects, self.placement.centres, strict=True):
                half = self.placement.half_width
                self.x_range, self.y_range = (x - half, x + half), (y - half, y + half)
                self.mujoco_objects = [placeable]
                placed = super().sample(placed, reference, on_top)
            self.mujoco_objects = objects
            return placed

    return Placer
