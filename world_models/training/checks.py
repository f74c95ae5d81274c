"""What a training needs of its data and of the world that it starts from, checked before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from world_models.config import WorldConfig
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import PROPRIOCEPTION, all_actions, check_proprioception, episode_offsets
from world_models.io import read_config


def check_start(
    folder: Path, dataset: EpisodeDataset, *, task: str, proprioception: bool, dynamics: Sequence[str]
) -> None:
    """Raise ValueError if a training cannot go on from the world in a folder as asked, on this dataset."""
    start = read_config(folder)
    if task != start.task:
        raise ValueError(f"{folder} is a world of task {start.task!r}, not {task!r}: pass --task {start.task}")
    if start.proprioception and not proprioception:
        raise ValueError(f"{folder} has proprioception in its states: leave --no-proprioception out, or train anew")
    check_fits(dataset, start)
    if not any(name in start.dynamics for name in dynamics):
        raise ValueError(f"{folder} has no {dynamics[0]} to go on from: pass --dynamics {' '.join(start.dynamics)}")


def check_data(dataset: EpisodeDataset, span: int, *, proprioception: bool) -> None:
    """Check that a dataset can train a world, without decoding its videos.

    Args:
        dataset: the episodes.
        span: frames that an episode of the training and of the validation split must have after its first.
        proprioception: whether the column ``observation.state`` will be used.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: frames that are no squares, no actions, no episode that is long enough, rows that are not as they
            must be (see :meth:`EpisodeDataset.check`), or actions outside [-1, 1].
    """
    for camera, (height, width) in zip(dataset.views, dataset.view_sizes, strict=True):
        if (height, width) != (dataset.image_size[0],) * 2:
            raise ValueError(
                f"{dataset.root} has frames of {height} x {width} pixels in {camera}: read them as squares of one size "
                "by --fit letterbox, crop or stretch"
            )
    if not dataset.action_names:
        raise ValueError(
            f"{dataset.root} has no column `action` of numbers, but {', '.join(dataset.columns) or 'none at all'}; "
            "name the column of actions by --action-column"
        )
    for split in ("train", "validation"):
        if not len(dataset.split(split, span)):
            longest = int(max(dataset.lengths[dataset.split(split)], default=0))
            raise ValueError(
                f"{dataset.root} has no episode longer than {span} frames in its {split} split, whose longest has "
                f"{longest}; collect at least 20 episodes, and longer ones than a chunk, or lower --chunk-length and "
                "--distillation.horizon"
            )
    dataset.check((PROPRIOCEPTION,) if proprioception and PROPRIOCEPTION in dataset.columns else ())
    actions = all_actions(dataset)
    outside = np.flatnonzero((np.abs(actions) > 1).any(axis=1))
    if len(outside):
        offsets, row = episode_offsets(dataset.lengths), int(outside[0])
        episode = int(np.searchsorted(offsets, row, side="right")) - 1
        raise ValueError(
            f"{dataset.root} has actions up to {np.abs(actions).max():.3g}, first in episode "
            f"{dataset.numbers[episode]}, frame {row - offsets[episode]}; environments take them in [-1, 1], so scale "
            "them by --action-scale minmax"
        )


def check_fits(dataset: EpisodeDataset, world: WorldConfig) -> None:
    """Check that a dataset can be read by a world: for what is computed from both, without decoding videos.

    Raises:
        FileNotFoundError, ValueError: rows are not as they must be (see :meth:`EpisodeDataset.check`), actions or
            proprioception have other sizes, or no training or validation episode is longer than a chunk.
    """
    if len(dataset.action_names) != len(world.action_names):
        raise ValueError(
            f"{dataset.root} has {len(dataset.action_names)} action dimensions, and the world takes "
            f"{len(world.action_names)}: give the data that it was trained on, or more of the same robot"
        )
    for split in ("train", "validation"):
        if not len(dataset.split(split, world.chunk_length)):
            raise ValueError(
                f"{dataset.root} has no episode longer than a chunk, {world.chunk_length} frames, in its {split} "
                "split; collect more, or longer ones"
            )
    if world.proprioception:
        check_proprioception(dataset, world.proprioception)
    dataset.check()


def possible_pushed_chunks(dataset: EpisodeDataset, chunk_length: int, asked: int) -> int:
    """How many chunks states can be pushed on in training: as asked, or fewer where the longest episode is shorter."""
    longest = int(dataset.lengths[dataset.split("train")].max())
    return max(0, min(asked, (longest - 1) // chunk_length - 1))


def demonstration_episodes(dataset: EpisodeDataset, count: int, span: int = 0) -> list[int]:
    """At most ``count`` successful training episodes, experts' where there are any: the world's demonstrations.

    Args:
        dataset: the episodes.
        count: of the demonstrations.
        span: frames that an episode must have after its first.

    Raises:
        ValueError: there is none.
    """
    successful = [int(index) for index in dataset.split("train", span) if dataset.successes[index]]
    experts = [index for index in successful if dataset.kinds[index] == "expert"]
    chosen = (experts or successful)[:count]
    if not chosen:
        raise ValueError(
            f"{dataset.root} has no successful episode in its train split; imagined episodes start from "
            "demonstrations, and rewards compare with them, so collect some (their column next.success ends true)"
        )
    return chosen
