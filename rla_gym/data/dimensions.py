"""What the numbers of all episodes are like: ranges, dimensions that do not move, and what a training makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rla_gym.data.problem_list import ProblemList
from world_models.data.motion import RULE, Motion, motions

CHUNK_LENGTH = 8
"""Actions in a chunk of a world, as `rla-gym train` has them by default."""
SHORTEST = 2 * CHUNK_LENGTH + 1
"""Fewest rows of an episode that holds two chunks: the last row's action has no following frame."""
_OUTLIERS = 3.0
"""Range, as a multiple of that between the 1 % and the 99 % quantile, beyond which a dimension has outliers."""


@dataclass(frozen=True)
class Dimension:
    """One dimension of actions or of proprioception over all episodes, in its owner's units.

    Attributes:
        name: as the dataset calls it.
        low, high: its range.
        q01, q99: its 1 % and 99 % quantiles.
        mean, std: of all rows.
        within: the range within an episode, the median of all episodes.
        motion: whether it is "constant", "hardly" moves or "moves", see :data:`world_models.data.motion.RULE`.
    """

    name: str
    low: float
    high: float
    q01: float
    q99: float
    mean: float
    std: float
    within: float
    motion: Motion

    @property
    def has_outliers(self) -> bool:
        """Whether few values stretch its range to several times what nearly all values need."""
        return self.q99 > self.q01 and self.high - self.low > _OUTLIERS * (self.q99 - self.q01)


def describe(names: Sequence[str], episodes: Sequence[np.ndarray]) -> list[Dimension]:
    """Describe the D dimensions of a column.

    Args:
        names: D names.
        episodes: arrays ``(T, D)`` of T of 1 or more; numbers that are not finite are left out.

    Returns:
        D descriptions; none where there is no episode, or a dimension without a single finite number.
    """
    if not episodes:
        return []
    everything = np.concatenate(episodes).astype(np.float64)
    everything[~np.isfinite(everything)] = np.nan
    if np.isnan(everything).all(axis=0).any():
        return []
    low, high = np.nanmin(everything, axis=0), np.nanmax(everything, axis=0)
    quantiles = np.nanquantile(everything, (0.01, 0.99), axis=0)
    words, within = motions(episodes)
    return [
        Dimension(
            name, float(low[d]), float(high[d]), float(quantiles[0, d]), float(quantiles[1, d]),
            float(np.nanmean(everything[:, d])), float(np.nanstd(everything[:, d])), float(within[d]),
            words[d],
        )
        for d, name in enumerate(names)
    ]  # fmt: skip


def scale_for(actions: Sequence[Dimension]) -> str | None:
    """The --action-scale that these actions need: "minmax", "quantile" for outliers; None for actions in [-1, 1]."""
    if all(dimension.low >= -1 and dimension.high <= 1 for dimension in actions):
        return None
    return "quantile" if any(d.has_outliers and d.motion == "moves" for d in actions) else "minmax"


def check_dimensions(what: str, dimensions: Sequence[Dimension], found: ProblemList) -> None:
    """Add to ``found`` the dimensions that do not move, and ranges that a training must scale.

    Args:
        what: "action" or "state".
        dimensions: of that column.
        found: gathers the problems.
    """
    count = len(dimensions)
    constant = [d.name for d in dimensions if d.motion == "constant"]
    hardly = [d.name for d in dimensions if d.motion == "hardly"]
    if what == "action" and constant and len(constant) == count:
        found.add(
            f"none of the {count} action dimensions ever changes", "record the actions that were sent to the robot"
        )
        return
    left_out = "nothing: training leaves out state values that do not move"
    if what == "action":
        left_out = "--action-scale minmax (or quantile) leaves them out"
    if constant:
        found.add(
            f"{len(constant)} of {count} {what} dimensions never change: {_some(constant)}", left_out, stops=False
        )
    if hardly:
        found.add(
            f"{len(hardly)} of {count} {what} dimensions hardly move: {_some(hardly)}"
            + (f" ({RULE})" if what == "action" else ""),
            "look at the histograms: an idle arm teaches a world nothing; --action-scale leaves these out"
            if what == "action"
            else left_out,
            stops=False,
        )
    scale = scale_for(dimensions)
    if what == "action" and scale is not None:
        outside = [d for d in dimensions if d.low < -1 or d.high > 1]
        widest = max(outside, key=lambda d: max(-d.low, d.high))
        outliers = [d.name for d in dimensions if d.has_outliers and d.motion == "moves"]
        found.add(
            f"{len(outside)} of {count} action dimensions go outside [-1, 1], {widest.name} from {widest.low:.4g} to "
            f"{widest.high:.4g}" + (f"; few values far off stretch {_some(outliers)}" if outliers else ""),
            f"--action-scale {scale}", stops=False,
        )  # fmt: skip


def check_finite(
    episode: int, column: str, names: Sequence[str], values: np.ndarray, found: ProblemList, *, stops: bool, fix: str
) -> None:
    """Add to ``found`` the first number of an episode's ``values (T, D)`` that is not finite as a 32-bit float."""
    with np.errstate(over="ignore"):
        wrong = ~np.isfinite(values.astype(np.float32))
    if wrong.any():
        row, dimension = (int(index[0]) for index in np.nonzero(wrong))
        first = (
            f"episode {episode}, frame {row}, {names[dimension]}: {values[row, dimension]}; {wrong.sum()} numbers there"
        )
        found.add_episode(episode, f"{column} has numbers that are not finite", fix, first=first, stops=stops)


def check_lengths(lengths: dict[int, int], found: ProblemList) -> None:
    """Add to ``found`` the episodes, index -> rows, that are too short, and whether they are too few."""
    short = {index: length for index, length in lengths.items() if length < SHORTEST}
    for index, length in short.items():
        found.add_episode(
            index, f"fewer than the {SHORTEST} rows of two chunks of {CHUNK_LENGTH} actions",
            "nothing for a few, which training passes over; for many a shorter --chunk-length",
            first=f"{length} rows", stops=len(short) == len(lengths),
        )  # fmt: skip
    few = len(lengths) - len(short)
    if few < 20:
        found.add(
            f"{few} episodes are long enough to train on; a tenth of them validates",
            "record more: 20 are few, 100 are better",
            stops=few < 4,  # of four, one validates and one is kept for reports
        )


def check_duplicates(episodes: dict[int, tuple[np.ndarray | None, ...]], found: ProblemList) -> None:
    """Add to ``found`` the episodes, index -> arrays, whose numbers are those of an earlier one."""
    first: dict[bytes, int] = {}
    for index, arrays in episodes.items():
        if all(array is None for array in arrays):
            continue
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            if array is not None:
                digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        if (earlier := first.setdefault(digest.digest(), index)) != index:
            what, fix = "the same actions and state as an earlier one", "leave the copies out: they only count twice"
            found.add_episode(index, what, fix, first=f"{index} is {earlier}", stops=False)


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
