"""Rewards of imagined states: their distance to a demonstration's video, or their probability of success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from rewards.success import SuccessDetector
from world_models.data.demonstrations import Demonstrations

RewardName = Literal["corresponding", "goal", "progress", "success_probability", "sparse"]
"""What a reward is called; :data:`REWARDS` has them."""


class VideoAlignedReward(Protocol):
    """A reward from a state's features, a demonstration and the time: tensor operations only, no host sync."""

    def __call__(self, features: Tensor, demonstration: Tensor, time: Tensor) -> Tensor:
        """The reward of each slot.

        Args:
            features: (B, L, C) float32, patch tokens of the present state.
            demonstration: (B,) int64, the index of the demonstration each slot follows.
            time: (B,) int64, frames since that demonstration's start; beyond its end its last frame counts.

        Returns:
            (B,) float32, at most 0.
        """
        ...


def token_l1(features: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference over tokens and channels: two (B, L, C) tensors -> (B,) float32."""
    return (features.float() - target.float()).abs().mean(dim=(-2, -1))


class CorrespondingReward:
    """Minus the distance to the demonstration's frame at the same time: dense, and bound to its pace."""

    def __init__(self, demonstrations: Demonstrations) -> None:
        self._demonstrations = demonstrations

    def __call__(self, features: Tensor, demonstration: Tensor, time: Tensor) -> Tensor:
        """See :meth:`VideoAlignedReward.__call__`."""
        return -token_l1(features, self._demonstrations.at(demonstration, time))


class GoalReward:
    """Minus the distance to the demonstration's last frame, at any time: bound to no pace, and less informative."""

    def __init__(self, demonstrations: Demonstrations) -> None:
        self._goal = demonstrations.goal()

    def __call__(self, features: Tensor, demonstration: Tensor, time: Tensor) -> Tensor:
        """See :meth:`VideoAlignedReward.__call__`; ``time`` is not used."""
        return -token_l1(features, self._goal[demonstration])


class ProgressReward:
    """Progress minus 1: from -1 at a demonstration's start to 0 at its goal, whatever the time.

    A frame's progress is its share of its demonstration. A state's progress is the mean of the frames nearest to it
    (smallest squared distance over all tokens). The frames of all demonstrations count, not only of the one that is
    followed: a policy may be faster or slower than each of them, and take another way.
    """

    NEAREST = 8
    """Frames whose progress is averaged."""

    def __init__(self, demonstrations: Demonstrations) -> None:
        longest = demonstrations.features.shape[1]
        time = torch.arange(longest, device=demonstrations.lengths.device)
        inside = time < demonstrations.lengths[:, None]
        share = time / (demonstrations.lengths[:, None] - 1).clamp_min(1)
        self._frames = demonstrations.features[inside].flatten(1).float()
        self._progress = share[inside]
        self._norms = self._frames.square().sum(dim=1)

    def progress(self, features: Tensor) -> Tensor:
        """Progress of states (B, L, C), (B,) float32 in [0, 1]."""
        # Squared distances without the state's norm, which is the same for every frame and does not change their order.
        distances = self._norms - 2 * features.float().flatten(1) @ self._frames.T
        nearest = distances.topk(min(self.NEAREST, len(self._frames)), dim=1, largest=False).indices
        return self._progress[nearest].mean(dim=1)

    def __call__(self, features: Tensor, demonstration: Tensor, time: Tensor) -> Tensor:
        """See :meth:`VideoAlignedReward.__call__`; neither ``demonstration`` nor ``time`` is used."""
        return self.progress(features) - 1.0


class SuccessProbabilityReward:
    """Minus the success detector's probability that the task is not solved, at any time."""

    def __init__(self, detector: SuccessDetector) -> None:
        self._detector = detector

    def __call__(self, features: Tensor, demonstration: Tensor, time: Tensor) -> Tensor:
        """See :meth:`VideoAlignedReward.__call__`; neither ``demonstration`` nor ``time`` is used."""
        return self._detector.probability(features) - 1.0


class SparseReward:
    """Zero: the environment's bonus for success is the only reward."""

    def __call__(self, features: Tensor, demonstration: Tensor, time: Tensor) -> Tensor:
        """Zeros (B,) float32; see :meth:`VideoAlignedReward.__call__`."""
        return features.new_zeros(len(features))


REWARDS: dict[str, Callable[[Demonstrations, SuccessDetector], VideoAlignedReward]] = {
    "corresponding": lambda demonstrations, _: CorrespondingReward(demonstrations),
    "goal": lambda demonstrations, _: GoalReward(demonstrations),
    "progress": lambda demonstrations, _: ProgressReward(demonstrations),
    "success_probability": lambda _, detector: SuccessProbabilityReward(detector),
    "sparse": lambda _demonstrations, _detector: SparseReward(),
}


def check_reward_name(name: str) -> str:
    """``name`` if it is a known reward; ValueError naming the known ones otherwise."""
    if not isinstance(name, str) or name not in REWARDS:
        raise ValueError(f"unknown reward {name!r:.80}: choose one of {', '.join(map(repr, REWARDS))}")
    return name


def make_reward(name: str, demonstrations: Demonstrations, detector: SuccessDetector) -> VideoAlignedReward:
    """The reward called ``name``, one of :data:`REWARDS`, over a world's demonstrations and detector, on their device.

    Raises:
        ValueError: the name is unknown.
    """
    return REWARDS[check_reward_name(name)](demonstrations, detector)
