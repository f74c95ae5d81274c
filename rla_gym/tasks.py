"""What a task is, in one place: robot, controller, camera, action names, cube placement.

Collection, the ground-truth twin and the worlds all read the same :class:`TaskSpec`, so that a world is
asked about exactly the pictures and actions it was trained on. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from world_models.world_model import WorldConfig


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
class TaskSpec:
    """One manipulation task.

    Attributes:
        name: the name that users type, such as ``"Lift"``.
        robosuite_name: the robosuite environment that is its ground truth.
        robot: robosuite's robot name.
        controller: robosuite's arm controller.
        control_hz: control steps per second.
        action_names: one name per action dimension (A of them), each within [-1, 1]. Dimensions that the
            controller has and that are not named here (rotation) are held at zero.
        camera: the one camera of collection, twin and world.
        placements: name of a placement -> half-width in metres of the square the object is placed in.
        chunk_length: control steps in one environment step (K).
        max_chunks: environment steps in one episode.
        instruction: the task in words, as datasets store it.
        object_name: what is manipulated.
        state_dim: length of the simulator's flat state: time, joint positions, joint velocities.
    """

    name: str
    robosuite_name: str
    robot: str
    controller: str
    control_hz: int
    action_names: tuple[str, ...]
    camera: CameraSpec
    placements: Mapping[str, float]
    chunk_length: int = 8
    max_chunks: int = 6
    instruction: str = ""
    object_name: str = ""
    state_dim: int = 0

    @property
    def action_dim(self) -> int:
        """A, the number of action dimensions of one control step."""
        return len(self.action_names)

    def placement_half_width(self, placement: str) -> float:
        """Half-width in metres of a named placement.

        Raises:
            ValueError: if the task has no such placement; the message lists those it has.
        """
        if placement not in self.placements:
            known = ", ".join(repr(name) for name in self.placements)
            raise ValueError(f"unknown placement {placement!r} for task {self.name!r}: choose one of {known}")
        return self.placements[placement]


TASKS: Mapping[str, TaskSpec] = MappingProxyType(
    {
        "Lift": TaskSpec(
            name="Lift",
            robosuite_name="Lift",
            robot="Panda",
            controller="OSC_POSE",
            control_hz=20,
            action_names=("x", "y", "z", "gripper"),
            camera=CameraSpec(position=(0.45, 0.22, 1.10), target=(-0.05, 0.0, 0.90), fovy=33.0, size=128),
            placements=MappingProxyType({"standard": 0.03, "wide": 0.10}),
            instruction="lift the red cube off the table",
            object_name="cube",
            state_dim=32,
        ),
    }
)


def get_task(name: str) -> TaskSpec:
    """The specification of a task.

    Raises:
        ValueError: if there is no such task; the message lists the known ones.
    """
    if name not in TASKS:
        known = ", ".join(repr(known) for known in TASKS)
        raise ValueError(f"unknown task {name!r}: choose one of {known}")
    return TASKS[name]


def check_world_fits(task: TaskSpec, config: WorldConfig, world: object) -> None:
    """Whether a world shows a task as this version of the environment defines it.

    Args:
        task: the environment's.
        config: the world's.
        world: what the user calls the world.

    Raises:
        ValueError: the world is of another task, or of one with other actions or another control rate.
    """
    if config.task != task.name:
        raise ValueError(
            f"world {world!r} shows task {config.task!r}, not {task.name!r}: choose a world of {task.name!r}, "
            "or pass task=None to dream this one"
        )
    for what, found, wanted in (
        ("actions", tuple(config.action_names), task.action_names),
        ("control steps per second", config.fps, task.control_hz),
    ):
        if found != wanted:
            raise ValueError(
                f"world {world!r} was trained on a {task.name} with {what} {found}, this version of the environment "
                f"has {wanted}: train the world anew, or install the rla-gym that it was trained with"
            )
