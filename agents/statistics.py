"""Intervals for success rates and for differences between policies; all 95 % by default, all deterministic."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a success rate.

    Args:
        successes: episodes that succeeded, 0..n.
        n: episodes, at least 1.
        confidence: of the two-sided interval.

    Returns:
        (low, high), both in [0, 1].

    Example:
        >>> low, high = wilson_interval(8, 10)
        >>> round(low, 3), round(high, 3)
        (0.49, 0.943)

    Raises:
        ValueError: n is not positive, or successes is outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson_interval needs 0 <= successes <= n and n >= 1, got successes={successes}, n={n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # at rates of 0 and 1 the bound is exactly the rate; rounding must not push it past
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return low, high


def bootstrap_mean(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ``values`` (n,) with a percentile bootstrap interval: (mean, low, high).

    With one value the interval is that value. The same seed gives the same interval.

    Raises:
        ValueError: no values, more than one dimension, or a value that is not finite.
    """
    sample = _finite_vector(values, "values")
    generator = np.random.default_rng(seed)
    # resamples in blocks, so that many values do not need much memory
    block = max(1, 1_000_000 // len(sample))
    means = np.concatenate(
        [
            sample[generator.integers(len(sample), size=(min(block, resamples - start), len(sample)))].mean(1)
            for start in range(0, resamples, block)
        ]
    )
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(sample.mean()), float(low), float(high)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ``a - b`` over pairs with a bootstrap interval: (mean difference, low, high).

    Args:
        a: (n,) outcomes of one policy, bool or float, by initial state.
        b: (n,) outcomes of another policy on the same initial states, in the same order.
        confidence: of the two-sided interval.
        resamples: bootstrap resamples; whole pairs are drawn.
        seed: of the resampling.

    Raises:
        ValueError: the two differ in length, are empty, or hold values that are not finite.
    """
    first, second = _finite_vector(a, "a"), _finite_vector(b, "b")
    if len(first) != len(second):
        raise ValueError(
            f"paired outcomes must come from the same episodes, got {len(first)} and {len(second)}; "
            "evaluate both policies with the same seed_start and episodes"
        )
    return bootstrap_mean(first - second, confidence=confidence, resamples=resamples, seed=seed)


def _finite_vector(values: ArrayLike, name: str) -> np.ndarray:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise ValueError(f"{name} must be a non-empty 1-D sequence of finite numbers, got shape {vector.shape}")
    return vector


def seeds_and_states(
    outcomes: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of outcomes with an interval over training seeds and initial states alike: (mean, low, high).

    Both are resampled with replacement, so that few seeds or few states widen the interval. Of differences between two
    methods on the same states it is the paired interval.

    Args:
        outcomes: (S, N) outcomes, or differences, by training seed and initial state.
        confidence: of the two-sided interval.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: not two-dimensional, empty, or not finite.
    """
    table = np.asarray(outcomes, dtype=np.float64)
    means = resampled_means(table, resamples=resamples, seed=seed)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(table.mean()), float(low), float(high)


def resampled_means(outcomes: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """Means ``(resamples,)`` of a table (S, N) whose rows and columns are both resampled with replacement.

    Tables of one shape and seed are resampled alike, so that ratios and differences of their means stay paired.

    Raises:
        ValueError: not two-dimensional, empty, or not finite.
    """
    table = np.asarray(outcomes, dtype=np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"outcomes must be a non-empty (seeds, states) table of finite numbers, not {table.shape}")
    generator = np.random.default_rng(seed)
    rows = generator.integers(table.shape[0], size=(resamples, table.shape[0]))
    columns = generator.integers(table.shape[1], size=(resamples, table.shape[1]))
    # Share of the table's cells that each resample holds: weights of rows times weights of columns.
    row_weights = np.stack([(rows == index).mean(axis=1) for index in range(table.shape[0])], axis=1)
    column_weights = np.apply_along_axis(np.bincount, 1, columns, minlength=table.shape[1]) / table.shape[1]
    return np.einsum("rs,sn,rn->r", row_weights, table, column_weights, optimize=True)


# 97.5 % quantiles of Student's t distribution for 1 to 9 degrees of freedom.
_STUDENT_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


def mean_over_seeds(values: ArrayLike) -> tuple[float, float, float]:
    """Mean of one value per training seed with its 95 % Student t interval: (mean, low, high).

    For 2 to 10 seeds. A bootstrap interval of three values hardly leaves their range: where there is no difference, one
    of eight times all three are gains by chance, and it would exclude zero.

    Example:
        >>> [round(value, 2) for value in mean_over_seeds([1.0, 2.0, 3.0])]
        [2.0, -0.48, 4.48]

    Raises:
        ValueError: fewer than 2 or more than 10 values, or one that is not finite.
    """
    sample = _finite_vector(values, "values")
    if not 2 <= len(sample) <= len(_STUDENT_T) + 1:
        raise ValueError(f"mean_over_seeds takes 2 to {len(_STUDENT_T) + 1} seeds, got {len(sample)}")
    half = _STUDENT_T[len(sample) - 2] * sample.std(ddof=1) / np.sqrt(len(sample))
    return float(sample.mean()), float(sample.mean() - half), float(sample.mean() + half)
