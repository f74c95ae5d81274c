"""Whether a world is one of a task, as this version of the environment defines the task."""

from __future__ import annotations

from rla_gym.tasks import TaskSpec, dream_id
from world_models.config import WorldConfig


def check_world_fits(task: TaskSpec, config: WorldConfig, world: object) -> None:
    """Check that a world was trained on a task as this version of the environment defines it.

    Args:
        task: the environment's.
        config: the world's.
        world: how the user named the world.

    Raises:
        ValueError: the world is of another task, or of one with other actions or another control rate.
    """
    if config.task != task.name:
        raise ValueError(
            f"world {world!r} shows task {config.task!r}, not {task.name!r}: choose a world of {task.name!r}, "
            f"or make {dream_id(None)!r} with this one"
        )
    for what, trained, defined in (
        ("actions", tuple(config.action_names), task.action_names),
        ("control steps per second", config.fps, task.control_hz),
    ):
        if trained != defined:
            raise ValueError(
                f"world {world!r} was trained on a {task.name} with {what} {trained}, this version of the environment "
                f"has {defined}: train the world anew, or install the rla-gym that it was trained with"
            )
