"""Which kinds of episode a task has, and the scripted controller of each: data about tasks, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from rla_gym.ground_truth.experts import LIFTING, Behaviour, Grasper
from rla_gym.ground_truth.stacking import STACKING
from rla_gym.tasks import DEFAULT_TASK, get_task

BEHAVIOURS: Mapping[str, Mapping[str, Callable[[np.random.Generator], Behaviour]]] = MappingProxyType(
    {"Lift": LIFTING, "Stack": STACKING}
)
"""Task -> kind of episode -> what makes its controller."""
KINDS = ("expert", "noisy", "near_miss", "play", "policy", "grasp", "hasty_grasp", "place")
"""Every kind of episode that collection records; ``policy`` is a rollout of a policy, in any task."""


def make_behaviour(
    kind: str, rng: np.random.Generator, task: str = DEFAULT_TASK, *, guessing: bool = False
) -> Behaviour:
    """A controller for one episode of a kind.

    Args:
        kind: a scripted kind of the task.
        rng: source of all chance; the controller keeps it.
        task: name of the task.
        guessing: it guesses whether a cube is held or stands instead of reading it, see
            :meth:`rla_gym.ground_truth.experts.Grasper.guess`; without effect on controllers that never read it.

    Raises:
        ValueError: there is no such task, or it has no such kind.
    """
    behaviours = BEHAVIOURS[get_task(task).name]
    if kind not in behaviours:
        raise ValueError(f"no kind {kind!r} of {task} episodes: scripted are {', '.join(map(repr, behaviours))}")
    behaviour = behaviours[kind](rng)
    if guessing and isinstance(behaviour, Grasper):
        behaviour.guess()
    return behaviour
