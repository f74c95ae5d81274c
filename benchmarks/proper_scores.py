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
