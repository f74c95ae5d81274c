"""Policy folders of rla-gym 0.1 to the present format: other names of weights and settings."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from agents.policies.base import CONFIG_FILE, FORMAT, WEIGHTS_FILE
from world_models.conversion import RENAMED_DYNAMICS
from world_models.files import read_json, read_tensors, save_json, save_tensors

RENAMED_WEIGHTS = (
    (r"\btrunk\.(project|norm)\.", r"trunk.embed.\1."),
    (r"\btrunk\.position$", "trunk.embed.position"),
    (r"\btrunk\.queries$", "trunk.pool.queries"),
)
"""Patterns in names of weights, and what takes their place; of policies and of those inside planners."""
RENAMED_SETTINGS = {"starts": "initial_states", "decisions": "env_steps", "warmup_decisions": "warmup_env_steps"}
DROPPED_SETTINGS = {"uncertainty_penalty", "max_uncertainty", "loss"}


def convert_policy(source: Path, out: Path) -> None:
    """Write a policy folder of rla-gym 0.1 as one of the present format, which acts the same.

    It goes on naming its world as it did. Where that is a folder, convert the world, too; a planner opens it by this
    name, anything else takes another one as ``world``.

    Args:
        source: the policy's folder.
        out: the new folder.

    Raises:
        FileNotFoundError: ``source`` lacks a file of a policy.
        FileExistsError: ``out`` exists.
        ValueError: ``source`` is of the present format already, or damaged.
    """
    source, out = Path(source), Path(out)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source} is no policy folder: it has no {name}")
    fix = "fetch the policy again"
    config: dict[str, Any] = read_json(source / CONFIG_FILE, fix=fix)
    if "format" in config:
        raise ValueError(f"{source} is a policy of format {config['format']}; only those of rla-gym 0.1 are converted")
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder by --out")
    weights = {_renamed_weight(name): tensor for name, tensor in read_tensors(source / WEIGHTS_FILE, fix=fix).items()}
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_tensors(partial / WEIGHTS_FILE, weights)
    save_json(partial / CONFIG_FILE, {"format": FORMAT, **_renamed(config)})
    partial.replace(out)


def _renamed_weight(name: str) -> str:
    for pattern, replacement in RENAMED_WEIGHTS:
        name = re.sub(pattern, replacement, name)
    return name


def _renamed(facts: Any) -> Any:
    """Facts with today's names of settings and of dynamics, at any depth, without settings that are gone."""
    if not isinstance(facts, dict):
        return facts
    # PPO's number of chunks per environment, and behaviour cloning's number of batches, had one name.
    names = RENAMED_SETTINGS | {"steps": "num_steps" if "num_envs" in facts else "gradient_steps"}
    renamed = {names.get(name, name): _renamed(value) for name, value in facts.items() if name not in DROPPED_SETTINGS}
    if "dynamics" in renamed:
        renamed["dynamics"] = RENAMED_DYNAMICS.get(str(renamed["dynamics"]), renamed["dynamics"])
    return renamed
