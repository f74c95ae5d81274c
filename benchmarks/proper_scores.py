"""Proper scores of sampled predictions: only the true distribution minimises them in expectation."""

from __future__ import annotations

import torch
from torch import Tensor


def energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    """Energy score of S samples of each of B predictions, ``(B,)``: E |X - y| - E |X - X'| / 2, Euclidean.

    The multivariate form of the CRPS (Gneiting and Raftery 2007). The second mean is over pairs of different samples,
    so that the score does not depend on their number in expectation; of one sample it is the distance alone.

    Args:
        samples: ``(B, S, D)`` floating point.
        truth: ``(B, D)``.
    """
    distance = (samples - truth[:, None]).norm(dim=2).mean(dim=1)
    count = samples.shape[1]
    if count == 1:
        return distance
    between = torch.cdist(samples, samples).sum(dim=(1, 2)) / (count * (count - 1))
    return distance - 0.5 * between


def brier_score(probability: Tensor, happened: Tensor) -> Tensor:
    """Squared error of probabilities ``(B,)`` of events ``(B,)`` bool, ``(B,)``."""
    return (probability - happened.to(probability)).square()


def expected_calibration_error(probability: Tensor, happened: Tensor, bins: int = 10) -> float:
    """Mean distance between probability and frequency over bins of equal width, weighted by their counts.

    Args:
        probability: ``(B,)`` within [0, 1].
        happened: ``(B,)`` bool.
        bins: how many.
    """
    index = bins_of(probability, bins)
    gap = torch.zeros(bins, dtype=probability.dtype, device=probability.device)
    gap.index_add_(0, index, probability - happened.to(probability))
    return float(gap.abs().sum() / len(probability))


def bins_of(probability: Tensor, bins: int = 10) -> Tensor:
    """Number of the bin of equal width that each probability ``(B,)`` falls into, ``(B,)`` int64, 0 to bins - 1."""
    return (probability * bins).long().clamp(max=bins - 1)


def ranks(samples: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
    """How many of S samples ``(B, S)`` lie below the truth ``(B,)``, 0 to S; ties fall at random, ``(B,)`` int64."""
    below = (samples < truth[:, None]).sum(dim=1)
    ties = (samples == truth[:, None]).sum(dim=1)
    return below + (torch.rand(len(truth), generator=generator) * (ties + 1)).long()


def spread_skill(samples: Tensor, truth: Tensor) -> float:
    """Spread of S samples ``(B, S, D)`` over the error of their mean to ``(B, D)``; 1 where the samples are calibrated.

    Both are root mean squares over B; the factor for few samples is included.
    """
    count = samples.shape[1]
    variance = samples.var(dim=1).sum(dim=1).mean() * (count + 1) / count
    return float((variance / (samples.mean(dim=1) - truth).square().sum(dim=1).mean()).sqrt())


def energy_score_of_replays(samples: Tensor, replays: Tensor) -> Tensor:
    """Energy score of samples ``(B, S, D)``, mean over K true outcomes ``(B, K, D)`` of each prediction, ``(B,)``."""
    return torch.stack([energy_score(samples, truth) for truth in replays.unbind(dim=1)]).mean(dim=0)


def energy_score_floor(replays: Tensor, truth: Tensor) -> Tensor:
    """Energy score of each of K > 1 true outcomes by the other replays, mean over them, ``(B,)``.

    Args:
        replays: the K outcomes as they are read, ``(B, K, D)``.
        truth: the outcomes as they are, ``(B, K, D)``.
    """
    count = replays.shape[1]
    others = [replays[:, [j for j in range(count) if j != k]] for k in range(count)]
    return torch.stack([energy_score(rest, truth[:, k]) for k, rest in enumerate(others)]).mean(dim=0)
