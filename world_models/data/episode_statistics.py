"""Per-feature statistics of episodes, in the form that LeRobotDataset v3.0 keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
STATISTICS_FRAMES = 32


def column_statistics(values: np.ndarray) -> dict[str, list[Any]]:
    """Statistics over the rows of `values` (T,) or (T, D): lists of length 1 or D, "count" of length 1."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    statistics = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    statistics |= dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))
    return {name: value.tolist() for name, value in statistics.items()} | {"count": [len(rows)]}


def image_statistics(frames: np.ndarray) -> dict[str, list[Any]]:
    """Statistics per colour over evenly spaced frames of (T, H, W, 3) uint8: nested lists (3, 1, 1) in [0, 1]."""
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), STATISTICS_FRAMES)).round().astype(int)
    levels = np.arange(256) / 255.0
    colours = []
    for colour in range(3):  # a histogram of 256 levels has it all, and is cheaper than sorting the pixels
        histogram = np.bincount(frames[chosen, :, :, colour].ravel(), minlength=256)
        share = histogram / histogram.sum()
        present, mean = levels[histogram > 0], share @ levels
        cumulative = np.cumsum(share)
        places = np.searchsorted(cumulative, list(QUANTILES.values())).clip(max=255)
        quantiles = dict(zip(QUANTILES, levels[places], strict=True))
        spread = np.sqrt(share @ (levels - mean) ** 2)
        colours.append({"min": present[0], "max": present[-1], "mean": mean, "std": spread, **quantiles})
    statistics: dict[str, list[Any]] = {name: [[[float(c[name])]] for c in colours] for name in colours[0]}
    return statistics | {"count": [len(chosen)]}


def merge_statistics(parts: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """The statistics of all episodes together from those of each; quantiles are averaged, as lerobot does."""
    arrays = {name: np.array([part[name] for part in parts], np.float64) for name in parts[0]}
    count = arrays["count"].reshape(-1, *[1] * (arrays["mean"].ndim - 1))
    weight = count / count.sum()
    mean = (weight * arrays["mean"]).sum(0)
    merged = {
        "min": arrays["min"].min(0),
        "max": arrays["max"].max(0),
        "mean": mean,
        "std": np.sqrt((weight * (arrays["std"] ** 2 + (arrays["mean"] - mean) ** 2)).sum(0)),
    }
    merged |= {name: (weight * arrays[name]).sum(0) for name in QUANTILES}
    return {name: value.tolist() for name, value in merged.items()} | {"count": [int(arrays["count"].sum())]}


def shift_statistics(statistics: dict[str, list[Any]], offset: int) -> None:
    """Adds `offset` to every statistic of a column that moves with it."""
    for name in ("min", "max", "mean", *QUANTILES):
        statistics[name] = [value + offset for value in statistics[name]]
