"""Rewards that compare dreamed features with the features of a demonstration's video."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from world_models.data.demonstrations import Demonstrations


class VideoAlignedReward(Protocol):
    """A reward for being where a demonstration was: tensor operations only, no host synchronisation."""

    def __call__(self, features: Tensor, demonstration: Tensor, time: Tensor) -> Tensor:
        """The reward of each slot.

        Args:
            features: (B, L, C) float32, patch tokens of the present state.
            demonstration: (B,) int64, the index of the demonstration each slot follows.
            time: (B,) int64, frames since that demonstration's start; beyond its end its last frame counts.

        Returns:
            (B,) float32, at most 0: minus the L1 distance, averaged over tokens and channels.
        """
        ...


def token_l1(features: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference over tokens and channels: two (B, L, C) tensors -> (B,) float32."""
    return (features.float() - target.float()).abs().mean(dim=(-2, -1))


class CorrespondingReward:
    """Minus the distance to the demonstration's frame at the same time: a clocked, dense reward."""

    def __init__(self, demonstrations: Demonstrations) -> None:
        self._demonstrations = demonstrations

    def __call__(self, features: Tensor, demonstration: Tensor, time: Tensor) -> Tensor:
        """See :meth:`VideoAlignedReward.__call__`."""
        return -token_l1(features, self._demonstrations.at(demonstration, time))


class GoalReward:
    """Minus the distance to the demonstration's last frame, whatever the time: no clock, less guidance."""

    def __init__(self, demonstrations: Demonstrations) -> None:
        self._goal = demonstrations.goal()

    def __call__(self, features: Tensor, demonstration: Tensor, time: Tensor) -> Tensor:
        """See :meth:`VideoAlignedReward.__call__`; ``time`` is not used."""
        return -token_l1(features, self._goal[demonstration])


class SparseReward:
    """Nothing on the way: what is paid is the environment's bonus for success."""

    def __init__(self, demonstrations: Demonstrations) -> None:
        pass

    def __call__(self, features: Tensor, demonstration: Tensor, time: Tensor) -> Tensor:
        """Zeros (B,) float32; see :meth:`VideoAlignedReward.__call__`."""
        return features.new_zeros(len(features))


REWARDS: dict[str, type[CorrespondingReward] | type[GoalReward] | type[SparseReward]] = {
    "corresponding": CorrespondingReward,
    "goal": GoalReward,
    "sparse": SparseReward,
}


def check_reward_name(name: str) -> str:
    """``name`` if it is a known reward; ValueError naming the known ones otherwise."""
    if name not in REWARDS:
        raise ValueError(f"unknown reward {name!r}: choose one of {', '.join(map(repr, REWARDS))}")
    return name


def make_reward(name: str, demonstrations: Demonstrations) -> VideoAlignedReward:
    """The reward called ``name`` ("corresponding", "goal" or "sparse") over the demonstrations, on their device.

    Raises:
        ValueError: the name is unknown.
    """
    return REWARDS[check_reward_name(name)](demonstrations)
