"""How wrong imagined states are, episode by episode: in tokens, in centimetres, in what became of the grasp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.probes import AttentiveProbe
from world_models.data.episodes import EpisodeDataset

QUANTITIES = {"cube": slice(0, 3), "eef": slice(3, 6), "gripper": slice(6, 7)}
COLUMNS = ("simulator.cube_position", "simulator.eef_position", "simulator.gripper_opening")
LIFTED_METRES = 0.02  # success in robosuite: the centre 4 cm above the table, and a cube at rest has it at 2 cm


@dataclass(frozen=True, kw_only=True)
class TokenErrors:
    """Errors of E imagined episodes after each of M chunks, in tokens: what every dataset tells.

    Attributes:
        token: mean absolute error of a number of the state ``(E, M)``.
        persistence: the same of predicting no change since the first frame ``(E, M)``.
        still: error, and persistence's, over the quarter of the tokens that moved least, two of ``(E, M)``.
        spread_ratio: spread over episodes of imagined states over that of real ones ``(M,)``.
        uncertainty: the model's own expectation of ``token`` ``(E, M)``, where it has one.
    """

    token: np.ndarray
    persistence: np.ndarray
    still: tuple[np.ndarray, np.ndarray]
    spread_ratio: np.ndarray
    uncertainty: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class RolloutErrors(TokenErrors):
    """The same, and what only the simulator's truth tells.

    Attributes:
        centimetres: of each quantity, distance ``(E, M)`` between what a probe reads and the simulator's truth.
        lifted: whether the probe reads a lifted cube after each chunk ``(E, M)`` bool.
    """

    centimetres: dict[str, np.ndarray]
    lifted: np.ndarray


def token_errors(imagined: Tensor, real: Tensor, start: Tensor, uncertainty: Tensor | None = None) -> TokenErrors:
    """Compare a rollout with the states that were recorded.

    Args:
        imagined, real: states ``(E, M, L, C)`` after each chunk.
        start: first states ``(E, L, C)``.
        uncertainty: ``(E, M)`` or None.
    """
    error = (imagined - real).abs().mean(dim=3)
    motion = (start[:, None] - real).abs().mean(dim=3)
    least = motion.argsort(dim=2)[:, :, : motion.shape[2] // 4]
    return TokenErrors(
        token=error.mean(dim=2).numpy(),
        persistence=motion.mean(dim=2).numpy(),
        still=(error.gather(2, least).mean(dim=2).numpy(), motion.gather(2, least).mean(dim=2).numpy()),
        spread_ratio=(spread(imagined) / spread(real)).numpy(),
        uncertainty=None if uncertainty is None else uncertainty.numpy(),
    )


def rollout_errors(
    imagined: Tensor,
    real: Tensor,
    start: Tensor,
    truth: Tensor,
    probe: AttentiveProbe,
    uncertainty: Tensor | None = None,
) -> RolloutErrors:
    """Compare a rollout with what happened.

    Args:
        imagined, real: states ``(E, M, L, C)`` after each chunk.
        start: first states ``(E, L, C)``.
        truth: simulator states ``(E, M, 7)`` as :func:`simulator_states` gives them.
        probe: reads those out of states.
        uncertainty: ``(E, M)`` or None.
    """
    read = torch.stack([probe(states) for states in imagined.unbind(dim=1)], dim=1)
    return RolloutErrors(
        **vars(token_errors(imagined, real, start, uncertainty)),
        centimetres={
            name: (read[:, :, part] - truth[:, :, part]).norm(dim=2).numpy() * 100 for name, part in QUANTITIES.items()
        },
        lifted=((read[:, :, 2] - probe(start)[:, None, 2]) > LIFTED_METRES).numpy(),
    )


def spread(states: Tensor) -> Tensor:
    """Mean standard deviation over episodes ``(M,)`` of states ``(E, M, L, C)``; zero where there is one."""
    return states.std(dim=0, correction=0).mean(dim=(1, 2))


def has_simulator_columns(dataset: EpisodeDataset) -> bool:
    """Whether :func:`simulator_states` has something to read: `rla-gym collect` recorded the dataset."""
    return all(name in dataset.columns for name in COLUMNS)


def simulator_states(dataset: EpisodeDataset) -> Tensor:
    """Cube xyz, end-effector xyz and gripper opening of every frame, ``(F, 7)`` in metres.

    Raises:
        ValueError: the dataset has no such columns.
    """
    parts = []
    for index in range(len(dataset)):
        columns = dataset.episode(index).columns
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise ValueError(
                f"{dataset.root} has no column {missing[0]}; fidelity in centimetres needs data from `rla-gym collect`"
            )
        parts.append(np.concatenate([columns[name].reshape(len(columns[name]), -1) for name in COLUMNS], axis=1))
    return torch.from_numpy(np.concatenate(parts)).float()


def worst_tenth_auroc(error: np.ndarray, uncertainty: np.ndarray) -> float:
    """Chance that a prediction of the worst tenth got a higher uncertainty than one of the others."""
    return auroc(uncertainty.ravel(), (error >= np.quantile(error, 0.9)).ravel())


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive scores above a negative; ties count half. NaN where either is missing.

    Args:
        scores: (n,) floats.
        positive: (n,) bool.
    """
    if positive.all() or not positive.any():
        return float("nan")
    statistic = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    return float(statistic / (positive.sum() * (~positive).sum()))
