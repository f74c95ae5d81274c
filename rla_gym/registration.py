"""Gymnasium ids: for every task, the dream and its ground truth."""

from __future__ import annotations

import gymnasium as gym

from rla_gym.tasks import TASKS, dream_id, simulator_id


def register_environments() -> None:
    """Registers ``RLAWM-<Task>-v0`` and ``Robosuite-<Task>-v0``; a second call changes nothing."""
    for task in TASKS:
        for identity, environment, vector_environment in (
            (dream_id(task), "rla_gym.env:RLAWMEnv", "rla_gym.vector_env:RLAWMVectorEnv"),
            (
                simulator_id(task),
                "rla_gym.ground_truth.env:RobosuiteEnv",
                "rla_gym.ground_truth.vector:RobosuiteVectorEnv",
            ),
        ):
            if identity not in gym.registry:
                gym.register(
                    identity, entry_point=environment, vector_entry_point=vector_environment, kwargs={"task": task}
                )
