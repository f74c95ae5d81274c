"""Actions for the simulator: checked, and brought within the bounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from rla_gym.arguments import brief


def checked_actions(actions: Any, shape: tuple[int, ...], meaning: str, out_of_bounds: str = "clip") -> np.ndarray:
    """Actions as a float array within [-1, 1].

    Args:
        actions: float array or tensor, (B, ...).
        shape: what their shape must be.
        meaning: of that shape, for the error.
        out_of_bounds: "clip" what lies outside [-1, 1] to it, or "raise" an error.

    Raises:
        ValueError: another shape or dtype, NaN or infinity, or beyond the bounds where these raise.
    """
    if hasattr(actions, "detach"):  # a tensor, so torch is there
        from rla_gym.arrays import array_or_tensor

        actions = array_or_tensor("actions", actions)
        actions = (actions.float() if actions.is_floating_point() else actions).cpu()
    if isinstance(actions, np.ma.MaskedArray):
        raise ValueError("actions: a masked array: give a plain one, with numbers everywhere")
    try:
        array = np.asarray(actions)
    except (ValueError, TypeError) as problem:  # ragged lists
        raise ValueError(f"actions={brief(actions)} is no array: give a NumPy array or a torch tensor") from problem
    if array.shape != shape:
        raise ValueError(f"actions have shape {array.shape}, expected {shape} = {meaning}")
    if array.dtype.kind != "f":
        raise ValueError(f"actions have dtype {array.dtype}: convert them to float32")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"actions{_simulator(bad[0])} hold NaN or infinity at index {bad[0][-1]}: look for a diverged policy"
        )
    outside = np.argwhere(np.abs(array) > 1.0) if out_of_bounds == "raise" else bad
    if len(outside):
        raise ValueError(
            f"actions{_simulator(outside[0])} reach {array[tuple(outside[0])]:g} at index {outside[0][-1]}: keep them "
            "within [-1, 1], or make the environment with out_of_bounds='clip'"
        )
    return np.clip(array, -1.0, 1.0)


def _simulator(place: np.ndarray) -> str:
    return f" of simulator {place[0]}" if len(place) > 1 else ""
