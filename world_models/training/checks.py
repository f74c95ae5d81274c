"""What a training needs of its data and of the world that it starts from, checked before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import all_actions
from world_models.io import read_config


def check_start(folder: Path, *, task: str, proprioception: bool, dynamics: Sequence[str]) -> None:
    """Raise ValueError if a training cannot go on from the world in a folder as asked."""
    start = read_config(folder)
    if task != start.task:
        raise ValueError(f"{folder} is a world of task {start.task!r}, not {task!r}: pass --task {start.task}")
    if start.proprioception and not proprioception:
        raise ValueError(f"{folder} has proprioception in its states: leave --no-proprioception out, or train anew")
    missing = [name for name in dynamics if name not in start.dynamics]
    if missing:
        raise ValueError(f"{folder} has no {missing[0]} to go on from: pass --dynamics {' '.join(start.dynamics)}")


def check_data(dataset: EpisodeDataset, span: int) -> None:
    """Raise ValueError unless a dataset can train a world: square frames, episodes longer than ``span`` frames in the
    training and the validation split, actions in [-1, 1]."""
    height, width = dataset.image_size
    if height != width:
        raise ValueError(f"{dataset.root} has frames of {height} x {width} pixels; crop or pad its videos to squares")
    for split in ("train", "validation"):
        if not any(dataset.lengths[index] > span for index in dataset.split(split)):
            raise ValueError(
                f"{dataset.root} has no episode longer than {span} frames in its {split} split; collect at least 20 "
                "episodes, and longer ones than a chunk"
            )
    actions = all_actions(dataset)
    largest = float(np.abs(actions).max()) if actions.size else float("nan")
    if not largest <= 1.0:
        raise ValueError(
            f"{dataset.root} has actions up to {largest:.3g}; environments take them in [-1, 1], so scale the column "
            "`action` (and remember the scale for the robot)"
        )


def demonstration_episodes(dataset: EpisodeDataset, count: int) -> list[int]:
    """At most ``count`` successful training episodes, experts' where there are any: the world's demonstrations.

    Raises:
        ValueError: there is none.
    """
    successful = [int(index) for index in dataset.split("train") if dataset.successes[index]]
    experts = [index for index in successful if dataset.kinds[index] == "expert"]
    chosen = (experts or successful)[:count]
    if not chosen:
        raise ValueError(
            f"{dataset.root} has no successful episode in its train split; imagined episodes start from "
            "demonstrations, and rewards compare with them, so collect some (their column next.success ends true)"
        )
    return chosen
