"""Checkpoints of PPO: what a run goes on from, and whether it is the same run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from world_models.dataclass_reader import check_ranges, read_dataclass
from world_models.files import check_tensors, json_text, parse_json, read_metadata, read_tensors, save_tensors
from world_models.training.checkpoint import optimiser_tensors, restore_optimiser

Parts = dict[str, nn.Module | torch.optim.Optimizer]
"""Networks and optimisers by name."""
FIX = "start anew with --overwrite"
FREE = {"out", "iterations", "seconds", "resume", "overwrite", "progress", "keep_policies", "device", "policy"}
"""Settings that may change when a run goes on: its length, its folders, its device, what it reports and keeps."""


@dataclass(frozen=True)
class _State:
    """What a checkpoint's header says."""

    iteration: int
    seconds: float
    history: list[dict[str, float | None]]
    config: dict[str, Any]

    def __post_init__(self) -> None:
        check_ranges(self, iteration=(0, 10**12), seconds=(0, 1e12))
        if len(self.history) != self.iteration:
            raise ValueError(f"history has {len(self.history)} rows of {self.iteration} iterations")


def save_checkpoint(path: Path, parts: Parts, settings: dict[str, Any], state: dict[str, Any]) -> None:
    """Write networks, optimisers, the run's settings and ``state`` to one file; the last two as JSON."""
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        content = part.state_dict() if isinstance(part, nn.Module) else optimiser_tensors(part)
        tensors |= {f"{name}.{key}": value for key, value in content.items()}
    save_tensors(path, tensors, {"state": json_text({**state, "config": settings})})


def load_checkpoint(path: Path, parts: Parts, settings: dict[str, Any]) -> dict[str, Any]:
    """Give networks and optimisers what :func:`save_checkpoint` wrote; returns the ``state``.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or is of a run with other settings than these, :data:`FREE` ones aside.
    """
    text = read_metadata(path, fix=FIX).get("state")
    if text is None:
        raise ValueError(f"{path} is no PPO checkpoint; {FIX}")
    state = read_dataclass(_State, parse_json(text, source=str(path), fix=FIX), source=str(path), fix=FIX)
    _check_same_run(settings, state.config, path)
    tensors = read_tensors(path, fix=FIX)
    unknown = sorted({key.split(".")[0] for key in tensors} - set(parts))
    if unknown:
        raise ValueError(f"{path}: {unknown[0]!r:.80} is no part of a PPO run; {FIX}")
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            weights = _part(tensors, name)
            check_tensors(weights, part.state_dict(), source=f"{path}: {name}", fix=FIX, exact=True)
            part.load_state_dict(weights)
        else:
            restore_optimiser(part, _part(tensors, name), source=f"{path}: {name}", fix=FIX)
    return vars(state)


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def _check_same_run(settings: dict[str, Any], saved: dict[str, Any], checkpoint: Path) -> None:
    changed = {
        name: (saved.get(name), value)
        for name, value in settings.items()
        if name not in FREE and (name not in saved or saved[name] != value)
    }
    if changed:
        listed = ", ".join(f"{name} was {old!r:.80}, is {new!r:.80}" for name, (old, new) in changed.items())
        raise ValueError(
            f"{checkpoint} is of another run: {listed}; use the same settings, --overwrite or another --out"
        )
