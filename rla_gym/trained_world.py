"""What a training ends with: how the world is opened, and in plain words whether it is any good."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rla_gym.tasks import dream_id
from rla_gym.world_cache import MOST_RANDOM_SUCCESS
from world_models.files import read_json
from world_models.io import default_dynamics, read_config

FIX = "train the world anew"
_PERSISTENCE = "token_l1_vs_persistence"


def describe_trained_world(folder: Path) -> str:
    """Several lines: path, three lines of Python that open the world, and a verdict on it.

    Raises:
        OSError, ValueError: the world's files are missing or damaged.
    """
    config, dynamics = read_config(folder), default_dynamics(folder)
    training: dict[str, Any] = read_json(folder / "training.json", fix=FIX)
    detector: dict[str, Any] = read_json(folder / "success.json", fix=FIX)
    stages, success = training["metrics"], detector["metrics"]
    lines = [
        f"\nThe world is in {folder}; README.md there says how it was made. To open it:\n",
        "    import gymnasium as gym, rla_gym",
        f'    envs = gym.make_vec("{dream_id(config.task)}", num_envs=64, world="{folder}")',
        "    observations, infos = envs.reset(seed=0)\n",
        f"On held-out episodes ({dynamics}):",
        *(f"- {sentence}" for sentence in _verdict(stages, success, dynamics)),
    ]
    return "\n".join(lines)


def _verdict(stages: Mapping[str, Any], success: Mapping[str, Any], dynamics: str) -> list[str]:
    """One sentence for each question that a user would ask."""
    of = stages.get({"rla_wm": "latent_flow"}.get(dynamics, dynamics), {})
    sentences = []
    for name, value in of.items():
        if name.startswith(_PERSISTENCE):
            chunks = name.removeprefix(_PERSISTENCE).strip("_").removesuffix("_chunks") or "1"
            better = "better than" if value < 0.95 else "no better than"
            sentences.append(
                f"After {chunks} chunk{'s' * (chunks != '1')} a state is {better} predicting no change: its error is "
                f"{value:.0%} of that."
            )
    share = stages.get("rgb_decoder", {}).get("pixel_l1_vs_background")
    if share is not None:
        shows = "show what moves" if share < 0.9 else "show little more than the background"
        sentences.append(f"Decoded pictures {shows}: their error is {share:.0%} of that of the median picture.")
    random = success.get("untrained", {}).get(dynamics, {}).get("random")
    if random is not None:
        doubt = "" if random <= MOST_RANDOM_SUCCESS else ", so success in this dream says little"
        sentences.append(f"Random actions succeed in {random:.0%} of imagined episodes{doubt}.")
    if success.get("calibrated") is False:
        sentences.append("The probability of success is not calibrated: there are too few labels of both outcomes.")
    return sentences
