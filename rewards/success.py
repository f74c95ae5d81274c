"""Success from features: a small attentive probe with a calibrated threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from world_models.data.demonstrations import Demonstrations
from world_models.dataclass_reader import check_ranges, read_dataclass
from world_models.files import read_json, read_tensors, save_json, save_tensors
from world_models.layers.attention_pool import AttentionPool
from world_models.layers.structure import module_with_weights

WEIGHTS_FILE = "success.safetensors"
CONFIG_FILE = "success.json"
FIX = "fit it anew by `rla-gym train`, or fetch the world again"
"""What is left to do about a damaged detector."""


@dataclass(frozen=True)
class DetectorConfig:
    """What :data:`CONFIG_FILE` holds; see :class:`SuccessDetector`."""

    num_tokens: int
    channels: int
    num_queries: int
    threshold: float
    imagined_thresholds: Mapping[str, float]
    metrics: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_ranges(self, num_tokens=(1, 65_537), channels=(1, 8192), num_queries=(1, 1024), threshold=(1e-6, 1))
        for name, threshold in self.imagined_thresholds.items():
            if not 1e-6 <= threshold <= 1:  # from 0 on, everything would be a success
                raise ValueError(f"imagined_thresholds.{name[:40]}={threshold} must be between 1e-06 and 1")


class SuccessDetector(nn.Module):
    """Gives the probability that the task is solved in a state.

    A few learned queries attend over the tokens by content and position; a logistic layer reads what they gather.
    :func:`rewards.fit_success_detector` trains one; a fresh one has random weights.

    Args:
        num_tokens: tokens L of a state.
        channels: channels C of a token.
        num_queries: learned queries, each of which attends to a place of its own.
        threshold: probability from which on a real state counts as a success, in (0, 1).

    Attributes:
        imagined_thresholds: the same for states that a world model imagined, by the name of its dynamics. Such states
            are blurred where the model is unsure, and blur raises the probability of success.
        metrics: what fitting and calibration measured.
    """

    def __init__(self, num_tokens: int, channels: int, *, num_queries: int = 4, threshold: float = 0.5) -> None:
        super().__init__()
        self.num_tokens, self.channels, self.num_queries = num_tokens, channels, num_queries
        self.threshold = threshold
        self.imagined_thresholds: dict[str, float] = {}
        self.metrics: dict[str, Any] = {}
        self.pool = AttentionPool(num_queries, channels, spread=channels**-0.5, scale=1.0, positions=num_tokens)
        self.head = nn.Linear(num_queries * channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """The logit of success: (B, L, C) float -> (B,) float32. ValueError for another (L, C)."""
        if features.shape[-2:] != (self.num_tokens, self.channels):
            raise ValueError(
                f"the success detector was made for features (B, {self.num_tokens}, {self.channels}), not "
                f"{tuple(features.shape)}: fit it again on this world's features (`rla-gym train`)"
            )
        return self.head(self.pool(features.float()).flatten(1)).squeeze(-1)

    def check_fits(self, num_tokens: int, channels: int, folder: Path) -> None:
        """Raise ValueError unless the detector reads states of these tokens and channels, those of a world's folder."""
        if (self.num_tokens, self.channels) != (num_tokens, channels):
            raise ValueError(
                f"{folder / CONFIG_FILE} reads {self.num_tokens} tokens of {self.channels} channels, the world's "
                f"states have {num_tokens} of {channels}; {FIX}"
            )

    def probability(self, features: Tensor) -> Tensor:
        """Probability of success for a class-balanced prior: (B, L, C) float -> (B,) float32 in [0, 1]."""
        return self(features).sigmoid()

    def success(self, features: Tensor) -> Tensor:
        """Whether real states count as successes: (B, L, C) float -> (B,) bool."""
        return self.probability(features) >= self.threshold

    def imagined_threshold(self, dynamics: str) -> float:
        """Probability from which on a state imagined by these dynamics counts as a success."""
        return self.imagined_thresholds.get(dynamics, self.threshold)

    def imagined_success(self, features: Tensor, dynamics: str) -> Tensor:
        """Whether states imagined by these dynamics count as successes: (B, L, C) float -> (B,) bool."""
        return self.probability(features) >= self.imagined_threshold(dynamics)

    @torch.no_grad()
    def calibrate_imagined(self, dynamics: str, draws: Iterable[Tensor], real: Tensor) -> dict[str, float]:
        """Choose the threshold for imagined states so that imagined episodes succeed where the real ones did.

        An episode succeeds when any of its states does, imagined or real. Several draws of each episode are to succeed
        as often as it is likely: the threshold is that of the lowest Brier score of their share.

        Args:
            dynamics: name of the world model's dynamics.
            draws: one or more rollouts, states (N, M, L, C) each after M chunks of N held-out episodes, open loop.
            real: the real states (N, M, L, C) after the same chunks.

        Returns:
            "false_success_rate" and "missed_success_rate" of these episodes at the chosen threshold, means over draws,
            and of several draws the "brier_score"; empty, and nothing is calibrated, where all or none of them
            succeeded.
        """
        succeeded = torch.stack([self.success(states) for states in real.unbind(1)]).any(dim=0).cpu()
        if succeeded.all() or not succeeded.any():
            return {}
        highest = torch.stack(
            [torch.stack([self.probability(states) for states in draw.unbind(1)]).amax(dim=0).cpu() for draw in draws]
        )
        several = len(highest) > 1
        threshold = calibrated_threshold(highest, succeeded) if several else separating_threshold(highest[0], succeeded)
        flagged = highest >= threshold
        rates = {
            "false_success_rate": float(flagged[:, ~succeeded].float().mean()),
            "missed_success_rate": float((~flagged)[:, succeeded].float().mean()),
        }
        if several:
            rates["brier_score"] = float(_brier_scores(highest, succeeded, torch.tensor([threshold])))
        self.imagined_thresholds[dynamics] = threshold
        self.metrics[f"imagined_{dynamics}"] = {"threshold": threshold, "episodes": len(succeeded), **rates}
        return rates

    def first_success(self, demonstrations: Demonstrations) -> Tensor:
        """First frame (N,) int64 that counts as a success in each demonstration; its length where none does."""
        frames = torch.arange(demonstrations.features.shape[1], device=demonstrations.lengths.device)
        solved = torch.stack([self.success(features) for features in demonstrations.features])
        return torch.where(solved, frames, demonstrations.lengths[:, None]).min(dim=1).values

    def save(self, folder: str | Path) -> None:
        """Writes success.safetensors and success.json into an existing world folder."""
        folder = Path(folder)
        config = {
            "num_tokens": self.num_tokens,
            "channels": self.channels,
            "num_queries": self.num_queries,
            "threshold": self.threshold,
            "imagined_thresholds": self.imagined_thresholds,
            "metrics": self.metrics,
        }
        save_tensors(folder / WEIGHTS_FILE, self.state_dict())
        save_json(folder / CONFIG_FILE, config)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> SuccessDetector:
        """The detector of a world folder, in evaluation mode.

        Raises:
            OSError: the folder has no success detector, or it cannot be read.
            ValueError: one of its files is damaged, or the two do not fit together.
        """
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"the world {folder} has no success detector ({name} is missing): `rla-gym train` fits one as its "
                    "last step; if it was interrupted, the same command goes on with it"
                )
        path = folder / CONFIG_FILE
        config = read_dataclass(DetectorConfig, read_json(path, fix=FIX), source=str(path), fix=FIX)
        detector = module_with_weights(
            lambda: cls(config.num_tokens, config.channels, num_queries=config.num_queries, threshold=config.threshold),
            read_tensors(folder / WEIGHTS_FILE, fix=FIX),
            source=f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}",
            fix=FIX,
        )
        detector.imagined_thresholds, detector.metrics = dict(config.imagined_thresholds), dict(config.metrics)
        return detector.to(device).eval().requires_grad_(False)


