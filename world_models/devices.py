"""Torch devices by name, and what they can do."""

from __future__ import annotations

import numpy as np
import torch


def choose_device(name: str) -> torch.device:
    """``"auto"`` is cuda where there is one, else cpu; other names are torch's.

    From here on this process takes denormal numbers, those below 1e-38, as zero: processors compute many times slower
    with them, and averages of gradients that fade are full of them.

    Raises:
        ValueError: the name is no torch device, or it is cuda and torch sees none.
    """
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # numpy looks for the smallest number once, and warns if that is zero by then
    torch.set_flush_denormal(True)  # before torch starts its threads, which take the setting over
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is no torch device; use 'auto', 'cpu', 'cuda' or 'cuda:0'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r} was asked for, but torch sees no CUDA GPU; use device='cpu'")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bfloat16; without them these are slower than float32's."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and any(
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
