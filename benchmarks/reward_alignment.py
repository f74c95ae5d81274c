"""`rla-gym bench reward-alignment`: does a reward rise with true progress, and is it higher for successes?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.episode_alignment import frame_distances, transport_score, warping_score
from benchmarks.held_out import HeldOut, Views
from benchmarks.plots import plot_bars
from benchmarks.results import Row, print_rows, provenance, write_rows
from benchmarks.rollout_errors import LIFTED_METRES, QUANTITIES, auroc
from rewards import SuccessDetector, make_reward
from rewards.video_aligned import REWARDS
from rla_gym.initial_states import nearest_demonstration
from rla_gym.tasks import episode_chunks
from world_models.data.demonstrations import Demonstrations
from world_models.data_of_world import open_data
from world_models.files import beside
from world_models.io import dynamics_in, load_model, read_config, world_folder
from world_models.open_loop import open_loop

CLOSE_FAILURES = ("near_miss", "grasp", "hasty_grasp")
"""Kinds of episodes whose failures are grasps that nearly held: those that a policy under training tries."""


@dataclass(frozen=True)
class RewardAlignmentConfig:
    """Settings of the benchmark of rewards.

    Attributes:
        data: the dataset whose held-out episodes are scored.
        world: bundled name, path or ``hf://owner/name``.
        split: which episodes: train, validation, report (for numbers that are published) or, of a dataset that the
            world was not trained on, all.
        chunks: action chunks of an episode; None for as many as the task's have.
        success_bonus: as in the environment.
        resamples: of the bootstrap over episodes.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows; the picture lies beside it.
    """

    data: Path
    world: str = "lift"
    split: str = "report"
    chunks: int | None = None
    success_bonus: float = 1.0
    resamples: int = 1000
    cache: Path | None = None
    out: Path = Path("benchmarks/results/reward_alignment.json")


def run(config: RewardAlignmentConfig) -> list[Row]:
    """Score real and imagined episodes by every reward, print, write JSON and picture; returns the rows.

    Beside the environment's rewards stand two scores of whole episodes, ``time_warping`` and ``transport``.

    Raises:
        ValueError: the data lack simulator columns, no episode is long enough, or none succeeds or none fails.
    """
    folder = world_folder(config.world)
    world = read_config(folder)
    dataset = open_data(config.data, world)
    chunks = config.chunks or episode_chunks(world.task, world.max_chunks)
    cache = config.cache or config.data / "cache"
    held_out = Views(dataset, config.split, cache, chunks=chunks).of(folder).held_out
    solved = held_out.succeeded.any(axis=1)
    if solved.all() or not solved.any():
        raise ValueError(f"every {config.split} episode has the same outcome; they cannot tell rewards apart")

    detector = SuccessDetector.load(folder)
    scored = {"real frames": (held_out.real, detector.threshold)}
    for dynamics in dynamics_in(folder):
        imagined = open_loop(load_model(folder, dynamics), held_out.start, held_out.actions).features
        scored[f"imagined, {dynamics}"] = imagined, detector.imagined_threshold(dynamics)
    demonstrations = Demonstrations.load(folder)
    followed = nearest_demonstration(demonstrations, held_out.start)
    rewards = {name: make_reward(name, demonstrations, detector) for name in REWARDS}

    rows: list[Row] = []
    facts = provenance()
    for setting, (states, threshold) in scored.items():
        probability = torch.stack([detector.probability(part) for part in states.unbind(1)], dim=1)
        scores: dict[str, tuple[Tensor | None, Tensor]] = {}
        for name, reward in rewards.items():
            times = [torch.full_like(followed, chunk * world.chunk_length) for chunk in range(1, chunks + 1)]
            each = [reward(part, followed, time) for part, time in zip(states.unbind(1), times, strict=True)]
            alignment = torch.stack(each, dim=1)
            scores[name] = alignment, episode_returns(alignment, probability >= threshold, config.success_bonus)
        whole = frame_distances(torch.cat([held_out.start[:, None], states], dim=1), demonstrations, world.chunk_length)
        scores["time_warping"], scores["transport"] = (None, warping_score(*whole)), (None, transport_score(*whole))
        for name, (of_chunks, returns) in scores.items():
            rewarded = None if of_chunks is None else of_chunks.numpy()
            for metric, value, low, high in _measure(rewarded, returns.numpy(), held_out, config.resamples):
                rows.append(
                    Row("reward_alignment", world.task, name, metric, setting, value, low, high, len(solved),
                        config.split, "1", **facts)
                )  # fmt: skip
    write_rows(config.out, rows)
    plot_bars(rows, beside(config.out, ".png"))
    print_rows(rows, f"rewards, {len(solved)} {config.split} episodes")
    return rows


def episode_returns(alignment: Tensor, success: Tensor, bonus: float) -> Tensor:
    """Undiscounted returns (E,) of episodes that end at their first success, which adds the bonus.

    Args:
        alignment: reward after each chunk (E, M).
        success: whether the environment detects success after each chunk (E, M) bool.
        bonus: added at the first of them.
    """
    before = success.cumsum(dim=1) - success.long()
    return ((alignment + bonus * success) * (before == 0)).sum(dim=1)


def true_progress(truth: np.ndarray, start: np.ndarray) -> np.ndarray:
    """How far a lift really is, (E, M): closeness of hand and object, then height, each from 0 to 1.

    Args:
        truth: simulator states (E, M, 7).
        start: the object's height (E,) at the episode's beginning, metres.
    """
    apart = np.linalg.norm(truth[..., QUANTITIES["eef"]] - truth[..., QUANTITIES["cube"]], axis=-1)
    height = (truth[..., QUANTITIES["cube"]][..., 2] - start[:, None]) / (2 * LIFTED_METRES)
    return 1 - np.tanh(10 * apart) + height.clip(0, 1)


def _measure(
    alignment: np.ndarray | None, returns: np.ndarray, held_out: HeldOut, resamples: int
) -> list[tuple[str, float, float, float]]:
    """Metrics of one reward with 95 % intervals, resampled over episodes.

    Args:
        alignment: after each chunk (E, M); None where whole episodes alone are scored.
        returns: of the episodes (E,), as the environment gives them: with the bonus, and ended by success.
        held_out: what really happened.
        resamples: of the bootstrap.
    """
    truth = held_out.truth.numpy()
    # At rest the object's lowest height is where it began: the first frame shows it before it has dropped.
    progress = true_progress(truth, truth[:, :, 2].min(axis=1))
    solved, close = held_out.succeeded.any(axis=1), np.isin(held_out.kinds, CLOSE_FAILURES)
    generator = np.random.default_rng(0)

    def all_of(pick: np.ndarray) -> dict[str, float]:
        gained, achieved = returns[pick], solved[pick]
        values = {"success_auroc": auroc(gained, achieved)}
        hard = achieved | close[pick]
        values["close_failure_preferred_rate"] = 1 - auroc(gained[hard], achieved[hard])
        steps = None if alignment is None else alignment[pick]
        if steps is not None and np.ptp(steps) > 0:
            values["progress_spearman"] = float(stats.spearmanr(steps.ravel(), progress[pick].ravel()).statistic)
            values["alignment_auroc"] = auroc(steps.sum(axis=1), achieved)
        return values

    count = len(solved)
    samples = [all_of(generator.integers(count, size=count)) for _ in range(resamples)]
    measured = []
    for metric, value in all_of(np.arange(count)).items():
        low, high = np.nanquantile([sample.get(metric, np.nan) for sample in samples], [0.025, 0.975])
        measured.append((metric, value, float(low), float(high)))
    return measured
