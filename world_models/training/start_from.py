"""Going on from a trained world: its weights, and what was spent on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from world_models.base import WorldModel
from world_models.config import FIX
from world_models.dataclass_reader import read_dataclass
from world_models.files import read_json
from world_models.io import load_model, read_config, world_folder
from world_models.training.optimisation import Scalars

EFFORT = ("seconds", "iterations", "training_petaflop")
"""Scalars of a stage that say what it took."""


@dataclass(frozen=True)
class Start:
    """What a training goes on from; by default nothing.

    Attributes:
        dynamics: names of those that have trained weights.
        metrics: scalars of each stage of the world.
    """

    dynamics: Collection[str] = ()
    metrics: Mapping[str, Scalars] = field(default_factory=dict)

    def with_effort(self, stage: str, scalars: Scalars) -> Scalars:
        """A stage's scalars; what was spent on the weights that it started from counts too."""
        before = self.metrics.get(stage, {})
        if scalars is before:
            return scalars
        return {name: value + before.get(name, 0.0) * (name in EFFORT) for name, value in scalars.items()}


@dataclass(frozen=True)
class _Stages:
    """What ``training.json`` says of a world's stages."""

    metrics: dict[str, dict[str, float | None]]


def start_from(world: str, models: dict[str, WorldModel]) -> Start:
    """Give models the weights of a world; dynamics that it lacks begin anew.

    Raises:
        FileNotFoundError, ValueError: there is no such world, or it has other sizes or lacks a part.
    """
    folder = world_folder(world)
    known = [name for name in read_config(folder).dynamics if name in models]
    for name in known:
        device = next(models[name].parameters()).device
        try:
            models[name].load_state_dict(load_model(folder, name, device).state_dict())
        except RuntimeError as error:
            raise ValueError(f"{folder} has other sizes than this training asks for: {error}") from error
    path = folder / "training.json"
    facts: dict[str, Any] = read_json(path, fix=FIX)
    content = {"metrics": facts.get("metrics")}
    metrics = read_dataclass(_Stages, content, source=str(path), fix=FIX).metrics
    return Start(
        known,
        {
            stage: {name: value for name, value in scalars.items() if value is not None}
            for stage, scalars in metrics.items()
        },
    )
