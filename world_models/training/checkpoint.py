"""Checkpoints of trainings as safetensors: optimiser states as named tensors, and the file of a stage."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from world_models.dataclass_reader import check_ranges, read_dataclass
from world_models.files import check_tensors, json_text, parse_json, read_metadata, read_tensors, save_tensors
from world_models.training.weight_average import WeightAverage

FIX = "delete it to train this stage anew"
"""What is left to do about a damaged stage."""


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as named tensors."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(value) for index, row in state.items() for name, value in row.items()}


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], *, source: str, fix: str
) -> None:
    """Give an optimiser of the same parameters the state that :func:`optimiser_tensors` took.

    Raises:
        ValueError: the tensors, of the file ``source``, are no such state; the message ends with ``fix``.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    split = [(*key.partition(".")[::2], value) for key, value in tensors.items()]
    names = {name for _, name, _ in split}
    expected = {
        f"{index}.{name}": torch.empty(() if name == "step" else parameter.shape, device="meta", dtype=torch.float32)
        for index, parameter in enumerate(parameters)
        if any(f"{index}.{name}" in tensors for name in names)
        for name in names
    }
    check_tensors(tensors, expected, source=source, fix=fix, exact=True)
    state: dict[int, dict[str, Tensor]] = {}
    for index, name, value in split:
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


@dataclass
class Progress:
    """How far a stage has come: iterations done, seconds spent, scalars of the last validation."""

    iteration: int
    seconds: float
    metrics: dict[str, float]


@dataclass
class _Saved:
    """The same as JSON keeps it."""

    iteration: int
    seconds: float
    metrics: dict[str, float | None]

    def __post_init__(self) -> None:
        check_ranges(self, iteration=(0, 10**12), seconds=(0, 1e12))


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
        metadata = {"identity": self._identity, "state": json_text(vars(progress))}
        save_tensors(self._path, tensors, metadata)

    def restore(self, module: nn.Module, average: WeightAverage, optimiser: torch.optim.Optimizer) -> Progress:
        """Give module, average and optimiser what the file holds; nothing happens where there is no file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is of another identity, or damaged.
        """
        path = self._path
        if not os.path.lexists(path):  # a folder or a broken link in its place is refused below
            return Progress(0, 0.0, {})
        metadata = read_metadata(path, fix=FIX)
        if "identity" not in metadata or "state" not in metadata:
            raise ValueError(f"{path} says neither of what stage it is nor how far it came; {FIX}")
        if metadata["identity"] != self._identity:
            raise ValueError(
                f"{path} was trained with other settings or on other data than this run asks for, or with "
                "batches in another number of parts (micro_batches, or processes where these are more); choose "
                f"another --out, or delete that file to train the stage {self._name} anew"
            )
        saved = read_dataclass(
            _Saved, parse_json(metadata["state"], source=str(path), fix=FIX), source=str(path), fix=FIX
        )
        tensors = read_tensors(path, fix=FIX)
        optimised = {name: tensor for name, tensor in tensors.items() if name.startswith("optimiser.")}
        expected = {f"average.{name}": tensor for name, tensor in average.tensors.items()} | optimised
        finished = not optimised and not any(name.startswith("module.") for name in tensors)
        if not finished:
            expected |= {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        check_tensors(tensors, expected, source=str(path), fix=FIX, exact=True)
        if not finished:
            state = {name.removeprefix("optimiser."): tensor for name, tensor in optimised.items()}
            restore_optimiser(optimiser, state, source=str(path), fix=FIX)
            module.load_state_dict({name: tensors[f"module.{name}"] for name in module.state_dict()})
        for name, tensor in average.tensors.items():
            tensor.copy_(tensors[f"average.{name}"])
        metrics = {name: math.nan if value is None else value for name, value in saved.metrics.items()}
        return Progress(saved.iteration, saved.seconds, metrics)
