"""Checks of constructor arguments: each raises one ValueError that names the argument, its value and the mend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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


def at_least(least: int, **arguments: int | None) -> None:
    """ValueError unless the value of every argument is None or an integer from ``least`` on."""
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
