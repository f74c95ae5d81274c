"""Gymnasium ids: for every task, the dream and its ground truth, each with a flat variant; and one for any world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from rla_gym.tasks import TASKS, TaskSpec, dream_id, simulator_id

DREAM = "rla_gym.env:RLAWMEnv", "rla_gym.vector_env:RLAWMVectorEnv"
SIMULATOR = "rla_gym.ground_truth.env:RobosuiteEnv", "rla_gym.ground_truth.vector:RobosuiteVectorEnv"
FLAT: Mapping[str, Any] = {"obs": "pooled", "chunk_length": 4}
"""Arguments of the flat ids, for scripts that take an id and expect flat Boxes to observe and to act in."""


def register_environments() -> None:
    """Registers ``RLAWM-<Task>-v0`` and ``Robosuite-<Task>-v0``, of both ``-Flat-v0``, and ``RLAWM-v0``.

    A second call changes nothing.
    """
    for name, task in TASKS.items():
        for identity, entry_points in ((dream_id(name), DREAM), (simulator_id(name), SIMULATOR)):
            _register(identity, entry_points, task.max_chunks, {"task": name})
            _register(flat_id(identity), entry_points, flat_steps(task), {"task": name, **FLAT})
    _register(dream_id(None), DREAM, None, {"task": None})  # as long as the world's task takes


def flat_id(identity: str) -> str:
    """The flat variant of a task's id."""
    return identity.replace("-v0", "-Flat-v0")


def flat_steps(task: TaskSpec) -> int:
    """Env steps of an episode of a task's flat ids: as many control steps as the others have, in shorter chunks."""
    return task.max_chunks * task.chunk_length // FLAT["chunk_length"]


def _register(identity: str, entry_points: tuple[str, str], steps: int | None, arguments: Mapping[str, Any]) -> None:
    if identity not in gym.registry:
        gym.register(
            identity,
            entry_points[0],
            vector_entry_point=entry_points[1],
            max_episode_steps=steps,
            kwargs=dict(arguments),
        )
