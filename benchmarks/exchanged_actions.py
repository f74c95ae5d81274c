"""Whether a dream follows the actions that it is given, measured on recorded episodes alone.

An episode goes on in the dream with what another episode did at the same time, and with actions of zero. Nobody knows
where that would have led. But a dream that follows actions is nearer to the episode's own future under its own actions
than under others, and nearer to the other's future under the other's. One that ignores them is no nearer in either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.statistics import resampled_means
from benchmarks.error_ratio import error_ratio
from benchmarks.results import Row
from world_models.base import WorldModel
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import all_actions, episode_offsets
from world_models.open_loop import open_loop

CHOICES = ("own", "exchanged", "zero")
"""Whose actions a dream is given: the episode's, another's at the same time, or none."""
_BATCH = 64
"""Windows that are rolled out at once; their states need much memory."""

Distances = dict[tuple[str, str], np.ndarray]
"""Mean absolute difference of a number of the state ``(N, M)``, by what is compared: one of :data:`CHOICES`, or
``still`` for no change, with ``own future``, ``other future`` or ``own dream``."""


@dataclass(frozen=True)
class Windows:
    """N stretches of episodes, and the same stretches of other episodes.

    Attributes:
        episodes, others: indices in the dataset ``(N,)`` int64.
        frames: of the episode, at which a window begins ``(N,)`` int64.
    """

    episodes: np.ndarray
    others: np.ndarray
    frames: np.ndarray


@dataclass(frozen=True)
class Futures:
    """What windows began with, what was recorded, and the three choices of actions.

    Attributes:
        start: first states ``(N, L, C)``.
        own, other: recorded states ``(N, M, L, C)`` of the episodes and of the others.
        actions: ``(N, M, K, A)`` by choice.
        rows: of the dataset, first and after each chunk ``(N, M + 1)``, of the episodes and of the others.
    """

    start: Tensor
    own: Tensor
    other: Tensor
    actions: dict[str, Tensor]
    rows: tuple[np.ndarray, np.ndarray]


def partners(members: Sequence[int] | np.ndarray, rng: np.random.Generator) -> dict[int, int]:
    """For each of two or more members another one; every one is taken once."""
    shuffled = rng.permutation(members)
    return dict(zip(shuffled.tolist(), np.roll(shuffled, 1).tolist(), strict=True))


def find_windows(dataset: EpisodeDataset, split: str, span: int, rng: np.random.Generator) -> Windows:
    """All windows of ``span`` actions, one after the other, in which at least two episodes go on.

    Args:
        dataset: the episodes.
        split: which of them; ``all`` for all.
        span: actions in a window; a frame must follow them.
        rng: chooses whose actions are given to whom.

    Raises:
        ValueError: no such split, or fewer than two episodes are long enough.
    """
    found: list[tuple[int, int, int]] = []
    begin = 0
    while len(members := dataset.split(split, begin + span)) > 1:
        found += [(index, other, begin) for index, other in partners(members, rng).items()]
        begin += span
    if not found:
        raise ValueError(
            f"{dataset.root} has {len(dataset.split(split, span))} {split} episodes longer than {span} frames, and two "
            "are needed to exchange their actions; lower --chunks, choose another --split, or record more"
        )
    return Windows(*np.array(found, np.int64).T)


def futures(
    dataset: EpisodeDataset, features: Tensor, windows: Windows, *, chunks: int, length: int
) -> Iterator[Futures]:
    """What was recorded in the windows, a batch after the other.

    Args:
        dataset: the episodes.
        features: states ``(F, L, C)`` of all frames.
        windows: of ``chunks * length`` actions.
        chunks: action chunks M.
        length: control steps K of a chunk.
    """
    offsets, actions = episode_offsets(dataset.lengths), torch.from_numpy(all_actions(dataset))
    for part in np.split(np.arange(len(windows.frames)), range(_BATCH, len(windows.frames), _BATCH)):
        first, others = (offsets[of[part]] + windows.frames[part] for of in (windows.episodes, windows.others))
        own_rows, other_rows = (begin[:, None] + np.arange(0, chunks * length + 1, length) for begin in (first, others))
        own, other = (
            actions[torch.from_numpy(begin[:, None] + np.arange(chunks * length))].unflatten(1, (chunks, length))
            for begin in (first, others)
        )
        states, other_states = (features[torch.from_numpy(rows)].float() for rows in (own_rows, other_rows))
        yield Futures(
            states[:, 0], states[:, 1:], other_states[:, 1:],
            {"own": own, "exchanged": other, "zero": torch.zeros_like(own)}, (own_rows, other_rows),
        )  # fmt: skip


def dreams(model: WorldModel, recorded: Futures, seed: int) -> dict[str, Tensor]:
    """States ``(N, M, L, C)`` that are imagined under each choice of actions, with the same noise."""
    return {
        name: open_loop(model, recorded.start, chunks, seed=seed).features for name, chunks in recorded.actions.items()
    }


def distances(recorded: Futures, imagined: dict[str, Tensor]) -> Distances:
    """How far each dream is from what was recorded, and from the dream under the episode's own actions.

    Args:
        recorded: of the windows.
        imagined: states ``(N, M, L, C)`` by choice of actions, as :func:`dreams` gives them.
    """
    still = recorded.start[:, None].expand_as(recorded.own)
    compared = {(name, "own future"): (states, recorded.own) for name, states in (*imagined.items(), ("still", still))}
    for name in ("own", "exchanged"):
        compared[name, "other future"] = imagined[name], recorded.other
    for name in ("exchanged", "zero"):
        compared[name, "own dream"] = imagined[name], imagined["own"]
    return {key: (first - second).abs().mean(dim=(2, 3)).numpy() for key, (first, second) in compared.items()}


def distance_rows(found: Distances, episodes: np.ndarray, seed: int, ending: str, **rest: str) -> Iterator[Row]:
    """The rows of one model; intervals are over episodes, which count alike.

    Args:
        found: distances of all windows.
        episodes: which episode each window is of ``(N,)``.
        seed: of the resampling.
        ending: of the setting.
        rest: the attributes of :class:`Row` that these rows share: bench, task, method, seeds, hardware, date, command.
    """
    for chunk in range(found["own", "own future"].shape[1]):
        of_chunk = {key: _by_episode(table[:, chunk], episodes) for key, table in found.items()}
        motion = of_chunk["still", "own future"]
        for choice in CHOICES:
            shared = {"setting": f"actions={choice},chunks={chunk + 1}{ending}", **rest}
            yield _row("token_l1_vs_persistence", of_chunk[choice, "own future"], motion, seed, "1", shared)
            if choice == "own":
                continue
            yield _row("action_effect", of_chunk[choice, "own dream"], motion, seed, "1", shared)
            shares = {"own_actions_nearer": (("own", "own future"), (choice, "own future"))}
            if choice == "exchanged":
                shares["other_actions_nearer"] = ("exchanged", "other future"), ("own", "other future")
            for metric, (near, far) in shares.items():
                nearer = _nearer(found[near][:, chunk], found[far][:, chunk])
                yield _row(metric, _by_episode(nearer, episodes), None, seed, "fraction", shared)


def _nearer(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Whether the first is the smaller one, as 0 or 1; equal ones count half."""
    return np.where(ours == theirs, 0.5, (ours < theirs).astype(float))


def _by_episode(values: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """Means of the values ``(N,)`` of each episode, ``(E,)``."""
    _, places, counts = np.unique(episodes, return_inverse=True, return_counts=True)
    return np.asarray(np.bincount(places, values) / counts)


def _row(metric: str, ours: np.ndarray, theirs: np.ndarray | None, seed: int, unit: str, shared: dict[str, str]) -> Row:
    """The row of a mean over episodes ``(E,)``, or of its ratio to another one."""
    if theirs is None:
        value, samples = float(ours.mean()), resampled_means(ours[None], seed=seed)
    else:
        value, samples = error_ratio(ours[None], theirs[None], seed)
    low, high = map(float, np.quantile(samples, [0.025, 0.975]))
    return Row(metric=metric, value=value, low=low, high=high, n=ours.size, unit=unit, **shared)
