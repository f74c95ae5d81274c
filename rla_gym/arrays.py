"""Arrays that users hand in, NumPy's or torch's: checked, and copied into tensors whatever their layout in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rla_gym.arguments import brief

_NUMPY_TYPES = {torch.float32: np.float32, torch.int64: np.int64, torch.uint8: np.uint8, torch.bool: np.bool_}
_KINDS = {
    "f": (torch.float16, torch.bfloat16, torch.float32, torch.float64),
    "i": (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    "b": (torch.bool,),
}


def array_or_tensor(name: str, value: Any) -> np.ndarray | Tensor:
    """What ``value`` holds, as an array, or as the tensor that it is; nothing is copied where it need not be.

    Raises:
        ValueError: a tensor that is not dense or holds no data, a masked array, or nested sequences that are no array.
    """
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_nested or value.is_quantized or value.device.type == "meta":
            raise ValueError(
                f"{name}: a tensor of {value.layout} and {value.dtype} on {value.device}: give a dense tensor with data"
            )
        return value.detach()
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name}: a masked array: give a plain one, with numbers everywhere")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as problem:  # ragged lists, and lists of tensors on a GPU
        raise ValueError(f"{name}={brief(value)} is no array: give a NumPy array or a torch tensor") from problem


def is_kind(array: np.ndarray | Tensor, kinds: str) -> bool:
    """Whether the array's numbers are of one of these NumPy kinds: "f" floats, "i" integers, "b" bools."""
    if isinstance(array, Tensor):
        return any(array.dtype in _KINDS[kind] for kind in kinds)
    return array.dtype.kind.replace("u", "i") in kinds


def as_tensor(array: np.ndarray | Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of ``dtype``: a copy of an array of any strides and byte order; a tensor stays on its device."""
    if isinstance(array, Tensor):
        return array.to(dtype)
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which is for the caller to refuse
        return torch.from_numpy(np.array(array, _NUMPY_TYPES[dtype], order="C"))
