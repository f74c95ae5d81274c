"""Infos as Gymnasium's vector environments give them: an array for each key, and a mask of the slots that have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    """A tensor, or a dict of them at any depth, on the host; ``final_obs`` becomes Gymnasium's object array."""
    if not isinstance(values, dict):
        return values.cpu().numpy()
    arrays = {key: to_numpy(value) for key, value in values.items()}
    if "final_obs" in arrays:
        arrays["final_obs"] = by_slot(arrays["final_obs"], arrays["_final_obs"])
    return arrays
