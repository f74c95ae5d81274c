"""Which dimensions of a robot's actions or proprioception move: an idle arm trembles, and teaches a world nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Motion = Literal["constant", "hardly", "moves"]
_HARDLY = 0.01
_TREMOR = 0.15
RULE = (
    f"hardly: within an episode it covers less than {_HARDLY:.0%} of what those that move most cover, and "
    "either less than half of its own whole range, or it only trembles"
)
"""When a dimension hardly moves, for people. The second part spares a gripper in metres beside joints in degrees."""


def motions(episodes: Sequence[np.ndarray]) -> tuple[list[Motion], np.ndarray]:
    """How each of D dimensions moves, see :data:`RULE`, and the range that it covers within the median episode.

    Args:
        episodes: arrays ``(T, D)``, T of 1 or more, at least one; numbers that are not finite are left out, and with
            them their episodes where ranges within one are taken.

    Returns:
        D words, and ``(D,)`` float64.
    """
    everything = np.concatenate(episodes).astype(np.float64)
    everything[~np.isfinite(everything)] = np.nan
    whole = np.nanmax(everything, axis=0) - np.nanmin(everything, axis=0)
    finite = [values.astype(np.float64) for values in episodes if np.isfinite(values).all()]
    within = np.median([np.ptp(values, axis=0) for values in finite], axis=0) if finite else whole
    changes = whole > 0
    wide = within[within >= _HARDLY * within.max()]  # a median over idle dimensions, too, would spare them
    typical = float(np.median(wide)) if changes.any() else 0.0
    # From step to step noise covers a good part of its range, and a motion little.
    steps = [np.abs(np.diff(values, axis=0)).mean(axis=0) for values in finite if len(values) > 1]
    trembles = np.median(steps, axis=0) > _TREMOR * within if steps else np.zeros(len(whole), bool)
    hardly = changes & (within < _HARDLY * typical) & ((within < 0.5 * whole) | trembles)
    words: list[Motion] = ["hardly" if hardly[d] else "moves" if changes[d] else "constant" for d in range(len(whole))]
    return words, within


def moving_dimensions(episodes: Sequence[np.ndarray]) -> tuple[int, ...]:
    """Indices of the dimensions that move, of episodes as :func:`motions` takes them."""
    return tuple(index for index, motion in enumerate(motions(episodes)[0]) if motion == "moves")
