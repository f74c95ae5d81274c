"""What a task is, in one place: robot, controller, camera, names of actions and proprioception, placements of objects.

Collection, the ground-truth twin and the dream read the same :class:`TaskSpec`, so that a world gets the pictures and
actions that it was trained on. This file imports nothing of the project, and nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

DEFAULT_TASK = "Lift"
"""The task of environments and collections that name none."""


@dataclass(frozen=True)
class CameraSpec:
    """A fixed pinhole camera.

    Attributes:
        position: where it stands, world frame, metres.
        target: the point it looks at, world frame, metres; the image's up direction is the world's z.
        fovy: vertical field of view, degrees.
        size: width and height of the square image, pixels.
    """

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    fovy: float
    size: int


@dataclass(frozen=True)
class Placement:
    """Where a task's objects are at the start of an episode, none of them touching another.

    Attributes:
        half_width: of the square that each is placed in, metres.
        centres: (x, y) of each object's square, metres from the middle of the table, in the order of the objects.
    """

    half_width: float
    centres: tuple[tuple[float, float], ...] = ((0.0, 0.0),)


@dataclass(frozen=True)
class TaskSpec:
    """One manipulation task.

    Attributes:
        name: the name that users type, such as ``"Lift"``.
        robosuite_name: the robosuite environment that is its ground truth.
        robot: robosuite's robot name.
        controller: robosuite's arm controller.
        control_hz: control steps per second.
        action_names: one name per action dimension (A of them), each within [-1, 1]. The gripper's goes to the robot's
            gripper, the others go to the controller's first dimensions in this order; its further ones (rotation) stay
            zero.
        gripper: name of the action dimension that opens (-1) and closes (+1) the gripper.
        proprioception: one name per proprioceptive value (P of them), among those that
            :meth:`rla_gym.ground_truth.simulator.Simulator.proprioceptive_values` lists.
        camera: the one camera of collection, twin and world.
        table_height: of the table's surface, metres, world frame.
        placements: by name.
        objects: the objects on the table, the manipulated one first: their name in recordings -> robosuite's name.
        episode_length: control steps of a recorded episode; long enough for a scripted expert.
        card_metrics: names of metrics of the fidelity benchmark that a world's model card shows: those of every horizon
            first, then rates after the last chunk.
        chunk_length: control steps in one environment step (K).
        max_chunks: environment steps in one episode.
        instruction: the task in words, as datasets store it.
        state_dim: length of the simulator's flat state: time, joint positions, joint velocities.
    """

    name: str
    robosuite_name: str
    robot: str
    controller: str
    control_hz: int
    action_names: tuple[str, ...]
    gripper: str
    proprioception: tuple[str, ...]
    camera: CameraSpec
    table_height: float
    placements: Mapping[str, Placement]
    objects: Mapping[str, str]
    episode_length: int
    card_metrics: tuple[str, ...] = ()
    chunk_length: int = 8
    max_chunks: int = 6
    instruction: str = ""
    state_dim: int = 0

    def __getstate__(self) -> dict[str, Any]:
        """Fields in types that can be pickled and copied: the mappings as dicts."""
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}

    def __setstate__(self, fields: dict[str, Any]) -> None:
        """Fields as :meth:`__getstate__` gave them, read-only again."""
        for name, value in fields.items():
            object.__setattr__(self, name, MappingProxyType(value) if isinstance(value, dict) else value)

    @property
    def action_dim(self) -> int:
        """A, the number of action dimensions of one control step."""
        return len(self.action_names)

    @property
    def gripper_index(self) -> int:
        """The action dimension that opens and closes the gripper, from 0 to A - 1."""
        return self.action_names.index(self.gripper)

    @property
    def proprioception_dim(self) -> int:
        """R = 2 P: the proprioceptive values and the change of each since the control step before."""
        return 2 * len(self.proprioception)

    def placement(self, name: str) -> Placement:
        """A placement by its name.

        Raises:
            ValueError: if the task has no such placement; the message lists those it has.
        """
        if not isinstance(name, str) or name not in self.placements:
            choices = ", ".join(map(repr, self.placements))
            raise ValueError(f"unknown placement {name!r:.80} for task {self.name!r}: choose one of {choices}")
        return self.placements[name]


_CUBE_METRICS = (
    "token_l1_vs_persistence", "cube_error_cm", "eef_error_cm", "gripper_error_cm", "false_lift_rate",
    "missed_lift_rate",
)  # fmt: skip
"""Card metrics of tasks that begin with lifting a cube."""

TASKS: Mapping[str, TaskSpec] = MappingProxyType(
    {
        "Lift": TaskSpec(
            name="Lift",
            robosuite_name="Lift",
            robot="Panda",
            controller="OSC_POSE",
            control_hz=20,
            action_names=("x", "y", "z", "gripper"),
            gripper="gripper",
            proprioception=("hand_x", "hand_y", "hand_z", "gripper_opening"),
            camera=CameraSpec(position=(0.45, 0.22, 1.10), target=(-0.05, 0.0, 0.90), fovy=33.0, size=128),
            table_height=0.8,
            placements=MappingProxyType({"standard": Placement(0.03), "wide": Placement(0.10)}),
            objects=MappingProxyType({"cube": "cube"}),
            episode_length=56,
            card_metrics=_CUBE_METRICS,
            instruction="lift the red cube off the table",
            state_dim=32,
        ),
        "Stack": TaskSpec(
            name="Stack",
            robosuite_name="Stack",
            robot="Panda",
            controller="OSC_POSE",
            control_hz=20,
            action_names=("x", "y", "z", "gripper"),
            gripper="gripper",
            proprioception=("hand_x", "hand_y", "hand_z", "gripper_opening"),
            camera=CameraSpec(position=(0.50, 0.0, 1.15), target=(-0.05, 0.0, 0.93), fovy=33.0, size=128),
            table_height=0.8,
            placements=MappingProxyType(
                {
                    "standard": Placement(0.03, ((0.0, -0.07), (0.0, 0.07))),
                    # robosuite's default
                    "wide": Placement(0.08, ((0.0, 0.0), (0.0, 0.0))),
                }
            ),
            objects=MappingProxyType({"cube": "cubeA", "base": "cubeB"}),
            episode_length=80,
            card_metrics=_CUBE_METRICS,
            max_chunks=9,
            instruction="stack the red cube on the green one",
            state_dim=45,
        ),
    }
)


def get_task(name: str) -> TaskSpec:
    """The specification of a task.

    Raises:
        ValueError: if there is no such task; the message lists the known ones.
    """
    if not isinstance(name, str) or name not in TASKS:
        choices = ", ".join(map(repr, TASKS))
        raise ValueError(f"unknown task {name!r:.80}: choose one of {choices}")
    return TASKS[name]


def dream_id(task: str | None) -> str:
    """Gymnasium's id of a task's dream; of one that is not in :data:`TASKS`, the id for any world."""
    return f"RLAWM-{task}-v0" if task in TASKS else "RLAWM-v0"


def simulator_id(task: str) -> str:
    """Gymnasium's id of a task's ground truth."""
    return f"Robosuite-{task}-v0"


def bundled_world(task: str | None) -> str:
    """The name that a task's world has among the bundled ones; for None, that of :data:`DEFAULT_TASK`."""
    return (task or DEFAULT_TASK).lower()


def episode_chunks(task: str, of_world: int | None = None) -> int:
    """Environment steps in an episode of a task.

    Args:
        task: its name.
        of_world: what a world's own data say, for a task that is not in :data:`TASKS`.
    """
    return TASKS[task].max_chunks if task in TASKS else of_world or TaskSpec.max_chunks
