"""Checks of arguments: each raises one ValueError that names the argument, its value and the fix."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

OUT_OF_BOUNDS = ("clip", "raise")
OUTPUTS = ("numpy", "torch")
RENDER_MODES = (None, "rgb_array")


def one_of(choices: Sequence[Any], **arguments: Any) -> None:
    """ValueError unless the value of every argument is among ``choices``."""
    for name, value in arguments.items():
        if value not in choices:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(repr, choices))}")


def at_least(least: float, **arguments: float | None) -> None:
    """ValueError unless the value of every argument is None or a number from ``least`` on."""
    for name, value in arguments.items():
        if value is not None and value < least:
            raise ValueError(f"{name}={value} must be at least {least}")


def usable_device(device: str | torch.device) -> torch.device:
    """The torch device, with its index where it has one; ValueError if it is not usable here."""
    import torch  # here, for simulators that hand out pictures alone do without it

    try:
        return torch.zeros((), device=device).device
    except (RuntimeError, AssertionError) as problem:
        raise ValueError(f"device={str(device)!r} is not usable here ({problem}): use device='cpu'") from problem


def checked_seeds(seed: Any, num_envs: int) -> list[int | None]:
    """One seed or None for each slot, from an int, None, or one of these for each slot.

    Raises:
        ValueError: the number of seeds is wrong, or one is negative.
        TypeError: one is no integer.
    """
    several = isinstance(seed, Sequence | np.ndarray)
    seeds = [None if one is None else operator.index(one) for one in (seed if several else [seed] * num_envs)]
    if len(seeds) != num_envs:
        raise ValueError(f"{len(seeds)} seeds for {num_envs} slots: give one int, or one per slot")
    if any(one is not None and one < 0 for one in seeds):
        raise ValueError(f"seeds {seeds}: give integers from 0 on")
    return seeds
