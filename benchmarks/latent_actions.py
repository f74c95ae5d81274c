"""`rla-gym bench latent-actions`: what of an interaction can be read off its latent action, also of a kind not fitted?

The three properties that arXiv 2605.07079 asks of a residual latent action, each as the R2 of a linear readout.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import Row, print_rows, provenance, write_rows
from benchmarks.rollout_errors import QUANTITIES, simulator_states
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features, episode_offsets
from world_models.io import load_encoder, load_model, world_folder
from world_models.mixer.dynamics import ResidualFlowWorldModel

KNOWN_KINDS = ("expert", "noisy")
"""Kinds of episodes that the readout is fitted on where the others are to be new to it."""


@dataclass(frozen=True)
class LatentActionsConfig:
    """Settings of the benchmark of latent actions.

    Attributes:
        data: the dataset; readouts are fitted on its training episodes and judged on the held-out ones.
        world: bundled name, path or ``hf://owner/name``.
        split: which episodes are held out.
        pairs: pairs of frames per episode.
        ridge: weight of the penalty, over the variance of a latent dimension.
        seed: of the choice of pairs.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows.
    """

    data: Path
    world: str = "lift"
    split: str = "report"
    pairs: int = 12
    ridge: float = 0.01
    seed: int = 0
    cache: Path | None = None
    out: Path = Path("benchmarks/results/latent_actions.json")


@dataclass(frozen=True)
class Pairs:
    """N pairs of frames: inputs and targets of a readout.

    Attributes:
        inputs: by name of the readout's input, ``(N, D)``.
        targets: ``(N, 8)``: motion of cube, end-effector and gripper (metres) and the frames between the two.
        kinds: kind of the episode of each pair.
    """

    inputs: dict[str, Tensor]
    targets: Tensor
    kinds: np.ndarray


TARGETS = {**{f"{name}_motion_r2": part for name, part in QUANTITIES.items()}, "elapsed_frames_r2": slice(7, 8)}


def run(config: LatentActionsConfig) -> list[Row]:
    """Measure, print, write JSON; returns the rows.

    Raises:
        ValueError: the data lack simulator columns, or the world has no residual flow.
    """
    folder = world_folder(config.world)
    model = load_model(folder, "residual_flow")
    assert isinstance(model, ResidualFlowWorldModel)
    dataset = EpisodeDataset(config.data)
    states = simulator_states(dataset)
    cache = config.cache or config.data / "cache"
    features = torch.from_numpy(cache_features(dataset, load_encoder(folder), cache))
    rng = np.random.default_rng(config.seed)
    fitted, judged = (
        _pairs(model, dataset, split, features, states, config.pairs, rng) for split in ("train", config.split)
    )
    known, unknown = np.isin(fitted.kinds, KNOWN_KINDS), ~np.isin(judged.kinds, KNOWN_KINDS)
    settings = {
        "held-out episodes": (np.ones(len(known), bool), np.ones(len(unknown), bool)),
        f"kinds beyond {' and '.join(KNOWN_KINDS)}": (known, unknown),
    }
    rows, facts = [], provenance()
    for setting, (chosen, among) in settings.items():
        if not chosen.any() or not among.any():
            continue
        for name, x in fitted.inputs.items():
            readout = _ridge(x[chosen], fitted.targets[chosen], config.ridge)
            scores = _r2(readout(judged.inputs[name][among]), judged.targets[among])
            rows += [
                Row("latent_actions", model.config.task, name, metric, setting, float(scores[part].mean()), None, None,
                    int(among.sum()), f"pairs {config.seed}", "1", **facts)
                for metric, part in TARGETS.items()
            ]  # fmt: skip
    write_rows(config.out, rows)
    print_rows(rows, f"linear readouts, {config.split} episodes")
    return rows


def _pairs(
    model: ResidualFlowWorldModel, dataset: EpisodeDataset, split: str, features: Tensor, states: Tensor, count: int,
    rng: np.random.Generator,
) -> Pairs:  # fmt: skip
    offsets, horizon = episode_offsets(dataset.lengths), model.config.dynamics["residual_flow"].horizon
    first, later, kinds = [], [], []
    for index in dataset.split(split):
        length = int(dataset.lengths[index])
        steps = rng.integers(1, min(horizon, length - 1) + 1, count)
        start = offsets[index] + rng.integers(0, length - steps)
        first.append(start)
        later.append(start + steps)
        kinds += [dataset.kinds[index]] * count
    one, other = torch.from_numpy(np.concatenate(first)), torch.from_numpy(np.concatenate(later))
    batches = zip(one.split(1024), other.split(1024), strict=True)
    latent = torch.cat(
        [model.latent_projection.encode(features[a].float(), features[b].float()).flatten(1) for a, b in batches]
    )
    # As many numbers of the first state alone: what can be guessed without the second.
    begin = torch.cat([features[a].float().flatten(1) @ model.latent_projection.components for a in one.split(1024)])
    targets = torch.cat([states[other] - states[one], (other - one)[:, None].float()], dim=1)
    return Pairs({"latent action": latent, "first state": begin}, targets, np.array(kinds))


def _ridge(x: Tensor, y: Tensor, penalty: float):
    """Closed-form ridge regression with an intercept, as a function of inputs ``(N, D)``."""
    mean, middle = x.mean(dim=0), y.mean(dim=0)
    centred = (x - mean).double()
    covariance = centred.T @ centred / len(x)
    damped = covariance + penalty * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    weights = torch.linalg.solve(damped, centred.T @ (y - middle).double() / len(x)).float()
    return lambda new: (new - mean) @ weights + middle


def _r2(read: Tensor, truth: Tensor) -> Tensor:
    """Explained share of the variance of each column ``(D,)``."""
    return 1 - (read - truth).square().mean(dim=0) / truth.var(dim=0, correction=0).clamp_min(1e-12)
