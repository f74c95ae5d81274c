"""Gymnasium ids: for every task, the dream and its ground truth; and one for any world."""

from __future__ import annotations

import gymnasium as gym

from rla_gym.tasks import TASKS, dream_id, simulator_id


def register_environments() -> None:
    """Registers ``RLAWM-<Task>-v0``, ``Robosuite-<Task>-v0`` and ``RLAWM-v0``; a second call changes nothing."""
    for task in (*TASKS, None):
        _register(dream_id(task), task, "rla_gym.env:RLAWMEnv", "rla_gym.vector_env:RLAWMVectorEnv")
    for task in TASKS:
        _register(
            simulator_id(task), task, "rla_gym.ground_truth.env:RobosuiteEnv",
            "rla_gym.ground_truth.vector:RobosuiteVectorEnv",
        )  # fmt: skip


def _register(identity: str, task: str | None, environment: str, vector_environment: str) -> None:
    if identity not in gym.registry:
        gym.register(identity, entry_point=environment, vector_entry_point=vector_environment, kwargs={"task": task})
