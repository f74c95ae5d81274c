"""Demonstrations that hold the simulator's states instead of pictures, as robosuite and robomimic record them.

Each state is set in this project's own model of the task, and drawn by its own camera. Nothing of the file's model is
loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from rla_gym.data.array_tree import opened
from rla_gym.data.readers.arrays import ArrayEpisodes
from rla_gym.data.source import Problem, SourceEpisode, SourceFacts
from rla_gym.tasks import TASKS, TaskSpec

CAMERA = "agentview"
_STATES = "states"


class SimulatorStates(ArrayEpisodes):
    """An HDF5 file of demonstrations with ``states`` and ``actions``, recorded in a robosuite environment.

    Args:
        path: of the file.
    """

    format = "robosuite demonstrations"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it is an HDF5 file of states under the name of an environment, and without pictures."""
        if not path.is_file() or not super().recognises(path):
            return False
        try:
            source = cls(path)
            with opened(source.places[0]) as arrays:
                return _STATES in arrays and bool(source.environment_name) and not ArrayEpisodes(path).facts().cameras
        except (ValueError, ImportError):
            return False

    @property
    def environment_name(self) -> str:
        """What robosuite calls the environment; "" where the file does not say."""
        return str(self.environment.get("env_name") or self.attributes.get("env") or "")

    @cached_property
    def task(self) -> TaskSpec | None:
        """The task of this project that has the same environment."""
        name = self.environment_name
        return next((task for task in TASKS.values() if task.robosuite_name == name), None)

    @property
    def fps(self) -> float | None:
        """Control steps a second."""
        return super().fps or (None if self.task is None else float(self.task.control_hz))

    def facts(self) -> SourceFacts:
        """What the file says, and what the simulator will draw."""
        facts = super().facts()
        names = () if self.task is None else self.task.proprioception
        details = {"environment": self.environment_name}
        return SourceFacts(facts.episodes, self.fps, (CAMERA,), facts.action_names, names, details)

    def problems(self) -> list[Problem]:
        """Whether the environment and its states are those of a task that can be drawn here."""
        if self.task is None:
            known = ", ".join(task.robosuite_name for task in TASKS.values())
            what = f"the states are those of {self.environment_name!r}, and {known} can be drawn here"
            return [Problem(what, "render pictures by robosuite or robomimic (`dataset_states_to_obs.py`) first")]
        found = []
        for place in self.places:
            with opened(place) as arrays:
                size = arrays[_STATES].shape[-1]
            if size != self.task.state_dim:
                what = f"{place.name} has states of {size} numbers, {self.task.name} has {self.task.state_dim} here"
                found.append(Problem(what, "render pictures by the robosuite that recorded it first"))
        return found

    def episode(self, index: int) -> SourceEpisode:
        """Episode ``index``; see :class:`rla_gym.data.source.Source`.

        Raises:
            ImportError: robosuite is not installed.
        """
        place = self.places[index]
        with opened(place) as arrays:
            actions, states = np.asarray(arrays["actions"][()], np.float64), np.asarray(arrays[_STATES][()], np.float64)
        length = min(len(actions), len(states))
        env = self._simulator
        state = []
        for row in states[:length]:
            env.set_simulator_state(row)
            state.append(env.proprioception()[: len(env.task.proprioception)])
        frames = {CAMERA: partial(self._drawn, states[:length])}
        task = "" if self.task is None else self.task.instruction
        return SourceEpisode(place.name, frames, actions[:length], np.stack(state), env.is_success(), task)

    @cached_property
    def _simulator(self) -> Any:
        from rla_gym.ground_truth.env import RobosuiteEnv

        assert self.task is not None
        env = RobosuiteEnv(self.task.name, obs="rgb")
        env.reset(seed=0)
        return env

    def _drawn(self, states: np.ndarray) -> Iterator[np.ndarray]:
        for row in states:
            self._simulator.set_simulator_state(row)
            yield self._simulator.render_frame()
