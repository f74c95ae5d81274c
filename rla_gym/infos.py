"""Infos as Gymnasium's vector environments give them: an array for each key, and a mask of the slots that have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rla_gym.observations import by_slot


def masked(values: Mapping[str, Tensor], mask: Tensor) -> dict[str, Any]:
    """``{key: (B,), _key: (B,) bool}``: values are zero and masks False outside ``mask`` (B,) bool."""
    infos: dict[str, Any] = {}
    for key, value in values.items():
        infos[key] = torch.where(mask, value, torch.zeros_like(value))
        infos[f"_{key}"] = mask.clone()
    return infos


def final(observations: Any, infos: dict[str, Any], mask: Tensor) -> dict[str, Any]:
    """What same-step autoreset adds for the slots in ``mask``: their last observation (B, ...) and info."""
    return {
        "final_obs": observations,
        "_final_obs": mask.clone(),
        "final_info": infos,
        "_final_info": mask.clone(),
    }


def to_numpy(values: Any) -> Any:
    """A tensor, or a dict of them at any depth, on the host."""
    return {key: to_numpy(value) for key, value in values.items()} if isinstance(values, dict) else values.cpu().numpy()


def info_to_numpy(info: Mapping[str, Any]) -> dict[str, Any]:
    """Infos on the host, with the dtypes of Gymnasium's own vector environments: floats are float64, as Python's are,
    and ``final_obs`` is an object array."""
    arrays: dict[str, Any] = {}
    for key, value in info.items():
        if key == "final_obs":
            arrays[key] = by_slot(to_numpy(value), info["_final_obs"].cpu().numpy())
        elif isinstance(value, Mapping):
            arrays[key] = info_to_numpy(value)
        else:
            array = value.cpu().numpy()
            arrays[key] = array.astype(np.float64) if array.dtype == np.float32 else array
    return arrays
