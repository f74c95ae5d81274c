"""`rla-gym bench calibration`: are the dreams' draws spread as the truth is? Proper scores of sampled futures.

A dream that always predicts the mean of what may come is sure where it should doubt. So draws are judged as a
distribution: by the energy score of what a probe reads off them, by the Brier score of "lifted", by their spread over
their skill, and by the ranks of the truth among them. Truth is either what happened in held-out episodes, once each
(setting ``report``), or what the simulator does many times from one state under hidden causes (setting ``hidden``, with
``--truth``); without hidden causes (``deterministic``) every replay is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.statistics import bootstrap_mean
from benchmarks.ensemble_regression import EnsembleRegression
from benchmarks.gaussian_regression import GaussianRegression
from benchmarks.held_out import Views
from benchmarks.hidden_truth import Truth, read_truth
from benchmarks.plots import plot_calibration
from benchmarks.probes import AttentiveProbe, ProbeConfig
from benchmarks.proper_scores import (
    bins_of,
    brier_score,
    energy_score_floor,
    energy_score_of_replays,
    expected_calibration_error,
    ranks,
    spread_skill,
)
from benchmarks.results import Row, print_rows, provenance, write_rows
from benchmarks.rollout_errors import LIFTED_METRES, QUANTITIES, spread
from world_models.base import WorldModel
from world_models.data.episodes import EpisodeDataset
from world_models.files import beside, weights_digest
from world_models.io import dynamics_in, load_model, read_config, world_folder
from world_models.mixer.dynamics import RegressionWorldModel
from world_models.open_loop import open_loop

GAUSSIAN = "Gaussian regression"
"""Method: see :class:`benchmarks.gaussian_regression.GaussianRegression`."""
READ = ("cube", "gripper")
"""Quantities whose draws are scored."""


@dataclass(frozen=True)
class CalibrationConfig:
    """Settings of the calibration benchmark.

    Attributes:
        data: the dataset; its training episodes fit the probe, and those of ``split`` are predicted.
        world: names, paths or ``hf://owner/name`` of worlds with one encoder; all of their dynamics are contenders, and
            so is an ensemble of their regressions, where these differ.
        split: which episodes; ``report`` for numbers that are published.
        truth: folder of what ``rla-gym bench hidden-truth`` wrote; None leaves the settings ``hidden`` and
            ``deterministic`` out.
        draws: of every prediction.
        chunks: action chunks in a rollout; None for as many as an episode of the task has.
        seed: of the noise, and of the bootstrap.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows; the picture lies beside it.
        probe: size and schedule of the probe.
    """

    data: Path
    world: tuple[str, ...] = ("lift",)
    split: str = "report"
    truth: Path | None = None
    draws: int = 16
    chunks: int | None = None
    seed: int = 0
    cache: Path | None = None
    out: Path = Path("benchmarks/results/calibration.json")
    probe: ProbeConfig = field(default_factory=ProbeConfig)


class Draws(NamedTuple):
    """D draws of B rollouts of M chunks, as a probe reads them.

    Attributes:
        read: ``(B, D, M, 7)`` in metres, as :data:`benchmarks.rollout_errors.QUANTITIES` names them.
        lifted: whether the cube was lifted after any chunk, ``(B, D)`` bool.
        spread: standard deviation over the rollouts of the states after each chunk ``(D, M)``, mean of all numbers.
    """

    read: Tensor
    lifted: Tensor
    spread: Tensor


def run(config: CalibrationConfig) -> list[Row]:
    """Measure, print, write JSON and a picture; returns the rows.

    Raises:
        ValueError: the data lack simulator columns, no episode is long enough, no world is named, or ``draws`` is
            below 2.
    """
    if not config.world:
        raise ValueError("no world is named; give at least one with --world")
    if config.draws < 2:
        raise ValueError(f"draws={config.draws} must be at least 2: a spread takes several")
    dataset, folders = EpisodeDataset(config.data), [world_folder(name) for name in config.world]
    views = Views(
        dataset, config.split, config.cache or config.data / "cache", chunks=config.chunks, probe=config.probe
    )
    view = views.of(folders[0])
    held_out = view.held_out
    first = view.states[held_out.frames[:, 0]]
    truths = {
        config.split: Truth(held_out.start, held_out.actions, held_out.real[:, None], held_out.truth[:, None], first)
    }
    if config.truth is not None:
        truths |= read_truth(config.truth)
    rows: list[Row] = []
    for setting, truth in truths.items():
        scores = _Scores(config, setting, truth, view.probe, read_config(folders[0]).task)
        members: dict[str, RegressionWorldModel] = {}
        for folder in folders:
            for name in dynamics_in(folder):
                of_world = "" if len(folders) == 1 else f", {folder.name}"
                model = load_model(folder, name)
                scores.add(name + of_world, model)
                if isinstance(model, RegressionWorldModel):
                    scores.add(f"{GAUSSIAN}{of_world}", GaussianRegression.around(model))
                    members.setdefault(weights_digest(model.regression.mixer), model)
        if len(members) > 1:
            scores.add(f"ensemble of {len(members)} regressions", EnsembleRegression.of([*members.values()]))
        scores.add_floor()
        rows += scores.finished()
    write_rows(config.out, rows)
    print_rows([row for row in rows if "bin=" not in row.setting and "rank=" not in row.setting], "calibration")
    plot_calibration(rows, beside(config.out, ".png"))
    return rows


@torch.inference_mode()
def draw(model: WorldModel, truth: Truth, probe: AttentiveProbe, draws: int, seed: int) -> Draws:
    """Roll a model out ``draws`` times; one that takes no noise once, as all its draws are alike."""
    count = draws if model.stochastic else 1
    first = probe(truth.start)[:, None, 2]
    read, lifted, spreads = [], [], []
    for number in range(count):
        states = open_loop(model, truth.start, truth.actions, seed=seed * 1000 + number).features
        read.append(torch.stack([probe(after) for after in states.unbind(1)], dim=1))
        lifted.append((read[-1][..., 2] - first > LIFTED_METRES).any(dim=1))
        spreads.append(spread(states))
    return Draws(torch.stack(read, dim=1), torch.stack(lifted, dim=1), torch.stack(spreads))


class _Scores:
    """Scores of every contender against one truth, as rows."""

    def __init__(self, config: CalibrationConfig, setting: str, truth: Truth, probe: AttentiveProbe, task: str) -> None:
        self._config, self._setting, self._truth, self._probe, self._task = config, setting, truth, probe, task
        first = truth.first[:, None, None, 2]
        self._lifted = (truth.read[..., 2] - first > LIFTED_METRES).any(dim=2)
        self._real_spread = spread(truth.states[:, 0].float())
        self._facts, self._rows = provenance(), list[Row]()
        self._energies: dict[str, dict[str, np.ndarray]] = {}

    def add(self, method: str, model: WorldModel) -> None:
        """Score a model's draws."""
        config, truth = self._config, self._truth
        draws = draw(model, truth, self._probe, config.draws, config.seed)
        probability = draws.lifted.float().mean(dim=1)
        brier = brier_score(probability[:, None], self._lifted).mean(dim=1)
        self._row(method, "brier_lifted", self._setting, brier.numpy(), "1")
        happened = self._lifted.flatten()
        repeated = probability[:, None].expand_as(self._lifted).flatten()
        error = expected_calibration_error(repeated, happened)
        self._value(method, "expected_calibration_error", self._setting, error, len(happened), "1")
        doubtful = ((probability > 0.1) & (probability < 0.9)).float()
        self._row(method, "doubtful_share", self._setting, doubtful.numpy(), "1")
        self._reliability(method, repeated, happened)
        for name in READ:
            self._quantity(method, name, draws.read[..., QUANTITIES[name]])
        ratio = (draws.spread.mean(dim=0) / self._real_spread)[-1]
        self._value(method, "feature_spread", self._last, float(ratio), len(truth.start), "1")

    def add_floor(self) -> None:
        """What the truth's own other replays score, where there are several."""
        if self._truth.read.shape[1] < 2:
            return
        share = self._lifted.float().mean(dim=1)
        self._row("other replays", "brier_lifted", self._setting, (share * (1 - share)).numpy(), "1")
        for name in READ:
            floor = energy_score_floor(self._truth.read[:, :, -1, QUANTITIES[name]]) * 100
            self._row("other replays", "energy_score_cm", f"{self._last},{name}", floor.numpy(), "cm")
            self._energies.setdefault("other replays", {})[name] = floor.numpy()

    def finished(self) -> list[Row]:
        """All rows, with the ratios of energy scores to the regression's."""
        base = next((name for name in self._energies if name.split(",")[0] == "regression"), None)
        for method, energies in self._energies.items():
            for name, values in energies.items():
                if base is None or method == base:
                    continue
                pairs = np.stack([values, self._energies[base][name]])
                picks = np.random.default_rng(self._config.seed).integers(pairs.shape[1], size=(2000, pairs.shape[1]))
                sums = pairs[:, picks].sum(axis=2)
                ratios = sums[0] / np.maximum(sums[1], 1e-12)
                low, high = np.quantile(ratios, [0.025, 0.975])
                value = float(pairs[0].sum() / max(pairs[1].sum(), 1e-12))
                setting = f"{self._last},{name}"
                self._append(method, "energy_score_ratio_vs_regression", setting, value, low, high, pairs.shape[1], "1")
        return self._rows

    @property
    def _last(self) -> str:
        return f"{self._setting},chunks={self._truth.actions.shape[1]}"

    def _quantity(self, method: str, name: str, read: Tensor) -> None:
        """Scores of draws ``(B, D, M, d)`` of one quantity."""
        truth = self._truth.read[..., QUANTITIES[name]]
        last = read.shape[2]
        for chunk in sorted({1, min(2, last), min(4, last), last}):
            draws, replays = read[:, :, chunk - 1], truth[:, :, chunk - 1]
            energy = energy_score_of_replays(draws, replays) * 100
            setting = f"{self._setting},chunks={chunk},{name}"
            self._row(method, "energy_score_cm", setting, energy.numpy(), "cm")
            distance = torch.cdist(draws, replays).mul(100)
            self._row(method, "one_sample_error_cm", setting, distance.mean(dim=(1, 2)).numpy(), "cm")
            if chunk < last:
                continue
            self._energies.setdefault(method, {})[name] = energy.numpy()
            mean = (draws.mean(dim=1)[:, None] - replays).norm(dim=2).mean(dim=1) * 100
            self._row(method, "mean_of_draws_error_cm", setting, mean.numpy(), "cm")
            self._row(method, "best_of_draws_error_cm", setting, distance.amin(dim=1).mean(dim=1).numpy(), "cm")
            if draws.shape[1] > 1:
                first = replays[:, 0]
                self._value(method, "spread_skill", setting, spread_skill(draws, first), len(first), "1")
                generator = torch.Generator().manual_seed(self._config.seed)
                place = ranks(draws[..., -1].contiguous(), first[..., -1].contiguous(), generator)  # height, or opening
                counts = torch.bincount(place, minlength=draws.shape[1] + 1) / len(place)
                for rank, count in enumerate(counts.tolist()):
                    self._value(method, "rank_share", f"{setting},rank={rank}", count, len(place), "1")

    def _reliability(self, method: str, probability: Tensor, happened: Tensor) -> None:
        bins = bins_of(probability)
        for number in range(10):
            inside = bins == number
            if inside.any():
                setting = f"{self._setting},bin={float(probability[inside].mean()):.3f}"
                frequency = float(happened[inside].float().mean())
                self._value(method, "lifted_frequency", setting, frequency, int(inside.sum()), "1")

    def _row(self, method: str, metric: str, setting: str, values: np.ndarray, unit: str) -> None:
        value, low, high = bootstrap_mean(values, resamples=2000, seed=self._config.seed)
        self._append(method, metric, setting, value, low, high, len(values), unit)

    def _value(self, method: str, metric: str, setting: str, value: float, n: int, unit: str) -> None:
        self._append(method, metric, setting, value, None, None, n, unit)

    def _append(
        self, method: str, metric: str, setting: str, value: float, low: float | None, high: float | None, n: int,
        unit: str,
    ) -> None:  # fmt: skip
        seeds = f"{self._config.draws} draws, noise {self._config.seed}"
        row = Row("calibration", self._task, method, metric, setting, value, low, high, n, seeds, unit, **self._facts)
        self._rows.append(row)
