"""`rla-gym bench ranking`: does the dream order policies as the simulator does?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from agents.evaluate import EvaluateConfig
from agents.statistics import wilson_interval
from benchmarks.outcomes import real_and_imagined
from benchmarks.plots import plot_ranking
from benchmarks.results import Row, print_rows, provenance, write_rows
from rla_gym.ground_truth.seeds import REPORT_SEEDS
from world_models.config import DynamicsName
from world_models.devices import choose_device
from world_models.files import beside


@dataclass(frozen=True)
class RankingConfig:
    """Settings of the ranking benchmark.

    Attributes:
        policies: policy folders, at least three; of different quality, else there is nothing to rank.
        world: bundled name, path or ``hf://owner/name`` whose dream ranks; None takes each policy's own.
        dynamics: which of the world's dynamics rank; None for its default.
        prediction_length: actions after which the dream predicts a state; None for the world's own.
        episodes: of each policy, in the simulator (on the report seeds) and in the dream.
        placement: where the simulator puts the object: ``standard`` or ``wide``.
        env: the simulator; None for that of each policy's task.
        device: for policies and dream.
        resamples: of the bootstrap over episodes.
        out: JSON of the result rows; the picture lies beside it.
        progress: show progress bars and tables of the parts.
    """

    policies: tuple[Path, ...]
    world: str | None = None
    dynamics: DynamicsName | None = None
    prediction_length: int | None = None
    episodes: int = 100
    placement: str = "standard"
    env: str | None = None
    device: str = "auto"
    resamples: int = 2000
    out: Path = Path("benchmarks/results/ranking.json")
    progress: bool = True


def run(config: RankingConfig) -> list[Row]:
    """Evaluate every policy twice, compare, print, write JSON and picture; returns the rows.

    Raises:
        ValueError: fewer than three policies, or two folders of the same name.
    """
    names = [policy.name for policy in config.policies]
    if len(names) < 3:
        raise ValueError(f"a ranking needs at least three policies, got {len(names)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two policies are called {twice!r}, as rows name them by their folders: rename one")
    real, dream = [], []
    for policy in config.policies:
        outcomes = real_and_imagined(
            EvaluateConfig(
                policy,
                config.env,
                episodes=config.episodes,
                placement=config.placement,
                world=config.world,
                dynamics=config.dynamics,
                prediction_length=config.prediction_length,
                device=config.device,
                progress=config.progress,
            )
        )
        real.append(outcomes.real)
        dream.append(outcomes.dream)
    rows = _rows(config, outcomes.task, outcomes.dynamics, np.array(real), np.array(dream))
    write_rows(config.out, rows)
    plot_ranking(rows, beside(config.out, ".png"))
    print_rows([row for row in rows if row.method == outcomes.dynamics], f"ranking of {len(real)} policies")
    print_rows([row for row in rows if row.method != outcomes.dynamics], f"success, {config.episodes} episodes each")
    return rows


def mean_maximum_rank_violation(real: np.ndarray, dream: np.ndarray) -> float:
    """MMRV of SIMPLER (arXiv 2405.05941): how much real success the worst misordering of each policy costs, on average.

    Args:
        real, dream: success rates (P,) of the same policies.
    """
    apart = np.abs(real[:, None] - real[None, :])
    misordered = (dream[:, None] < dream[None, :]) != (real[:, None] < real[None, :])
    return float((apart * misordered).max(axis=1).mean())


def compare(real: np.ndarray, dream: np.ndarray) -> dict[str, float]:
    """Pearson, Spearman and MMRV of success rates (P,); correlations with what never varies count as zero."""
    if np.ptp(real) == 0 or np.ptp(dream) == 0:
        return {"pearson": 0.0, "spearman": 0.0, "mmrv": mean_maximum_rank_violation(real, dream)}
    return {
        "pearson": float(stats.pearsonr(real, dream).statistic),
        "spearman": float(stats.spearmanr(real, dream).statistic),
        "mmrv": mean_maximum_rank_violation(real, dream),
    }


def _rows(config: RankingConfig, task: str, dynamics: str, real: np.ndarray, dream: np.ndarray) -> list[Row]:
    """Rows of outcomes (P, N) in the simulator and in the dream."""
    facts = provenance(choose_device(config.device))
    setting = f"placement={config.placement},policies={len(real)}"
    setting += f",prediction_length={config.prediction_length}" if config.prediction_length else ""
    report = f"report {REPORT_SEEDS.start}-{REPORT_SEEDS.start + config.episodes - 1}"
    # Every policy meets the same episodes, so these are resampled for all at once; dream and simulator have their own.
    generator = np.random.default_rng(0)
    picks = generator.integers(real.shape[1], size=(config.resamples, 2, real.shape[1]))
    resampled = [compare(real[:, a].mean(axis=1), dream[:, b].mean(axis=1)) for a, b in picks]
    rows = []
    for metric, value in compare(real.mean(axis=1), dream.mean(axis=1)).items():
        low, high = np.quantile([sample[metric] for sample in resampled], [0.025, 0.975])
        rows.append(
            Row("ranking", task, dynamics, metric, setting, value, float(low), float(high), real.size, report,
                "1", **facts)
        )  # fmt: skip
    for policy, in_simulator, in_dream in zip(config.policies, real, dream, strict=True):
        for metric, table in (("success_rate", in_simulator), ("dream_success_rate", in_dream)):
            low, high = wilson_interval(int(table.sum()), table.size)
            rows.append(
                Row("ranking", task, policy.name, metric, setting, float(table.mean()), low, high, table.size, report,
                    "fraction", **facts)
            )  # fmt: skip
    return rows
