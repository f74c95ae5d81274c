"""Checkpoints of PPO: what was written comes back, and a damaged one is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from agents.ppo_checkpoint import Parts, load_checkpoint, save_checkpoint
from world_models.training.checkpoint import optimiser_tensors

SETTINGS = {"num_envs": 4, "iterations": 3}
STATE = {"iteration": 1, "seconds": 0.5, "history": [{"iteration": 1, "losses/value": 0.25}]}


def trained(seed: int, steps: int = 1) -> Parts:
    torch.manual_seed(seed)
    policy = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(policy.parameters())
    for _ in range(steps):
        policy(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return {"policy": policy, "optimizer": optimizer}


def content(parts: Parts) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, part in parts.items()
        for key, value in (part.state_dict() if isinstance(part, nn.Module) else optimiser_tensors(part)).items()
    }


@pytest.mark.parametrize("steps", [0, 2])
def test_networks_optimisers_and_state_come_back(tmp_path: Path, steps: int) -> None:
    path, written, parts = tmp_path / "checkpoint.safetensors", trained(0, steps), trained(1, 0)
    save_checkpoint(path, written, SETTINGS, STATE)
    state = load_checkpoint(path, parts, {**SETTINGS, "iterations": 9})
    assert {name: state[name] for name in STATE} == STATE
    before, after = content(written), content(parts)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def put(name: str, value: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor], dict[str, Any]], Any]:
    return lambda tensors, state: tensors.update({name: value(tensors[name])})


DAMAGE: dict[str, tuple[Callable[[dict[str, Tensor], dict[str, Any]], Any], str]] = {
    "NaN": (put("policy.weight", lambda tensor: tensor * torch.nan), "'policy.weight' has NaN"),
    "shape": (put("policy.bias", lambda tensor: tensor[:-1]), "'bias' has shape"),
    "dtype": (put("policy.bias", lambda tensor: tensor.int()), "'bias' has dtype"),
    "no weight": (lambda tensors, state: tensors.pop("policy.weight"), "'weight' is missing"),
    "moment's shape": (put("optimizer.0.exp_avg", lambda tensor: tensor[:, :1].contiguous()), "'0.exp_avg' has shape"),
    "no moment": (lambda tensors, state: tensors.pop("optimizer.1.exp_avg_sq"), "'1.exp_avg_sq' is missing"),
    "a name without a number": (
        lambda tensors, state: tensors.update({"optimizer.unknown": torch.zeros(1)}), "tensor"
    ),
    "another part": (lambda tensors, state: tensors.update({"x.y": torch.zeros(1)}), "'x' is no part"),
    "no history": (lambda tensors, state: state.pop("history"), "history"),
    "history of texts": (lambda tensors, state: state.update(history=[{"iteration": "1"}]), "history"),
    "another iteration": (lambda tensors, state: state.update(iteration=2), "2 iterations"),
    "seconds": (lambda tensors, state: state.update(seconds=-1), "seconds"),
    "no settings": (lambda tensors, state: state.pop("config"), "config"),
    "other settings": (lambda tensors, state: state["config"].update(num_envs=5), "num_envs was 5, is 4"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, trained(0), SETTINGS, STATE)
    with safe_open(path, "pt") as file:
        tensors, state = {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])
    change, message = DAMAGE[damage]
    change(tensors, state)
    save_file(tensors, path, {"state": json.dumps(state)})
    with pytest.raises(ValueError, match=rf"checkpoint\.safetensors.*{message}.*--overwrite"):
        load_checkpoint(path, trained(1, 0), SETTINGS)


@pytest.mark.parametrize("text", ["", "null", "[1]", "[" * 20_000, '{"iteration": 1, "iteration": 2}', "NaN"])
def test_a_state_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file(content(trained(0)), path, {"state": text})
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors .*--overwrite"):
        load_checkpoint(path, trained(1, 0), SETTINGS)
