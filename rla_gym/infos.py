"""Infos as Gymnasium's vector environments give them: an array for each key, and a mask of the slots that have it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def masked(values: dict[str, Tensor], mask: Tensor) -> dict[str, Any]:
    """``{key: (B,), _key: (B,) bool}``: values are zero and masks False outside ``mask`` (B,) bool."""
    infos: dict[str, Any] = {}
    for key, value in values.items():
        infos[key] = torch.where(mask, value, torch.zeros_like(value))
        infos[f"_{key}"] = mask.clone()
    return infos


def final(observations: Tensor, infos: dict[str, Any], mask: Tensor) -> dict[str, Any]:
    """What same-step autoreset adds for the slots in ``mask``: their last observation (B, ...) and info."""
    return {
        "final_obs": observations,
        "_final_obs": mask.clone(),
        "final_info": infos,
        "_final_info": mask.clone(),
    }


def to_numpy(infos: dict[str, Any]) -> dict[str, Any]:
    """The same infos on the host; ``final_obs`` becomes Gymnasium's object array, None where nothing ended."""
    arrays: dict[str, Any] = {
        key: to_numpy(value) if isinstance(value, dict) else value.cpu().numpy() for key, value in infos.items()
    }
    if "final_obs" in arrays:
        objects = np.full(len(arrays["final_obs"]), None, dtype=object)
        for slot in np.flatnonzero(arrays["_final_obs"]):
            objects[slot] = arrays["final_obs"][slot]
        arrays["final_obs"] = objects
    return arrays
