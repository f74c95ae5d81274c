"""Checkpoints of trainings as safetensors: optimiser states as named tensors, and the file of a stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from world_models.files import save_tensors
from world_models.training.weight_average import WeightAverage


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as named tensors."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(value) for index, row in state.items() for name, value in row.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser of the same parameters the state that :func:`optimiser_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


@dataclass
class Progress:
    """How far a stage has come: iterations done, seconds spent, scalars of the last validation."""

    iteration: int
    seconds: float
    metrics: dict[str, float]


class StageCheckpoint:
    """The one file of a stage: what an interrupted training goes on from, then its result.

    Args:
        path: of the file.
        name: of the stage.
        identity: everything that the result depends on; a file of another identity is refused.
    """

    def __init__(self, path: Path, name: str, identity: dict[str, Any]) -> None:
        self._path, self._name = path, name
        self._identity = json.dumps(identity, sort_keys=True, default=str)

    def save(
        self, progress: Progress, module: nn.Module, average: WeightAverage, optimiser: torch.optim.Optimizer | None
    ) -> None:
        """Write it atomically; without an optimiser the average alone, which is a finished stage's result."""
        tensors = {f"average.{key}": tensor for key, tensor in average.tensors.items()}
        if optimiser is not None:
            tensors |= {f"module.{key}": tensor for key, tensor in module.state_dict().items()}
            tensors |= {f"optimiser.{key}": tensor for key, tensor in optimiser_tensors(optimiser).items()}
        metadata = {"identity": self._identity, "state": json.dumps(vars(progress))}
        save_tensors(self._path, tensors, metadata)

    def restore(self, module: nn.Module, average: WeightAverage, optimiser: torch.optim.Optimizer) -> Progress:
        """Give module, average and optimiser what the file holds; nothing happens where there is no file.

        Raises:
            ValueError: the file is of another identity.
        """
        if not self._path.is_file():
            return Progress(0, 0.0, {})
        with safe_open(self._path, "pt") as file:
            metadata = file.metadata()
            if metadata["identity"] != self._identity:
                raise ValueError(
                    f"{self._path} was trained with other settings or on other data than this run asks for, or with "
                    "batches in another number of parts (micro_batches, or processes where these are more); choose "
                    f"another --out, or delete that file to train the stage {self._name} anew"
                )
            progress = Progress(**json.loads(metadata["state"]))
            groups: dict[str, dict[str, Tensor]] = {"average": {}, "module": {}, "optimiser": {}}
            for key in file.keys():
                group, rest = key.split(".", 1)
                groups[group][rest] = file.get_tensor(key)
        for key, tensor in groups["average"].items():
            average.tensors[key].copy_(tensor)
        if groups["module"]:
            module.load_state_dict(groups["module"])
            restore_optimiser(optimiser, groups["optimiser"])
        return progress
