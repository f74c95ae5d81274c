"""`rla-gym bench calibration`: are the dreams' draws spread as the truth is? Proper scores of sampled futures.

A dream that always predicts the mean of what may come is sure where it should doubt. So draws are judged as a
distribution: by the energy score of what a probe reads off them, by the Brier score of "lifted", by their spread over
their skill, and by the ranks of the truth among them. Truth is either what happened in held-out episodes, once each
(setting ``report``), or what the simulator does many times from one state under hidden causes (setting ``hidden``, with
``--truth``); without hidden causes (``deterministic``) every replay is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.statistics import resampled_means
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
from world_models.data_of_world import open_data
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
        world: names, paths or ``hf://owner/name`` of worlds with one encoder, of one recipe and several training seeds;
            all of their dynamics are contenders, scored over the seeds, and so is an ensemble of their regressions,
            where these differ.
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
    folders = [world_folder(name) for name in config.world]
    dataset = open_data(config.data, read_config(folders[0]))
    views = Views(
        dataset, config.split, config.cache or config.data / "cache", chunks=config.chunks, probe=config.probe
    )
    view = views.of(folders[0])
    held_out = view.held_out
    first = view.states[held_out.frames[:, 0]]
    episodes = torch.arange(len(first))
    truths = {
        config.split: Truth(
            held_out.start, held_out.actions, held_out.real[:, None], held_out.truth[:, None], first, episodes
        )
    }
    if config.truth is not None:
        truths |= read_truth(config.truth)
    rows: list[Row] = []
    contenders = _contenders(folders)
    for setting, truth in truths.items():
        scores = _Scores(config, setting, truth, view.probe, read_config(folders[0]).task)
        for method, models in contenders.items():
            scores.add(method, models)
        scores.add_floors()
        rows += scores.finished()
    write_rows(config.out, rows)
    print_rows([row for row in rows if "bin=" not in row.setting and "rank=" not in row.setting], "calibration")
    plot_calibration(rows, beside(config.out, ".png"))
    return rows


def _contenders(folders: list[Path]) -> dict[str, list[WorldModel]]:
    """Models by method, one for each world that has its own of these dynamics."""
    found: dict[str, dict[str, WorldModel]] = {}
    for folder in folders:
        for name in dynamics_in(folder):
            model = load_model(folder, name)
            # Worlds may share a regression: a head that expects errors does not make it another.
            digest = weights_digest(model, without=("expected_error", "rgb_decoder"))
            found.setdefault(name, {}).setdefault(digest, model)
    contenders = {name: [*models.values()] for name, models in found.items()}
    regressions = [model for model in contenders.get("regression", ()) if isinstance(model, RegressionWorldModel)]
    if regressions:
        contenders[GAUSSIAN] = [GaussianRegression.around(model) for model in regressions]
    if len(regressions) > 1:
        contenders[f"ensemble of {len(regressions)} regressions"] = [EnsembleRegression.of(regressions)]
    return contenders


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
        episodes = truth.episode.numpy()
        self._is_of = (episodes[:, None] == np.unique(episodes)).astype(np.float64)  # (moments, episodes)
        self._facts, self._rows = provenance(), list[Row]()
        self._energies: dict[str, dict[str, np.ndarray]] = {}

    def add(self, method: str, models: Sequence[WorldModel]) -> None:
        """Score the draws of a method's models, one of each training seed."""
        config, truth = self._config, self._truth
        draws = [draw(model, truth, self._probe, config.draws, config.seed) for model in models]
        probability = torch.stack([each.lifted.float().mean(dim=1) for each in draws])  # (W, B)
        brier = torch.stack([brier_score(each[:, None], self._lifted).mean(dim=1) for each in probability])
        self._row(method, "brier_lifted", self._setting, brier.numpy(), "1")
        happened = self._lifted.flatten().repeat(len(models))
        repeated = probability[:, :, None].expand(-1, *self._lifted.shape).flatten()
        errors = [
            expected_calibration_error(one, truly)
            for one, truly in zip(repeated.chunk(len(models)), happened.chunk(len(models)), strict=True)
        ]
        self._value(method, "expected_calibration_error", self._setting, errors, len(happened))
        doubtful = ((probability > 0.1) & (probability < 0.9)).float()
        self._row(method, "doubtful_share", self._setting, doubtful.numpy(), "1")
        self._reliability(method, repeated, happened, len(models))
        for name in READ:
            self._quantity(method, name, torch.stack([each.read[..., QUANTITIES[name]] for each in draws]))
        ratios = [float((each.spread.mean(dim=0) / self._real_spread)[-1]) for each in draws]
        self._value(method, "feature_spread", self._last, ratios, len(truth.start))

    @torch.inference_mode()
    def add_floors(self) -> None:
        """What the truth's own other replays score, where there are several: as they are, and as the probe reads them.

        A dream is read by the probe, so it cannot be better than the second.
        """
        truth = self._truth
        replays = truth.read.shape[1]
        if replays < 2:
            return
        probed = torch.stack([self._probe(of_moment.flatten(0, 1)) for of_moment in truth.states])
        probed = probed.unflatten(1, (replays, -1))
        height = self._probe(truth.start)[:, None, None, 2]
        lifted = (probed[..., 2] - height > LIFTED_METRES).any(dim=2)
        self._floor("other replays", truth.read, self._lifted)
        self._floor("other replays, probed", probed, lifted)

    def _floor(self, method: str, read: Tensor, lifted: Tensor) -> None:
        """Scores of each replay of the truth by what the others ``read`` ``(N, R, M, 7)`` and ``lifted`` ``(N, R)``."""
        others = (lifted.sum(dim=1, keepdim=True) - lifted.float()) / (lifted.shape[1] - 1)
        pairs = zip(others.unbind(1), self._lifted.unbind(1), strict=True)
        brier = torch.stack([brier_score(share, happened) for share, happened in pairs]).mean(dim=0)
        self._row(method, "brier_lifted", self._setting, brier.numpy()[None], "1")
        error = expected_calibration_error(others.flatten(), self._lifted.flatten())
        self._value(method, "expected_calibration_error", self._setting, [error], self._lifted.numel())
        for name in READ:
            of_read, of_truth = (values[:, :, -1, QUANTITIES[name]] for values in (read, self._truth.read))
            floor = energy_score_floor(of_read, of_truth)[None] * 100
            self._row(method, "energy_score_cm", f"{self._last},{name}", floor.numpy(), "cm")
            self._energies.setdefault(method, {})[name] = floor.numpy()

    def finished(self) -> list[Row]:
        """All rows, with the ratios of energy scores to the regression's."""
        base = self._energies.get("regression")
        for method, energies in self._energies.items():
            for name, values in energies.items():
                if base is None or method == "regression":
                    continue
                pairs = np.stack([values.mean(axis=0), base[name].mean(axis=0)])
                of_episodes = np.stack([self._sums(pair) for pair in pairs])
                count = of_episodes.shape[1]
                picks = np.random.default_rng(self._config.seed).integers(count, size=(2000, count))
                sums = of_episodes[:, picks].sum(axis=2)
                low, high = np.quantile(sums[0] / np.maximum(sums[1], 1e-12), [0.025, 0.975])
                value = float(pairs[0].sum() / max(pairs[1].sum(), 1e-12))
                metric, setting = "energy_score_ratio_vs_regression", f"{self._last},{name}"
                self._append(method, metric, setting, value, low, high, len(values[0]), "1", len(values))
        return self._rows

    @property
    def _last(self) -> str:
        return f"{self._setting},chunks={self._truth.actions.shape[1]}"

    def _quantity(self, method: str, name: str, read: Tensor) -> None:
        """Scores of draws ``(W, B, D, M, d)`` of one quantity in W worlds."""
        truth = self._truth.read[..., QUANTITIES[name]]
        last = read.shape[3]
        for chunk in sorted({1, min(2, last), min(4, last), last}):
            draws, replays = read[:, :, :, chunk - 1], truth[:, :, chunk - 1]
            energy = torch.stack([energy_score_of_replays(world, replays) for world in draws]) * 100
            setting = f"{self._setting},chunks={chunk},{name}"
            self._row(method, "energy_score_cm", setting, energy.numpy(), "cm")
            distance = torch.stack([torch.cdist(world, replays) for world in draws]) * 100  # (W, B, D, R)
            self._row(method, "one_sample_error_cm", setting, distance.mean(dim=(2, 3)).numpy(), "cm")
            if chunk < last:
                continue
            self._energies.setdefault(method, {})[name] = energy.numpy()
            mean = (draws.mean(dim=2)[:, :, None] - replays).norm(dim=3).mean(dim=2) * 100
            self._row(method, "mean_of_draws_error_cm", setting, mean.numpy(), "cm")
            best = distance.amin(dim=2).mean(dim=2)
            self._row(method, "best_of_draws_error_cm", setting, best.numpy(), "cm")
            if draws.shape[2] > 1:
                first = replays[:, 0]
                skills = [spread_skill(world, first) for world in draws]
                self._value(method, "spread_skill", setting, skills, len(first))
                self._ranks(method, setting, draws[..., -1], first[:, -1])  # height, or opening

    def _ranks(self, method: str, setting: str, draws: Tensor, truth: Tensor) -> None:
        """Shares of the ranks of the truth ``(B,)`` among draws ``(W, B, D)``."""
        generator = torch.Generator().manual_seed(self._config.seed)
        places = torch.cat([ranks(world.contiguous(), truth.contiguous(), generator) for world in draws])
        counts = torch.bincount(places, minlength=draws.shape[2] + 1) / len(places)
        for rank, count in enumerate(counts.tolist()):
            self._value(method, "rank_share", f"{setting},rank={rank}", [count] * len(draws), len(places))

    def _reliability(self, method: str, probability: Tensor, happened: Tensor, worlds: int) -> None:
        bins = bins_of(probability)
        for number in range(10):
            inside = bins == number
            if inside.any():
                setting = f"{self._setting},bin={float(probability[inside].mean()):.3f}"
                frequency = float(happened[inside].float().mean())
                self._value(method, "lifted_frequency", setting, [frequency] * worlds, int(inside.sum()))

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Values ``(..., N)`` of moments, summed by the episode that they are from, ``(..., episodes)``."""
        sums: np.ndarray = values @ self._is_of
        return sums

    def _row(self, method: str, metric: str, setting: str, values: np.ndarray, unit: str) -> None:
        """A row of values ``(W, N)`` of W worlds; its interval is over worlds and over episodes."""
        worlds, moments = values.shape
        tables = self._sums(values), self._sums(np.ones_like(values))
        resampled = [resampled_means(table, resamples=2000, seed=self._config.seed) for table in tables]
        low, high = np.quantile(resampled[0] / resampled[1], [0.025, 0.975])
        self._append(method, metric, setting, float(values.mean()), float(low), float(high), moments, unit, worlds)

    def _value(self, method: str, metric: str, setting: str, of_worlds: Sequence[float], n: int) -> None:
        """A row without interval of one number for each world."""
        self._append(method, metric, setting, float(np.mean(of_worlds)), None, None, n, "1", len(of_worlds))

    def _append(
        self, method: str, metric: str, setting: str, value: float, low: float | None, high: float | None, n: int,
        unit: str, worlds: int,
    ) -> None:  # fmt: skip
        seeds = f"{worlds} world{'s' * (worlds > 1)}, {self._config.draws} draws, noise {self._config.seed}"
        row = Row("calibration", self._task, method, metric, setting, value, low, high, n, seeds, unit, **self._facts)
        self._rows.append(row)
