"""robosuite's raw demonstrations, ``demo.hdf5``: the simulator's states and actions, without pictures.

The states are shown in this project's own model of the task. The model that the file holds as XML is never read: XML
names files to load, and states need none of it. Objects may differ by its random size, millimetres.
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from rla_gym.data.problem_list import ProblemList
from rla_gym.data.readers import hdf5, simulator_replay
from rla_gym.data.readers.episode_shapes import EpisodeShape, check_shapes
from rla_gym.data.source import Problem, Source, SourceEpisode, SourceFacts
from rla_gym.tasks import TASKS, TaskSpec
from world_models.files import parse_json

CAMERA = "front"
"""The task's camera, by the name that collections give it."""
_DATA = "data"
_POSE_ACTIONS = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper")
"""What the seven numbers for robosuite's controller of poses, OSC_POSE, and a gripper are."""


class RobosuiteDemonstrations(Source):
    """Demonstrations of a task that the simulator here knows; actions stay as they were recorded.

    Args:
        path: of the file.

    Raises:
        ValueError: it is damaged.
    """

    format = "robosuite demonstrations"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with hdf5.opened(path) as file:
            data = hdf5.member(file, _DATA)
            self._env, self._version = hdf5.text(data, "env"), hdf5.text(data, "repository_version")
            self._names = hdf5.subgroups(data)
            words = hdf5.text(data, "env_info")
        self._info: dict[str, Any] = parse_json(words, source=f"env_info of {path}", fix=hdf5.FIX) if words else {}

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it is an HDF5 file whose ``data`` names an ``env``, and whose episodes have states and actions."""
        if not hdf5.has_signature(path):
            return False
        try:
            with hdf5.opened(path) as file:
                data = hdf5.member(file, _DATA)
                if data is None or not hasattr(data, "keys") or not hdf5.text(data, "env"):
                    return False
                names = hdf5.subgroups(data)
                return bool(names) and {"states", "actions"} <= set(hdf5.datasets(hdf5.member(data, names[0]), 1))
        except (OSError, ValueError):
            return False

    @property
    def _task(self) -> TaskSpec | None:
        return next((task for task in TASKS.values() if task.robosuite_name == self._env), None)

    def facts(self) -> SourceFacts:
        """What the file says; camera, rate and proprioception are those of the task here, where it knows the task."""
        task, shapes = self._task, self._shapes
        robots = self._info.get("robots")
        details = {
            "environment": self._env,
            "robot": " ".join(map(str, robots)) if isinstance(robots, list) else robots,
            "robosuite": self._version,
            "task": task.instruction if task else "",
        }
        rate = self._info.get("control_freq")
        known = isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0
        usual = float(task.control_hz) if task else None
        width = shapes[0].actions[1] if shapes and shapes[0].actions else 0
        return SourceFacts(
            len(self._names), float(rate) if known and rate is not None else usual, (CAMERA,) if task else (),
            self._action_names(width), task.proprioception if task else (),
            {name: value for name, value in details.items() if isinstance(value, str) and value},
        )  # fmt: skip

    def problems(self) -> list[Problem]:
        """What keeps the states from being shown: another task or robot, or no simulator."""
        found = ProblemList()
        task = self._task
        if task is None:
            known = ", ".join(task.robosuite_name for task in TASKS.values())
            found.add(
                f"{self.path} has demonstrations of {self._env!r}, and the simulator here knows {known}",
                "render its pictures into a robomimic file by robomimic's dataset_states_to_obs.py",
            )
        elif not simulator_replay.is_installed():
            found.add(
                f"{self.path} holds states instead of pictures, and there is no simulator to show them in",
                simulator_replay.NEEDS,
            )
        for index, shape in enumerate(self._shapes):
            if task is not None and shape.state is not None and shape.state[1] != task.state_dim:
                found.add_episode(
                    index, f"states have {shape.state[1]} numbers, the model of {task.name} has {task.state_dim},",
                    f"record with robosuite's {task.robot}: other robots and grippers have other joints",
                    first=shape.name,
                )  # fmt: skip
            if shape.state is not None and shape.actions is not None and shape.state[0] != shape.actions[0]:
                found.add_episode(
                    index, "states and actions are not as many,", "record them again, or leave the episodes out",
                    first=f"{shape.name} has {shape.state[0]} states, {shape.actions[0]} actions",
                )  # fmt: skip
        check_shapes(self._shapes, found)
        return found.problems()

    def episode(self, index: int) -> SourceEpisode:
        """Demonstration ``index``, in the order of the numbers in their names; its states are shown once for success.

        Raises:
            IndexError: there is no such episode.
            ValueError: its numbers are missing or damaged, or do not fit the model.
            ImportError: there is no simulator.
        """
        name, task = self._names[index], self._task
        with hdf5.opened(self.path) as file:
            group = hdf5.member(file, f"{_DATA}/{name}")
            actions, states = hdf5.table(group, "actions"), hdf5.table(group, "states")
        if task is None:
            return SourceEpisode(name, {}, actions)
        if not np.isfinite(states).all():
            raise ValueError(f"{self.path}: states of {name} have NaN or infinity; leave the episode out")
        replayed = simulator_replay.replay(task.name, states)
        return SourceEpisode(
            name, {CAMERA: partial(simulator_replay.pictures, task.name, states)}, actions,
            replayed.proprioception, replayed.success, task.instruction,
        )  # fmt: skip

    @cached_property
    def _shapes(self) -> list[EpisodeShape]:
        """Rows and numbers of each demonstration; the ``state`` is the simulator's here."""
        with hdf5.opened(self.path) as file:
            shapes = []
            for name in self._names:
                entries = hdf5.datasets(hdf5.member(file, f"{_DATA}/{name}"), 1)
                actions, states = (
                    (entries[key].shape[0], entries[key].shape[1])
                    if key in entries and len(entries[key].shape) == 2
                    else None
                    for key in ("actions", "states")
                )
                shapes.append(EpisodeShape(name, actions, states))
            return shapes

    def _action_names(self, width: int) -> tuple[str, ...]:
        controller = self._info.get("controller_configs")
        kind = controller.get("type") if isinstance(controller, dict) else None
        if kind == "OSC_POSE" and width == len(_POSE_ACTIONS):
            return _POSE_ACTIONS
        return tuple(f"action_{i}" for i in range(width))
