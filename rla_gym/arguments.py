"""Checks of arguments: each raises one ValueError that names the argument, its value and the fix."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode

if TYPE_CHECKING:
    import torch

OUT_OF_BOUNDS = ("clip", "raise")
OUTPUTS = ("numpy", "torch")
RENDER_MODES = (None, "rgb_array")
LARGEST_BONUS = 1e6

BOUNDS: Mapping[str, tuple[int, int]] = {
    "num_envs": (1, 131_072),
    "first_slot": (0, 2**62),
    "slot": (0, 2**62),
    "chunk_length": (1, 1_000),
    "prediction_length": (1, 1_000),
    "max_chunks": (1, 1_000_000),
    "max_episode_steps": (1, 1_000_000),
    "solver_steps": (1, 1_000),
    "draws": (1, 1_000),
}
"""The least and the most of every integer argument, by its name: what allocates or loops must end."""


def integer(name: str, value: Any) -> int:
    """The value, NumPy's integers included and bools excluded, as an int within the argument's :data:`BOUNDS`."""
    least, most = BOUNDS[name]
    try:
        whole = _index(value)
    except (TypeError, RuntimeError) as problem:
        raise ValueError(f"{name}={brief(value)} must be an integer, at least {least}") from problem
    if not least <= whole <= most:
        bound = f"at least {least}" if whole < least else f"at most {most}"
        raise ValueError(f"{name}={brief(whole)} must be {bound}")
    return whole


def integer_or_none(name: str, value: Any) -> int | None:
    """None, or what :func:`integer` gives."""
    return None if value is None else integer(name, value)


def number(name: str, value: Any, least: float, most: float) -> float:
    """The value, NumPy's numbers included and bools excluded, as a float from ``least`` to ``most``; never NaN."""
    real = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if math.isnan(real):
        raise ValueError(f"{name}={brief(value)} must be a number, at least {least:g}")
    if not least <= real <= most:
        bound = f"at least {least:g}" if real < least else f"at most {most:g}"
        raise ValueError(f"{name}={brief(value)} must be {bound}")
    return real


def bonus(success_bonus: Any) -> float:
    """The bonus as a float, if it is a finite number of at most :data:`LARGEST_BONUS`, positive or negative."""
    return number("success_bonus", success_bonus, -LARGEST_BONUS, LARGEST_BONUS)


def flag(name: str, value: Any) -> bool:
    """The value as a bool, if it is one or NumPy's."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={brief(value)}: choose True or False")
    return bool(value)


def one_of(choices: Sequence[Any], **arguments: Any) -> None:
    """ValueError unless the value of every argument is among ``choices``, strings or None."""
    for name, value in arguments.items():
        if not isinstance(value, str | None) or value not in choices:
            raise ValueError(f"{name}={brief(value)}: choose one of {', '.join(map(repr, choices))}")


def text(**arguments: Any) -> None:
    """ValueError unless the value of every argument is a string."""
    for name, value in arguments.items():
        if not isinstance(value, str):
            raise ValueError(f"{name}={brief(value)}: give a name, a string")


def autoreset_of(mode: AutoresetMode | str) -> AutoresetMode:
    """Gymnasium's autoreset mode from itself or its string; ValueError if there is no such mode."""
    if not isinstance(mode, AutoresetMode):
        one_of([known.value for known in AutoresetMode], autoreset_mode=mode)
    return AutoresetMode(mode)


def brief(value: Any) -> str:
    """The value in at most 80 characters on one line, for messages."""
    line = " ".join(repr(value).split())
    return line if len(line) <= 80 else f"{line[:77]}..."


def usable_device(device: str | torch.device) -> torch.device:
    """The torch device, with its index where it has one; ValueError if it is not usable here."""
    import torch  # here, for simulators that hand out pictures alone do without it

    try:
        if not isinstance(device, str | torch.device) or torch.device(device).type == "meta":
            raise TypeError("it is no device that computes")
        return torch.zeros((), device=device).device
    except (RuntimeError, AssertionError, AttributeError, ImportError, TypeError) as problem:
        reason = (str(problem).splitlines() or ["?"])[0][:150]
        raise ValueError(f"device={brief(str(device))} is not usable here ({reason}): use device='cpu'") from problem


def checked_seeds(seed: Any, num_envs: int) -> list[int | None]:
    """One seed or None for each slot, from an int, None, or one of these for each slot.

    Raises:
        ValueError: the number of seeds is wrong, or one is negative.
        TypeError: one is no integer.
    """
    try:
        given = seed.tolist() if hasattr(seed, "tolist") else seed  # NumPy's and torch's arrays and scalars
        several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
        seeds = [None if one is None else _index(one) for one in (given if several else [given] * num_envs)]
    except (TypeError, RuntimeError) as problem:
        raise TypeError(f"seed={brief(seed)}: give an integer from 0 on, None, or one of these per slot") from problem
    if len(seeds) != num_envs:
        raise ValueError(f"{len(seeds)} seeds for {num_envs} slots: give one int, or one per slot")
    if any(one is not None and one < 0 for one in seeds):
        raise ValueError(f"seeds {brief(seeds)}: give integers from 0 on")
    return seeds


def _index(value: Any) -> int:
    """``operator.index`` without bools; TypeError, or torch's RuntimeError, for what is no integer."""
    if isinstance(value, bool | np.bool_):
        raise TypeError("a bool is no integer here")
    return operator.index(value)
