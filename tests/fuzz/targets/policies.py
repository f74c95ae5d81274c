"""Mutated policy folders: of the policy that learns, of the blind one, of planners."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.blind import BlindConfig, make_blind
from agents.planner import PlannerConfig, make_planner
from agents.policies.io import load_policy
from agents.policies.token_policy import TokenPolicy
from tests.fuzz.mutation import Mutation, Observed, Places, damage

KINDS = ("token", "blind", "planner")


def build(root: Path) -> None:
    """One policy of each kind, of the tiny world, with random weights."""
    torch.manual_seed(0)
    policy = TokenPolicy(16, 8, chunk_length=8, action_dim=4, width=16, queries=2)
    policy.facts = {"method": "bc", "world": str(root / "world"), "task": "Lift", "training": {"seed": 0}}
    policy.save(root / "policy_token")
    make_blind(BlindConfig(world=str(root / "world"), out=root / "policy_blind"))
    make_planner(
        PlannerConfig(
            root / "policy_token", root / "policy_planner", candidates=4, iterations=2, elites=2, planned=1, horizon=2,
            reward="progress",
        )
    )  # fmt: skip


def draw(rng: np.random.Generator, number: int, places: Places) -> Mutation:
    """One mutation of one file of one policy."""
    kind_of_policy = KINDS[number % 3]
    folder, pristine = places.work / "policy", places.root / f"policy_{kind_of_policy}"
    shutil.copytree(pristine, folder)
    file = "config.json" if rng.random() < 0.65 else "policy.safetensors"
    kind, what, name = damage(
        rng, folder / file, places.elsewhere,
        valid=lambda place, value: another_policy(kind_of_policy, place, value),
    )  # fmt: skip
    names = [[file]]
    if name == "world":
        names.append(["world"])  # what a planner remembers is named as the world that it is not
    return Mutation(
        kind, f"{kind_of_policy} {file}: {what}", names, lambda: observe(folder), kind_of_policy,
        lambda: observe(pristine),
    )  # fmt: skip


def another_policy(kind: str, place: tuple[str | int, ...], value: Any) -> bool:
    """Whether this value makes another valid policy."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    finite = bool(number and np.isfinite(value))
    whole = finite and float(value) == int(value)
    last = place[-1]
    if place[0] in ("method", "task"):
        return isinstance(value, str) or value is None
    if place[0] == "training":
        return True
    if kind != "planner":
        # A blind policy has no weights for the sizes of observations that it does not read.
        return place[0] == "world" or (
            kind == "blind" and last in ("num_tokens", "channels") and whole and 1 <= value <= 10**6
        )
    if last in ("candidates", "iterations", "elites", "planned", "horizon"):
        return whole and 1 <= value <= 10_000
    if last == "seed":
        return whole and 0 <= value < 2**62
    if last in ("temperature", "std"):
        return finite and 0 < value <= 1e9
    if last == "success_bonus":
        return finite
    if last == "gamma":
        return finite and 0 <= value <= 1
    # The other method and reward are valid, too, and the keys of one method are not read by the other.
    return place[0] == "planning" and last == "removed" and "temperature" in place


def observe(folder: Path) -> Observed:
    """The actions in fixed states."""
    policy = load_policy(folder)
    features = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
    return {"actions": policy.act(features, torch.tensor([0, 1, 2])).numpy(), "size": policy.action_size}
