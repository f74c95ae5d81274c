"""Mutated checkpoints of PPO, and the clone that a run starts from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.ppo import PPOConfig, train_ppo
from tests.fuzz.mutation import Mutation, Observed, Places, damage, damage_metadata
from tests.fuzz.targets.policies import another_policy
from tests.fuzz.tensor_mutations import read_tensors

DONE = 2


def settings(root: Path, out: Path) -> PPOConfig:
    """A run of a second."""
    return PPOConfig(
        policy=root / "policy_token", out=out, world=str(root / "world"), num_envs=4, num_steps=2, iterations=DONE,
        warmup_iterations=1, epochs=1, minibatches=1, max_chunks=2, checkpoint_every=1, initial_states="mixed",
        device="cpu", precision="float32", progress=False,
    )  # fmt: skip


def build(root: Path) -> None:
    """A run of two iterations, of three."""
    train_ppo(settings(root, root / "ppo"))


def draw(rng: np.random.Generator, number: int, places: Places) -> Mutation:
    """One mutation of the checkpoint, or of the clone."""
    out = places.work / "ppo"
    shutil.copytree(places.root / "ppo", out)
    clone = places.root / "policy_token"
    path = out / "checkpoint.safetensors"
    share = rng.random()
    if share < 0.45:
        kind, what, _ = damage(rng, path, places.elsewhere, skip=lambda name, kind: name.endswith(".step"))
    elif share < 0.85:
        kind, what, _ = damage_metadata(rng, path, "state", same_state)
    else:
        clone = places.work / "policy"
        shutil.copytree(places.root / "policy_token", clone)
        path = clone / str(rng.choice(["config.json", "policy.safetensors"]))
        kind, what, _ = damage(
            rng, path, places.elsewhere, valid=lambda place, value: another_policy("token", place, value)
        )
    return Mutation(
        kind, f"{path.name}: {what}", [[path.name]], lambda: observe(places.root, clone, out), "ppo",
        lambda: _expected(places),
    )  # fmt: skip


def same_state(place: tuple[str | int, ...], value: Any) -> bool:
    """Whether a checkpoint with this value is as good as the one that was written: what is only logged."""
    if place[0] == "seconds":
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value)) and value >= 0
        )
    if place[0] == "history":
        return len(place) == 3 and isinstance(value, int | float)
    return place[:1] == ("config",) and len(place) == 2 and place[1] in (
        "out", "iterations", "seconds", "resume", "overwrite", "progress", "keep_policies", "device", "policy"
    )  # fmt: skip


def _expected(places: Places) -> Observed:
    out = places.work / "reference"
    shutil.copytree(places.root / "ppo", out)
    return observe(places.root, places.root / "policy_token", out)


def observe(root: Path, clone: Path, out: Path) -> Observed:
    """The policy that the run ends in, one iteration on."""
    train_ppo(replace(settings(root, out), policy=clone, iterations=DONE + 1, resume=True))
    tensors, _ = read_tensors(out / "policy.safetensors")
    return {name: tensor.numpy() for name, tensor in tensors.items()}
