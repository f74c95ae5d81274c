"""Success of a policy in the simulator and in the dream, from the same initial states: for transfer and ranking."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agents.evaluate import EvaluateConfig, evaluate
from agents.policies.io import load_policy
from rla_gym.tasks import dream_id, episode_chunks, simulator_id
from world_models.files import save_json
from world_models.io import default_dynamics, world_folder

OF_A_WORLD = ("config.json", "model.safetensors", "demonstrations.safetensors", "success.safetensors", "success.json")
"""Files of a world that policies and dreams depend on."""


class Outcomes(NamedTuple):
    """Of each episode ``(N,)``: success bool in the simulator, success bool in the dream that goes on from its first
    picture, and the simulator's int64 control steps; the task, and the dream's dynamics."""

    real: np.ndarray
    dream: np.ndarray
    control_steps: np.ndarray
    task: str
    dynamics: str


def real_and_imagined(config: EvaluateConfig) -> Outcomes:
    """Evaluate a policy as ``config`` says in the simulator, and in the dream from the very same initial states.

    Both outcomes are kept in the policy's folder, and read from there when the same policy, in the same world, is asked
    for the same episodes again.
    """
    policy = load_policy(config.policy)
    world, task = config.world or policy.world, policy.task
    config = replace(config, env=config.env or simulator_id(task), max_chunks=config.max_chunks or episode_chunks(task))
    real = _evaluated(config, world, ())
    dynamics = default_dynamics(world, config.dynamics)
    dreams = replace(config, env=dream_id(task), initial_states="simulator", dynamics=dynamics)
    imagined = _evaluated(dreams, world, ("dynamics", "prediction_length"))
    successes = np.array(real["success"]), np.array(imagined["success"])
    return Outcomes(*successes, np.array(real["control_steps"]), task, dynamics)


def _evaluated(config: EvaluateConfig, world: str, of_dreams: tuple[str, ...]) -> dict[str, list]:
    """Success and control steps of each episode, evaluated unless the policy's folder has them."""
    names = ("env", "episodes", "seed_start", "placement", "max_chunks", "device", *of_dreams)
    asked = {name: getattr(config, name) for name in names}
    files = [config.policy / "policy.safetensors", config.policy / "config.json"]
    key = {**asked, "policy": digest(files), "world": world_digest(world)}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    path = config.policy / "evaluation" / f"outcomes-{name}.json"
    if not path.is_file():
        outcomes = evaluate(config)
        episodes = {"success": outcomes.successes.tolist(), "control_steps": outcomes.control_steps.tolist()}
        save_json(path, {"of": key, **episodes})
    return json.loads(path.read_text(encoding="utf-8"))


def world_digest(world: str) -> str:
    """Hex digest of all that policies and dreams take from a world."""
    return digest([world_folder(world) / name for name in OF_A_WORLD])


def digest(files: list[Path]) -> str:
    """Hex digest of the contents of files."""
    contents = hashlib.sha256()
    for path in files:
        contents.update(path.read_bytes())
    return contents.hexdigest()[:16]
