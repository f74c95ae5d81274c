"""Checks of constructor arguments: each raises one ValueError that names the argument, its value and the mend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def one_of(name: str, value: Any, choices: Sequence[Any]) -> None:
    """ValueError unless ``value`` is among ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(repr, choices))}")


def at_least(name: str, value: int | None, least: int) -> None:
    """ValueError unless ``value`` is None or an integer from ``least`` on."""
    if value is not None and value < least:
        raise ValueError(f"{name}={value} must be at least {least}")


def usable_device(device: str | torch.device) -> torch.device:
    """The torch device, with its index where it has one; ValueError if it is not usable here."""
    try:
        return torch.zeros((), device=device).device
    except (RuntimeError, AssertionError) as problem:
        raise ValueError(f"device={str(device)!r} is not usable here ({problem}): use device='cpu'") from problem