def calibrated_threshold(probability: Tensor, label: Tensor) -> float:
    """The threshold whose share of draws above it has the lowest Brier score; the middle one of several such.

    Args:
        probability: scores (D, N) in [0, 1] of D draws of N episodes.
        label: what became of each, (N,) bool.
    """
    score = probability.flatten().double().unique()
    between = torch.cat([score[:1], (score[1:] + score[:-1]) / 2])
    scores = _brier_scores(probability.double(), label, between)
    lowest = torch.nonzero(scores <= scores.min() + 1e-9).flatten()
    return min(max(float(between[lowest[len(lowest) // 2]]), 1e-4), 1 - 1e-4)


def _brier_scores(probability: Tensor, label: Tensor, thresholds: Tensor) -> Tensor:
    """Brier score (T,) of the share of D draws above each threshold (T,), for scores (D, N) and labels (N,) bool."""
    shares = torch.stack([(probability >= threshold).double().mean(dim=0) for threshold in thresholds])
    return (shares - label.double()).square().mean(dim=1)


def separating_threshold(probability: Tensor, label: Tensor) -> float:
    """The threshold of highest balanced accuracy, in the middle of the widest such gap between two scores.

    Args:
        probability: scores (M,) in [0, 1].
        label: (M,) bool, both classes among them.
    """
    score, order = probability.double().sort()
    sorted_label = label[order].double()
    # A threshold between score[i-1] and score[i] calls the rows from i on positive.
    above = sorted_label.flip(0).cumsum(0).flip(0) / sorted_label.sum()
    below = (1 - sorted_label).cumsum(0) / (1 - sorted_label).sum()
    balanced = (above[1:] + below[:-1]) / 2
    gap = score[1:] - score[:-1]
    balanced = torch.where(gap > 0, balanced, torch.full_like(balanced, -1.0))
    best = torch.where(balanced >= balanced.max() - 1e-9, gap, torch.full_like(gap, -1.0)).argmax()
    threshold = float((score[best] + score[best + 1]) / 2)
    return min(max(threshold, 1e-4), 1 - 1e-4)
