"""Recorded states of a task, shown in the simulator of this project: its pictures, proprioception and success."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rla_gym.tasks import get_task

if TYPE_CHECKING:
    from rla_gym.ground_truth.simulator import Simulator

NEEDS = 'pip install "rla-gym[robosuite]"'
"""What installs the simulator."""


@dataclass(frozen=True)
class Replayed:
    """What the simulator says of T states.

    Attributes:
        proprioception: ``(T, P)`` float64, metres, by the names of the task's ``proprioception``.
        success: whether the last state achieves the task.
    """

    proprioception: np.ndarray
    success: bool


def is_installed() -> bool:
    """Whether there is a simulator to replay in; it is not imported."""
    return importlib.util.find_spec("robosuite") is not None


def replay(task: str, states: np.ndarray) -> Replayed:
    """Show states one after the other, without pictures.

    Args:
        task: name of the task.
        states: ``(T, S)`` float64: time, joint positions, joint velocities.

    Raises:
        ValueError: the task's model has states of another size.
        ImportError: there is no simulator.
    """
    simulator = _simulator(task)
    values = np.empty((len(states), len(get_task(task).proprioception)))
    for row, state in enumerate(states):
        simulator.set_state(state)
        values[row] = simulator.proprioceptive_values()
    return Replayed(values, bool(len(states)) and simulator.is_success())


def pictures(task: str, states: np.ndarray) -> Iterator[np.ndarray]:
    """The task's camera's picture of each state, ``(size, size, 3)`` uint8 RGB; else as :func:`replay`."""
    simulator = _simulator(task)
    for state in states:
        simulator.set_state(state)
        yield simulator.frame()


@functools.cache
def _simulator(task: str) -> Simulator:
    """One of each task in a process: making it takes seconds."""
    from rla_gym.ground_truth.simulator import Simulator

    return Simulator(get_task(task))
