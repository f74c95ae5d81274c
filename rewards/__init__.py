"""Rewards and success from features: what a demonstration's video says about a dreamed state."""

from __future__ import annotations

from rewards.success import SuccessDetector, fit_success_detector
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
