"""Rewards from a demonstration's features, and a detector of success fitted to the labels of whole episodes."""

from __future__ import annotations

from rewards.fit_detector import fit_success_detector
from rewards.success import SuccessDetector
from rewards.video_aligned import (
    CorrespondingReward,
    GoalReward,
    ProgressReward,
    RewardName,
    SuccessProbabilityReward,
    VideoAlignedReward,
    make_reward,
)

__all__ = [
    "CorrespondingReward",
    "GoalReward",
    "ProgressReward",
    "RewardName",
    "SuccessDetector",
    "SuccessProbabilityReward",
    "VideoAlignedReward",
    "fit_success_detector",
    "make_reward",
]
