"""Success from features: a small attentive probe trained from episode-level labels, with a calibrated threshold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from world_models.checkpoint import save_json, save_tensors
from world_models.data.demonstrations import Demonstrations

WEIGHTS_FILE = "success.safetensors"
CONFIG_FILE = "success.json"


class SuccessDetector(nn.Module):
    """Says of a state whether the task is solved in it.

    A few learned queries attend over the patch tokens (content and place), a logistic layer reads what they found.
    :func:`fit_success_detector` trains one; a fresh one has random weights.

    Args:
        num_tokens: L, patch tokens of a state.
        channels: C, channels of a token.
        num_queries: how many places the probe can look at.
        threshold: probability from which on a state counts as a success, in (0, 1).

    Attributes:
        dream_thresholds: the same for states that a world model imagined, by the name of its dynamics; imagined states
            are blurred where the model is unsure, and blur looks half like success.
    """

    def __init__(self, num_tokens: int, channels: int, *, num_queries: int = 4, threshold: float = 0.5) -> None:
        super().__init__()
        self.num_tokens, self.channels, self.num_queries = num_tokens, channels, num_queries
        self.threshold = threshold
        self.dream_thresholds: dict[str, float] = {}
        self.metrics: dict[str, Any] = {}
        self.query = nn.Parameter(torch.randn(num_queries, channels) / channels**0.5)
        self.place = nn.Parameter(torch.zeros(num_queries, num_tokens))
        self.head = nn.Linear(num_queries * channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """The logit of success: (B, L, C) float -> (B,) float32. ValueError for another (L, C)."""
        if features.shape[-2:] != (self.num_tokens, self.channels):
            raise ValueError(
                f"the success detector was made for features (B, {self.num_tokens}, {self.channels}), not "
                f"{tuple(features.shape)}: fit it again on this world's features (`rla-gym train`)"
            )
        features = features.float()
        attention = (torch.einsum("qc,blc->bql", self.query, features) + self.place).softmax(dim=-1)
        return self.head(torch.einsum("bql,blc->bqc", attention, features).flatten(1)).squeeze(-1)

    def probability(self, features: Tensor) -> Tensor:
        """Probability of success for a class-balanced prior: (B, L, C) float -> (B,) float32 in [0, 1]."""
        return self(features).sigmoid()

    def success(self, features: Tensor) -> Tensor:
        """Whether the probability reaches the calibrated threshold: (B, L, C) float -> (B,) bool."""
        return self.probability(features) >= self.threshold

    def dream_threshold(self, dynamics: str) -> float:
        """Probability from which on a state imagined by these dynamics counts as a success."""
        return self.dream_thresholds.get(dynamics, self.threshold)

    def dreamed_success(self, features: Tensor, dynamics: str) -> Tensor:
        """Whether states imagined by these dynamics count as successes: (B, L, C) float -> (B,) bool."""
        return self.probability(features) >= self.dream_threshold(dynamics)

    @torch.no_grad()
    def calibrate_in_dreams(self, dynamics: str, dreamed: Tensor, real: Tensor) -> dict[str, float]:
        """Choose the threshold for imagined states so that dreams succeed when the real episodes did.

        An episode succeeds when any of its states does, in dreams as in the environment.

        Args:
            dynamics: name of the world model's dynamics.
            dreamed: states (N, M, L, C) after each of M chunks of N held-out episodes, imagined open loop.
            real: the states (N, M, L, C) that came.

        Returns:
            "false_success_rate" and "missed_success_rate" of these episodes at the chosen threshold; empty, and nothing
            is calibrated, where all or none of them succeeded.
        """
        succeeded = torch.stack([self.success(states) for states in real.unbind(1)]).any(dim=0).cpu()
        if succeeded.all() or not succeeded.any():
            return {}
        most = torch.stack([self.probability(states) for states in dreamed.unbind(1)]).amax(dim=0).cpu()
        self.dream_thresholds[dynamics] = _best_threshold(most, succeeded)
        told = most >= self.dream_thresholds[dynamics]
        rates = {
            "false_success_rate": float(told[~succeeded].float().mean()),
            "missed_success_rate": float((~told)[succeeded].float().mean()),
        }
        chosen = {"threshold": self.dream_thresholds[dynamics], "episodes": len(most)}
        self.metrics[f"dreams_{dynamics}"] = {**chosen, **rates}
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
            "dream_thresholds": self.dream_thresholds,
            "metrics": self.metrics,
        }
        save_tensors(folder / WEIGHTS_FILE, self.state_dict())
        save_json(folder / CONFIG_FILE, config)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> SuccessDetector:
        """The detector of a world folder, in evaluation mode.

        Raises:
            FileNotFoundError: the folder has no success detector.
        """
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"the world {folder} has no success detector ({name} is missing): train the world to its end "
                    f"with `rla-gym train`, which fits one from the episodes' success labels"
                )
        config = json.loads((folder / CONFIG_FILE).read_text())
        detector = cls(
            config["num_tokens"],
            config["channels"],
            num_queries=config["num_queries"],
            threshold=config["threshold"],
        )
        detector.dream_thresholds = config["dream_thresholds"]
        detector.metrics = config["metrics"]
        detector.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return detector.to(device).eval().requires_grad_(False)


FeaturesOfEpisode = Callable[[int], Tensor | np.ndarray] | Sequence[Tensor | np.ndarray]


def fit_success_detector(
    features_of_episode: FeaturesOfEpisode,
    successes: np.ndarray | Sequence[bool],
    splits: np.ndarray | Sequence[str],
    *,
    final_frames: int = 1,
    num_queries: int = 8,
    steps: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[SuccessDetector, dict[str, Any]]:
    """Trains a :class:`SuccessDetector` from the label "this episode succeeded" and nothing finer.

    An episode's label says whether its last frame shows success. Positive are the last ``final_frames`` frames of
    successful episodes; negative are all frames of failed ones and the first two fifths of all. The later frames of a
    success are left out: nobody said when it came. Some failures lifted and dropped, but such frames are few among
    those of failures; were the middle of failures left out, whatever comes only there and in successes, such as a hand
    that lets go, would count as success.
    Only episodes of the "train" split are trained on; the threshold is chosen on "validation"; "report" is not read.

    Args:
        features_of_episode: episode index -> (T, L, C) float array or tensor; a callable or a sequence.
        successes: (N,) bool.
        splits: (N,) str, "train", "validation" or "report".
        final_frames: how many frames at the end of a success show it.
        num_queries: learned queries of the probe.
        steps: optimiser steps (AdamW), each on half positive, half negative frames.
        batch_size: frames in a step.
        learning_rate: peak rate, decayed to zero by a cosine.
        weight_decay: of AdamW.
        seed: the same seed and data give the same detector on the same machine.
        device: where to train.

    Returns:
        The detector on ``device`` in evaluation mode, and its metrics (also kept as ``detector.metrics``):
        "threshold", "calibrated_on" ("validation", or "train" where validation lacks a class),
        "balanced_accuracy", "true_positive_rate", "false_positive_rate" over frames,
        "false_positive_rate_failed_frames" and "false_positive_rate_failed_episodes" (share of the failed episodes'
        frames taken for a success, and of failed episodes with at least one such frame; None without failures),
        "positive_frames", "negative_frames".

    Raises:
        ValueError: lengths disagree, an unknown split, or no successful training episode.
    """
    success = np.asarray(successes, dtype=bool)
    split = np.asarray(splits)
    if success.ndim != 1 or success.shape != split.shape:
        raise ValueError(f"one success label and one split per episode, but shapes {success.shape} and {split.shape}")
    unknown = set(split.tolist()) - {"train", "validation", "report"}
    if unknown:
        raise ValueError(f"unknown split {sorted(unknown)[0]!r}: use 'train', 'validation' or 'report'")
    if not np.any(success & (split == "train")):
        raise ValueError(
            f"none of the {int((split == 'train').sum())} training episodes succeeded, so success cannot be learned: "
            "collect demonstrations that end in success (`rla-gym collect`, kind 'expert')"
        )
    read = features_of_episode if callable(features_of_episode) else features_of_episode.__getitem__
    train = _labelled_frames(read, np.flatnonzero(split == "train"), success, final_frames)
    validation = _labelled_frames(read, np.flatnonzero(split == "validation"), success, final_frames)
    if train.label.all():
        raise ValueError(
            "the training episodes have no frame that is not a success: give episodes of two frames or more"
        )

    torch_seed = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = SuccessDetector(train.features.shape[1], train.features.shape[2], num_queries=num_queries)
    detector.to(device).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    positive, negative = train.label.nonzero().squeeze(1), (~train.label).nonzero().squeeze(1)
    half = max(batch_size // 2, 1)
    target = torch.cat((torch.ones(half), torch.zeros(half))).to(device)
    for _ in range(steps):
        rows = [kind[torch.randint(len(kind), (half,), generator=torch_seed)] for kind in (positive, negative)]
        logit = detector(train.features[torch.cat(rows)].to(device))
        loss = F.binary_cross_entropy_with_logits(logit, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    detector.eval().requires_grad_(False)

    has_both = bool(validation.label.any()) and not bool(validation.label.all())
    held_out = validation if has_both else train
    probability = torch.cat([detector.probability(part.to(device)).cpu() for part in held_out.features.split(4096)])
    detector.threshold = _best_threshold(probability, held_out.label)
    detector.metrics = {
        "threshold": detector.threshold,
        "calibrated_on": "validation" if has_both else "train",
        **_metrics(probability >= detector.threshold, held_out),
    }
    return detector, detector.metrics


class _Frames:
    """Labelled frames: features (M, L, C) float16, label (M,) bool, episode (M,) int64, failed (M,) bool."""

    def __init__(self, features: Tensor, label: Tensor, episode: Tensor, failed: Tensor) -> None:
        self.features, self.label, self.episode, self.failed = features, label, episode, failed


def _labelled_frames(
    read: Callable[[int], Tensor | np.ndarray], episodes: np.ndarray, success: np.ndarray, final_frames: int
) -> _Frames:
    features, labels, indices, failures = [], [], [], []
    for index in episodes.tolist():
        frames = torch.as_tensor(read(index)).detach().cpu().half()
        count = len(frames)
        early = (2 * count + 4) // 5
        positive = torch.full((count,), bool(success[index]))
        positive[: count - min(final_frames, count - early)] = False
        keep = positive | (torch.arange(count) < (early if success[index] else count))
        features.append(frames[keep])
        labels.append(positive[keep])
        indices.append(torch.full((int(keep.sum()),), index))
        failures.append(torch.full((int(keep.sum()),), not success[index]))
    if not features:
        empty = torch.zeros(0, dtype=torch.bool)
        return _Frames(torch.zeros(0, 0, 0), empty, empty.long(), empty)
    return _Frames(torch.cat(features), torch.cat(labels), torch.cat(indices), torch.cat(failures))


def _best_threshold(probability: Tensor, label: Tensor) -> float:
    """The probability that separates best (balanced accuracy), in the middle of the best interval between scores."""
    score, order = probability.double().sort()
    sorted_label = label[order].double()
    # A cut between score[i-1] and score[i] calls the rows from i on positive.
    above = sorted_label.flip(0).cumsum(0).flip(0) / sorted_label.sum()
    below = (1 - sorted_label).cumsum(0) / (1 - sorted_label).sum()
    balanced = (above[1:] + below[:-1]) / 2
    gap = score[1:] - score[:-1]
    balanced = torch.where(gap > 0, balanced, torch.full_like(balanced, -1.0))
    best = torch.where(balanced >= balanced.max() - 1e-9, gap, torch.full_like(gap, -1.0)).argmax()
    threshold = float((score[best] + score[best + 1]) / 2)
    return min(max(threshold, 1e-4), 1 - 1e-4)


def _metrics(flagged: Tensor, frames: _Frames) -> dict[str, Any]:
    true_positive = float(flagged[frames.label].float().mean())
    false_positive = float(flagged[~frames.label].float().mean())
    failed, fooled = frames.episode[frames.failed].unique(), frames.episode[frames.failed & flagged].unique()
    return {
        "balanced_accuracy": (true_positive + 1 - false_positive) / 2,
        "true_positive_rate": true_positive,
        "false_positive_rate": false_positive,
        "false_positive_rate_failed_frames": float(flagged[frames.failed].float().mean()) if len(failed) else None,
        "false_positive_rate_failed_episodes": len(fooled) / len(failed) if len(failed) else None,
        "positive_frames": int(frames.label.sum()),
        "negative_frames": int((~frames.label).sum()),
    }
