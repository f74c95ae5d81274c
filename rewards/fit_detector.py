"""Fits a success detector to labels of whole episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rewards.success import SuccessDetector, separating_threshold
from world_models.data.labels import read_labels
from world_models.training.fit import fit

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

    The label says whether an episode's last frame is a success; :func:`_labelled_frames` says which frames are positive
    and which negative. Episodes of the split "train" alone are trained on; the threshold is chosen on "validation";
    "report" is not read.

    Args:
        features_of_episode: episode index -> (T, L, C) float array or tensor; a callable or a sequence.
        successes: (N,) bool.
        splits: (N,) str, "train", "validation" or "report".
        final_frames: frames at the end of a success that are positive.
        num_queries: learned queries of the detector.
        steps: gradient steps (AdamW), each on half positive, half negative frames.
        batch_size: frames in a gradient step.
        learning_rate: peak rate, decayed to zero by a cosine.
        weight_decay: of AdamW.
        seed: the same seed and data give the same detector on the same machine.
        device: where to train.

    Returns:
        The detector on ``device`` in evaluation mode, and its metrics (also kept as ``detector.metrics``):
        "threshold", "calibrated_on" ("validation", or "train" where validation lacks a class),
        "balanced_accuracy", "true_positive_rate", "false_positive_rate" over frames,
        "false_positive_rate_failed_frames" and "false_positive_rate_failed_episodes" (share of the failed episodes'
        frames that count as successes, and of failed episodes with at least one such frame; None without failures),
        "positive_frames", "negative_frames".

    Raises:
        ValueError: lengths disagree, an unknown split, or no successful training episode.
    """
    success, split = _checked(successes, splits)
    read = features_of_episode if callable(features_of_episode) else features_of_episode.__getitem__
    train = _labelled_frames(read, np.flatnonzero(split == "train"), success, final_frames)
    validation = _labelled_frames(read, np.flatnonzero(split == "validation"), success, final_frames)
    if train.label.all():
        raise ValueError(
            "the training episodes have no frame that is not a success: give episodes of two frames or more"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = SuccessDetector(train.features.shape[1], train.features.shape[2], num_queries=num_queries)
    detector.to(device).train()
    optimiser = torch.optim.AdamW(detector.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    loss = _balanced_loss(detector, train, max(batch_size // 2, 1), seed, device)
    fit(optimiser, schedule, loss, steps, title="success detector", progress=False)
    detector.eval().requires_grad_(False)

    has_both = bool(validation.label.any()) and not bool(validation.label.all())
    held_out = validation if has_both else train
    probability = torch.cat([detector.probability(part.to(device)).cpu() for part in held_out.features.split(4096)])
    detector.threshold = separating_threshold(probability, held_out.label)
    detector.metrics = {
        "threshold": detector.threshold,
        "calibrated_on": "validation" if has_both else "train",
        **_metrics(probability >= detector.threshold, held_out),
    }
    return detector, detector.metrics


@dataclass(frozen=True)
class _Frames:
    """Labelled frames: features (M, L, C) float16, label (M,) bool, episode (M,) int64, failed (M,) bool."""

    features: Tensor
    label: Tensor
    episode: Tensor
    failed: Tensor


def _checked(
    successes: np.ndarray | Sequence[bool], splits: np.ndarray | Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) bool and splits (N,) str; ValueError as of :func:`fit_success_detector`."""
    success, wrong = read_labels(successes)
    if wrong is not None:
        raise ValueError(f"episode {wrong} has the label {list(successes)[wrong]!r}: give true or false, or 1 or 0")
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
    return success, split


def _labelled_frames(
    read: Callable[[int], Tensor | np.ndarray], episodes: np.ndarray, success: np.ndarray, final_frames: int
) -> _Frames:
    """Frames whose label follows from their episode's.

    Positive are the last ``final_frames`` frames of successful episodes; negative are all frames of failed ones and the
    first two fifths of successful ones. The other frames of a success are left out: no label says when it came. Some
    failed episodes lift the object and drop it, but such frames are few. The middle of failed episodes must stay in:
    otherwise an event that occurs only there and in successes, such as a gripper that opens, would count as success.
    """
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


def _balanced_loss(
    detector: SuccessDetector, frames: _Frames, half: int, seed: int, device: str | torch.device
) -> Callable[[], Tensor]:
    """Draws ``half`` positive and ``half`` negative frames and returns their cross entropy, a scalar."""
    generator = torch.Generator().manual_seed(seed)
    positive, negative = frames.label.nonzero().squeeze(1), (~frames.label).nonzero().squeeze(1)
    target = torch.cat((torch.ones(half), torch.zeros(half))).to(device)

    def loss() -> Tensor:
        rows = [kind[torch.randint(len(kind), (half,), generator=generator)] for kind in (positive, negative)]
        logit = detector(frames.features[torch.cat(rows)].to(device))
        return F.binary_cross_entropy_with_logits(logit, target)

    return loss


def _metrics(flagged: Tensor, frames: _Frames) -> dict[str, Any]:
    true_positive = float(flagged[frames.label].float().mean())
    false_positive = float(flagged[~frames.label].float().mean())
    failed = frames.episode[frames.failed].unique()
    flagged_failed = frames.episode[frames.failed & flagged].unique()
    return {
        "balanced_accuracy": (true_positive + 1 - false_positive) / 2,
        "true_positive_rate": true_positive,
        "false_positive_rate": false_positive,
        "false_positive_rate_failed_frames": float(flagged[frames.failed].float().mean()) if len(failed) else None,
        "false_positive_rate_failed_episodes": len(flagged_failed) / len(failed) if len(failed) else None,
        "positive_frames": int(frames.label.sum()),
        "negative_frames": int((~frames.label).sum()),
    }
