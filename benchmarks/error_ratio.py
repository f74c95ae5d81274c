"""One mean error over another, such as that of no change."""

from __future__ import annotations

import numpy as np

from agents.statistics import resampled_means

LEAST_ERROR = 1e-6
"""Errors count as at least this, so that a ratio to a scene in which nothing moved is a number."""


def error_ratio(ours: np.ndarray, theirs: np.ndarray, seed: int) -> tuple[float, np.ndarray]:
    """Ratio of the means of two tables of errors, and the resampled ratios ``(resamples,)`` of its interval.

    Args:
        ours, theirs: ``(S, N)`` by training seed and episode, which are resampled alike in both.
        seed: of the resampling.
    """
    ours, theirs = np.maximum(ours, LEAST_ERROR), np.maximum(theirs, LEAST_ERROR)
    samples = resampled_means(ours, seed=seed) / resampled_means(theirs, seed=seed)
    return float(ours.mean() / theirs.mean()), samples
