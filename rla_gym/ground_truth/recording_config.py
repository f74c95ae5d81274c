"""Settings that a recorded episode depends on, besides its index."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rla_gym.ground_truth.behaviours import KINDS
from rla_gym.ground_truth.seeds import COLLECT_SEED_RANGE
from rla_gym.tasks import DEFAULT_TASK, get_task

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass
class RecordingConfig:
    """How episodes are recorded. Episode ``index`` depends on these settings and on ``index`` alone.

    Attributes:
        task: name of the task.
        seed: of all chance.
        placement: a placement of the task, or ``"mixed"``: each with equal chance.
        length: control steps and frames in an episode; None for the task's own.
        expert: share of episodes by the scripted expert, with a little noise. The shares need not add up to 1.
        noisy: share with strong noise and pushes, from which the expert recovers.
        near_miss: share of grasps that fail or nearly fail.
        play: share of random motion around the object.
        grasp: share of grasps anywhere about the object, up to three an episode, some of which hold.
        hasty_grasp: share of the same on the straight way there, closing before the hand has arrived, as policies do.
        place: share of clean grasps after which the object is put down anywhere about its goal; for Stack.
        guessing: share of the scripted episodes, except the expert's, whose script guesses whether the cube is held or
            stands instead of reading it, so that its actions do not depend on the outcome.
        policy: share of rollouts of a policy, which has to be given.
        policy_noise: standard deviation of the action noise in rollouts of the policy.
        hidden: draw friction, mass and actuation noise anew for each episode, see
            :class:`rla_gym.ground_truth.hidden_causes.HiddenCauses`; no column tells them.
    """

    task: str = DEFAULT_TASK
    seed: int = 0
    placement: str = "mixed"
    length: int | None = None
    expert: float = 0.35
    noisy: float = 0.15
    near_miss: float = 0.30
    play: float = 0.20
    grasp: float = 0.0
    hasty_grasp: float = 0.0
    place: float = 0.0
    guessing: float = 0.0
    policy: float = 0.0
    policy_noise: float = 0.2
    hidden: bool = False

    @property
    def episode_length(self) -> int:
        """Control steps and frames in an episode: ``length``, or the task's own.

        Raises:
            ValueError: there is no such task.
        """
        return get_task(self.task).episode_length if self.length is None else self.length

    def settings(self) -> dict[str, Any]:
        """Name -> value of every setting, with the length in control steps; two equal ones give the same episodes."""
        values = {field.name: getattr(self, field.name) for field in fields(RecordingConfig)}
        return {**values, "length": self.episode_length}

    def shares(self) -> dict[str, float]:
        """Kind -> its share of the episodes; they add up to 1."""
        weights = {kind: float(getattr(self, kind)) for kind in KINDS}
        total = sum(weights.values())
        return {kind: weight / total for kind, weight in weights.items()}

    def kind(self, index: int) -> str:
        """The kind of episode ``index``. Any run of consecutive episodes has nearly the wanted shares."""
        offset = np.random.default_rng([self.seed, 1]).random()
        point = (offset + index * _GOLDEN) % 1.0
        for kind, share in self.shares().items():
            point -= share
            if point < 0:
                return kind
        return max(self.shares(), key=lambda kind: self.shares()[kind])  # rounding at the very end

    def guesses(self, index: int) -> bool:
        """Whether the script of episode ``index`` guesses what it could read from the simulator."""
        return self.kind(index) != "expert" and np.random.default_rng([self.seed, index, 1]).random() < self.guessing

    def reset_seed(self, index: int) -> int:
        """The environment's reset seed of episode ``index``; datasets of few seeds share none for 10,000 episodes."""
        first = int(self.seed * _GOLDEN % 1 * len(COLLECT_SEED_RANGE))
        return COLLECT_SEED_RANGE[(first + index) % len(COLLECT_SEED_RANGE)]
