"""Actions of any robot, in degrees, metres or encoder counts, to [-1, 1] and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from world_models.data.motion import moving_dimensions

ScaleName = Literal["minmax", "quantile", "none"]
_QUANTILES = (0.01, 0.99)


@dataclass(frozen=True)
class ActionScale:
    """How a world's A action dimensions stand for the N dimensions of its robot.

    Attributes:
        dimensions: which of the robot's dimensions a world's actions set, A indices, ascending.
        low, high: the robot's values at -1 and at 1, A numbers each.
        rest: the values that the robot's other dimensions keep, N numbers; those of ``dimensions`` are not used.

    Raises:
        ValueError: the sizes do not agree, an index is not there, or a range is empty.
    """

    dimensions: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    rest: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.dimensions) == len(self.low) == len(self.high) or not self.dimensions:
            raise ValueError(
                f"an action scale has {len(self.dimensions)} dimensions, {len(self.low)} low and {len(self.high)} high "
                "values; it must have as many of each, and at least one"
            )
        if sorted(set(self.dimensions)) != list(self.dimensions) or not 0 <= self.dimensions[-1] < len(self.rest):
            raise ValueError(
                f"an action scale has dimensions {self.dimensions} of {len(self.rest)}; they must ascend within these"
            )
        for index, low, high in zip(self.dimensions, self.low, self.high, strict=True):
            if not low < high:
                raise ValueError(f"an action scale has the range {low} to {high} in dimension {index}; it is empty")

    def from_robot(self, actions: np.ndarray) -> np.ndarray:
        """The robot's actions ``(..., N)`` to a world's ``(..., A)`` float32, clipped to [-1, 1].

        Raises:
            ValueError: they have another number of dimensions.
        """
        actions = np.asarray(actions, dtype=np.float64)
        if actions.shape[-1:] != (len(self.rest),):
            raise ValueError(f"actions have shape {actions.shape}; the robot takes (..., {len(self.rest)})")
        low, high = np.array(self.low), np.array(self.high)
        scaled = 2 * (actions[..., list(self.dimensions)] - low) / (high - low) - 1
        return np.clip(scaled, -1, 1).astype(np.float32)

    def to_robot(self, actions: np.ndarray) -> np.ndarray:
        """A world's actions ``(..., A)`` to the robot's ``(..., N)`` float64; dimensions that a world lacks rest.

        Raises:
            ValueError: they have another number of dimensions.
        """
        actions = np.asarray(actions, dtype=np.float64)
        if actions.shape[-1:] != (len(self.dimensions),):
            raise ValueError(f"actions have shape {actions.shape}; this world's are (..., {len(self.dimensions)})")
        low, high = np.array(self.low), np.array(self.high)
        robot = np.broadcast_to(np.array(self.rest), (*actions.shape[:-1], len(self.rest))).copy()
        robot[..., list(self.dimensions)] = low + (actions + 1) / 2 * (high - low)
        return robot


def fit_action_scale(episodes: Sequence[np.ndarray], method: ScaleName) -> ActionScale | None:
    """The scale of a robot's actions, without the dimensions that do not move, or hardly.

    Args:
        episodes: actions ``(T, N)`` of each training episode, in the robot's units.
        method: "minmax" takes the least and the largest value to -1 and 1, "quantile" the 1 % and the 99 % quantile
            (for actions with outliers, which are clipped), "none" nothing.

    Returns:
        None for "none".

    Raises:
        ValueError: no dimension moves.
    """
    if method == "none":
        return None
    dimensions, actions = moving_dimensions(episodes), np.concatenate(episodes)
    if not dimensions:
        raise ValueError(f"none of the {actions.shape[1]} action dimensions moves: no world can be learned of that")
    chosen = actions[:, list(dimensions)].astype(np.float64)
    low, high = chosen.min(axis=0), chosen.max(axis=0)
    if method == "quantile":
        inner = np.quantile(chosen, _QUANTILES, axis=0)
        good = inner[0] < inner[1]  # of a gripper that is nearly always open both are the same
        low, high = np.where(good, inner[0], low), np.where(good, inner[1], high)
    rest = np.median(actions.astype(np.float64), axis=0)
    return ActionScale(dimensions, *(tuple(map(float, values)) for values in (low, high, rest)))
