"""What a task is, in one place: robot, controller, camera, action names, where objects are placed.

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
        action_names: one name per action dimension (A of them), each within [-1, 1]. Dimensions that the
            controller has and that are not named here (rotation) are held at zero.
        camera: the one camera of collection, twin and world.
        placements: by name.
        objects: what lies about, the manipulated one first: what it is called in recordings -> robosuite's name.
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
    camera: CameraSpec
    placements: Mapping[str, Placement]
    objects: Mapping[str, str]
    chunk_length: int = 8
    max_chunks: int = 6
    instruction: str = ""
    state_dim: int = 0

    @property
    def action_dim(self) -> int:
        """A, the number of action dimensions of one control step."""
        return len(self.action_names)

    def placement(self, name: str) -> Placement:
        """A placement by its name.

        Raises:
            ValueError: if the task has no such placement; the message lists those it has.
        """
        if name not in self.placements:
            known = ", ".join(repr(known) for known in self.placements)
            raise ValueError(f"unknown placement {name!r} for task {self.name!r}: choose one of {known}")
        return self.placements[name]


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
            placements=MappingProxyType({"standard": Placement(0.03), "wide": Placement(0.10)}),
            objects=MappingProxyType({"cube": "cube"}),
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
            camera=CameraSpec(position=(0.50, 0.0, 1.15), target=(-0.05, 0.0, 0.93), fovy=33.0, size=128),
            placements=MappingProxyType(
                {
                    "standard": Placement(0.03, ((0.0, -0.07), (0.0, 0.07))),
                    # robosuite's own
                    "wide": Placement(0.08, ((0.0, 0.0), (0.0, 0.0))),
                }
            ),
            objects=MappingProxyType({"cube": "cubeA", "base": "cubeB"}),
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
    if name not in TASKS:
        known = ", ".join(repr(known) for known in TASKS)
        raise ValueError(f"unknown task {name!r}: choose one of {known}")
    return TASKS[name]


def dream_id(task: str | None) -> str:
    """Gymnasium's id of a task's dream; of one that is not in :data:`TASKS`, the id that dreams any world."""
    return f"RLAWM-{task}-v0" if task in TASKS else "RLAWM-v0"


def simulator_id(task: str) -> str:
    """Gymnasium's id of a task's ground truth."""
    return f"Robosuite-{task}-v0"


def bundled_world(task: str | None) -> str:
    """The name that a task's world has among the bundled ones; of no task's in particular, Lift's."""
    return (task or "Lift").lower()


def episode_chunks(task: str) -> int:
    """Environment steps in an episode of a task, also of one that is not in :data:`TASKS`."""
    return TASKS[task].max_chunks if task in TASKS else TaskSpec.max_chunks


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
            f"or dream this one as {dream_id(None)!r}"
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
