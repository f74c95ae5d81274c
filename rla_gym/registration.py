"""Gymnasium ids: for every task, the dream and its ground truth."""

from __future__ import annotations

import gymnasium as gym

from rla_gym.tasks import TASKS


def register_environments() -> None:
    """Registers ``RLAWM-<Task>-v0`` and ``Robosuite-<Task>-v0``; a second call changes nothing."""
    for task in TASKS:
        for name, environment, vector_environment in (
            ("RLAWM", "rla_gym.env:RLAWMEnv", "rla_gym.vector_env:RLAWMVectorEnv"),
            ("Robosuite", "rla_gym.ground_truth.env:RobosuiteEnv", "rla_gym.ground_truth.vector:RobosuiteVectorEnv"),
        ):
            identity = f"{name}-{task}-v0"
            if identity not in gym.registry:
                gym.register(
                    identity, entry_point=environment, vector_entry_point=vector_environment, kwargs={"task": task}
                )
