"""Checkpoints of PPO: what a run goes on from, and whether it is the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from world_models.files import save_tensors
from world_models.training.checkpoint import optimiser_tensors, restore_optimiser

Parts = dict[str, nn.Module | torch.optim.Optimizer]
"""Networks and optimisers by name."""
FREE = {"out", "iterations", "seconds", "resume", "overwrite", "progress", "keep_policies", "device", "policy"}
"""Settings that may change when a run goes on: its length, its folders, its device, what it reports and keeps."""


def save_checkpoint(path: Path, parts: Parts, settings: dict[str, Any], state: dict[str, Any]) -> None:
    """Write networks, optimisers, the run's settings and ``state`` to one file; the last two as JSON."""
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        content = part.state_dict() if isinstance(part, nn.Module) else optimiser_tensors(part)
        tensors |= {f"{name}.{key}": value for key, value in content.items()}
    save_tensors(path, tensors, {"state": json.dumps({**state, "config": settings})})


def load_checkpoint(path: Path, parts: Parts, settings: dict[str, Any]) -> dict[str, Any]:
    """Give networks and optimisers what :func:`save_checkpoint` wrote; returns the ``state``.

    Raises:
        ValueError: the file is no checkpoint, or is of a run with other settings than these, :data:`FREE` ones aside.
    """
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
        tensors = load_file(path)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no PPO checkpoint ({error}); start anew with --overwrite") from error
    _check_same_run(settings, state["config"], path)
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            part.load_state_dict(_part(tensors, name))
        else:
            restore_optimiser(part, _part(tensors, name))
    return state


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def _check_same_run(settings: dict[str, Any], saved: dict[str, Any], checkpoint: Path) -> None:
    changed = {
        name: (saved.get(name), value)
        for name, value in settings.items()
        if name not in FREE and (name not in saved or saved[name] != value)
    }
    if changed:
        listed = ", ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in changed.items())
        raise ValueError(
            f"{checkpoint} is of another run: {listed}; use the same settings, --overwrite or another --out"
        )
