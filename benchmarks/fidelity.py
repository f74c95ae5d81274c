"""`rla-gym bench fidelity`: open-loop rollouts against held-out episodes, in tokens and in centimetres."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agents.statistics import resampled_means, wilson_interval
from benchmarks.held_out import HeldOut, Views, probe_errors
from benchmarks.plots import plot_horizon, save_film_strip
from benchmarks.probes import AttentiveProbe, ProbeConfig
from benchmarks.results import Row, print_rows, provenance, write_rows
from benchmarks.rollout_errors import QUANTITIES, RolloutErrors, rollout_errors, worst_tenth_auroc
from rewards import SuccessDetector
from rla_gym.tasks import TASKS, episode_chunks, get_task
from world_models.base import WorldModel
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_frames
from world_models.files import beside
from world_models.io import DYNAMICS, default_dynamics, dynamics_in, load_model, read_config, world_folder
from world_models.mixer.dynamics import RegressionWorldModel, ResidualFlowWorldModel
from world_models.open_loop import open_loop
from world_models.training.model_card import write_model_card

Table = dict[str, list[RolloutErrors]]
"""Method -> its errors in each world."""
BASE_PREDICTOR = "residual_flow, base predictor alone"
"""Method: what the residual flow predicts without its flow."""
ERROR_METRICS = ("token_l1_vs_persistence", *(f"{name}_error_cm" for name in QUANTITIES))
"""Metrics of every chunk of every rollout, by which variants of the residual flow are compared."""


@dataclass(frozen=True)
class FidelityConfig:
    """Settings of the fidelity benchmark.

    Attributes:
        data: the dataset; its report episodes are rolled out, its training episodes fit the probes.
        world: names, paths or ``hf://owner/name``; several are training seeds of one recipe and give one table, with
            intervals over seeds and episodes. The pictures show the first. Rows of a kind of dynamics are of the worlds
            that have it.
        chunks: action chunks in a rollout; None for as many as an episode of the task has.
        split: which episodes are rolled out; ``report`` for numbers that are published.
        solver_steps: numbers of Euler steps of the flow to compare with the world's own.
        seed: of the flow's noise and of the bootstrap.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows; pictures lie beside it. Written to ``<world>/fidelity.json``, they also go into
            the world's model card.
        probe: size and schedule of the probes.
    """

    data: Path
    world: tuple[str, ...] = ("lift",)
    chunks: int | None = None
    split: str = "report"
    solver_steps: tuple[int, ...] = (1, 2, 30)
    seed: int = 0
    cache: Path | None = None
    out: Path = Path("benchmarks/results/fidelity.json")
    probe: ProbeConfig = field(default_factory=ProbeConfig)


def run(config: FidelityConfig) -> list[Row]:
    """Measure, print, write JSON and pictures; returns the rows.

    Raises:
        ValueError: the data lack simulator columns, no episode is long enough, or no world is named.
    """
    if not config.world:
        raise ValueError("no world is named; give at least one with --world")
    dataset = EpisodeDataset(config.data)
    cache = config.cache or config.data / "cache"
    views = Views(dataset, config.split, cache, chunks=config.chunks, probe=config.probe)
    folders = [world_folder(name) for name in config.world]
    task = read_config(folders[0]).task
    chunks = config.chunks or episode_chunks(task)
    bench = _Bench(config, task, chunks, len(folders))
    table: Table = {}
    probed: list[dict[str, tuple[float, float]]] = []
    detected: dict[str, list[np.ndarray]] = {}
    pictured: tuple[WorldModel, Tensor] | None = None
    for folder in folders:
        models = {name: load_model(folder, name) for name in dynamics_in(folder)}
        detector = SuccessDetector.load(folder)
        view = views.of(folder)
        held_out = view.held_out
        probed.append(probe_errors(dataset, config.split, view.probe, view.features, view.states))
        for method, errors, imagined in _roll_out(config, models, view.probe, held_out):
            table.setdefault(method, []).append(errors)
            if method in models:
                success = torch.stack([detector.imagined_success(episode, method) for episode in imagined])
                detected.setdefault(method, []).append(success.numpy())
            if pictured is None and method == default_dynamics(folder):
                pictured = models[method], imagined

    bench.add_probe_rows(probed, int(sum(dataset.lengths[i] for i in dataset.split(config.split))))
    for method, of_worlds in table.items():
        bench.add_rows(method, of_worlds, held_out)
    for method, successes in detected.items():
        bench.add_success_rows(method, np.stack(successes), held_out)
    write_rows(config.out, bench.rows)
    if config.out == folders[0] / "fidelity.json":
        write_model_card(folders[0], get_task(task).card_metrics if task in TASKS else ERROR_METRICS)
    _show(config, bench.rows, chunks, len(held_out.kinds))
    assert pictured is not None
    model, imagined = pictured
    examples = [k for kind in dict.fromkeys(held_out.kinds) for k in np.flatnonzero(held_out.kinds == kind)[:1]][:4]
    frames = cache_frames(dataset, cache)
    save_film_strip(
        [frames[held_out.frames[k].numpy()] for k in examples],
        [model.decode(torch.cat([held_out.start[k : k + 1], imagined[k]])).numpy() for k in examples],
        [held_out.kinds[k] for k in examples],
        beside(config.out, "_film_strip.png"),
    )
    return bench.rows


def _roll_out(
    config: FidelityConfig, models: dict[str, WorldModel], probe: AttentiveProbe, held_out: HeldOut
) -> Iterator[tuple[str, RolloutErrors, Tensor]]:
    """Every method's errors, and what it imagined ``(E, M, L, C)``."""
    start, real, truth = held_out.start, held_out.real, held_out.truth
    for name, model in models.items():
        rollout = open_loop(model, start, held_out.actions, seed=config.seed)
        yield name, rollout_errors(rollout.features, real, start, truth, probe, rollout.uncertainty), rollout.features
    flow = models.get("residual_flow")
    if isinstance(flow, ResidualFlowWorldModel):
        yield from _variants(config, flow, probe, held_out)
    still = start[:, None].expand_as(real)
    yield "persistence", rollout_errors(still, real, start, truth, probe), still
    if isinstance(flow, ResidualFlowWorldModel):
        yield _projected(flow, probe, held_out)
    yield "real frames", rollout_errors(real, real, start, truth, probe), real


def _variants(
    config: FidelityConfig, flow: ResidualFlowWorldModel, probe: AttentiveProbe, held_out: HeldOut
) -> Iterator[tuple[str, RolloutErrors, Tensor]]:
    """The residual flow without its flow, and with other numbers of solver steps."""
    start, real, truth = held_out.start, held_out.real, held_out.truth
    predicted = open_loop(_base_predictor(flow), start, held_out.actions).features
    yield BASE_PREDICTOR, rollout_errors(predicted, real, start, truth, probe), predicted
    for steps in config.solver_steps:
        imagined = open_loop(flow, start, held_out.actions, seed=config.seed, solver_steps=steps).features
        errors = rollout_errors(imagined, real, start, truth, probe)
        yield f"residual_flow, {steps} solver step{'s' * (steps > 1)}", errors, imagined


@torch.inference_mode()
def _projected(
    flow: ResidualFlowWorldModel, probe: AttentiveProbe, held_out: HeldOut
) -> tuple[str, RolloutErrors, Tensor]:
    """What the latent projection keeps of every real change over a chunk; each counts as an episode of one chunk."""
    real = held_out.real
    before = torch.cat([held_out.start[:, None], real[:, :-1]], dim=1).flatten(0, 1)
    after, truth = real.flatten(0, 1), held_out.truth.flatten(0, 1)
    projected = before + flow.latent_projection.decode(flow.latent_projection.encode(before, after))
    errors = rollout_errors(projected[:, None], after[:, None], before, truth[:, None], probe)
    return "latent_projection", errors, projected.view_as(real)


def _base_predictor(flow: ResidualFlowWorldModel) -> RegressionWorldModel:
    """The residual flow without its flow, as a world model of its own."""
    base = flow.residual_flow.base
    model = RegressionWorldModel(flow.config.with_dynamics({"regression": base.config}), flow.encoder, flow.rgb_decoder)
    model.regression = base
    return model.eval()


class _Bench:
    """Collects the rows of one run."""

    def __init__(self, config: FidelityConfig, task: str, chunks: int, worlds: int) -> None:
        self.config, self.task, self.chunks, self.worlds = config, task, chunks, worlds
        self.rows: list[Row] = []
        self.facts = provenance()

    def add(
        self, method: str, metric: str, setting: str, value: float, samples: np.ndarray | None, n: int, unit: str
    ) -> None:
        """A row; its interval is that of ``samples``, resampled values."""
        low, high = (None, None) if samples is None else map(float, np.quantile(samples, [0.025, 0.975]))
        seeds = f"{self.worlds} world{'s' * (self.worlds > 1)}, noise {self.config.seed}"
        self.rows.append(
            Row("fidelity", self.task, method, metric, setting, value, low, high, n, seeds, unit, **self.facts)
        )

    def add_probe_rows(self, probed: list[dict[str, tuple[float, float]]], n: int) -> None:
        for name in QUANTITIES:
            for column, metric, unit in ((0, f"{name}_error_cm", "cm"), (1, f"{name}_r2", "1")):
                value = float(np.mean([errors[name][column] for errors in probed]))
                self.add("encoder", metric, "real frames", value, None, n, unit)

    def add_rows(self, method: str, worlds: list[RolloutErrors], held_out: HeldOut) -> None:
        """Everything about one method."""
        seed, self.worlds = self.config.seed, len(worlds)  # not every world has every method
        for chunk in range(worlds[0].token.shape[1]):
            single = method == "latent_projection"
            setting = "one chunk, encoded" if single else f"chunks={chunk + 1}"
            for metric, error, still in (
                ("token_l1_vs_persistence", [w.token for w in worlds], [w.persistence for w in worlds]),
                ("still_token_l1_vs_persistence", [w.still[0] for w in worlds], [w.still[1] for w in worlds]),
            ):
                if method == "real frames":
                    continue
                ours, theirs = (np.stack([table[:, chunk] for table in part]) for part in (error, still))
                samples = resampled_means(ours, seed=seed) / resampled_means(theirs, seed=seed)
                self.add(method, metric, setting, float(ours.mean() / theirs.mean()), samples, ours.shape[1], "1")
            for name in QUANTITIES:
                distance = np.stack([world.centimetres[name][:, chunk] for world in worlds])
                samples = resampled_means(distance, seed=seed)
                self.add(method, f"{name}_error_cm", setting, float(distance.mean()), samples, distance.shape[1], "cm")
            if not single and method not in ("persistence", "real frames") and len(held_out.kinds) > 1:
                spread = float(np.mean([world.spread_ratio[chunk] for world in worlds]))
                self.add(method, "feature_spread_ratio", setting, spread, None, len(held_out.kinds), "1")
        if method != "latent_projection":
            imagined = np.stack([world.lifted for world in worlds])
            self._add_grasp_rows(method, f"chunks={self.chunks}", imagined[:, :, -1], held_out.lifted[:, -1], held_out)
            # Success ends an episode of the environment: a lift that is dropped again counts there, too.
            ever = imagined.any(axis=2), held_out.lifted.any(axis=1)
            self._add_grasp_rows(method, f"chunks=1..{self.chunks}", *ever, held_out)
        if worlds[0].uncertainty is not None:
            self._add_uncertainty_rows(method, worlds)

    def add_success_rows(self, method: str, detected: np.ndarray, held_out: HeldOut) -> None:
        """Success that each world's detector finds in imagined states ``(worlds, E, M)``, against the simulator's."""
        self.worlds = len(detected)
        names = ("false_success_rate", "missed_success_rate", "success_balanced_accuracy")
        span = f"chunks=1..{self.chunks}"
        self._add_grasp_rows(method, span, detected.any(axis=2), held_out.succeeded.any(axis=1), held_out, names)

    def _add_grasp_rows(
        self,
        method: str,
        setting: str,
        imagined: np.ndarray,
        happened: np.ndarray,
        held_out: HeldOut,
        names: tuple[str, str, str] = ("false_lift_rate", "missed_lift_rate", "grasp_balanced_accuracy"),
    ) -> None:
        """Imagined outcomes ``(worlds, E)`` against real ones ``(E,)``, of all episodes and of each kind."""
        for kind in ("", *sorted(set(held_out.kinds))):
            chosen = held_out.kinds == kind if kind else np.ones(len(happened), bool)
            rates, samples = [], []
            for metric, among, wrong in (
                (names[0], chosen & ~happened, imagined),
                (names[1], chosen & happened, ~imagined),
            ):
                if not among.any():
                    continue
                hits = wrong[:, among]
                rates.append(float(hits.mean()))
                samples.append(resampled_means(hits, seed=self.config.seed))
                label = f"{setting},kind={kind}" if kind else setting
                self.add(method, metric, label, rates[-1], samples[-1], int(among.sum()), "fraction")
                if self.worlds == 1:  # exact where there is one row, also at 0 and 1
                    low, high = wilson_interval(int(hits.sum()), hits.size)
                    self.rows[-1] = replace(self.rows[-1], low=low, high=high)
            if not kind and len(rates) == 2:
                self.add(method, names[2], setting, 1 - sum(rates) / 2, 1 - np.mean(samples, axis=0),
                         len(happened), "fraction")  # fmt: skip

    def _add_uncertainty_rows(self, method: str, worlds: list[RolloutErrors]) -> None:
        """The uncertainty of each prediction against its actual error: order, and size."""
        scores = [worst_tenth_auroc(w.token, w.uncertainty) for w in worlds if w.uncertainty is not None]
        count, span = worlds[0].token.size, f"chunks=1..{self.chunks}"
        self.add(method, "uncertainty_auroc", span, float(np.mean(scores)), None, count, "1")
        for chunk in range(worlds[0].token.shape[1]):
            expected = np.stack([w.uncertainty[:, chunk] for w in worlds if w.uncertainty is not None])
            actual = np.stack([w.token[:, chunk] for w in worlds])
            samples = resampled_means(expected, seed=self.config.seed) / resampled_means(actual, seed=self.config.seed)
            self.add(method, "uncertainty_vs_error", f"chunks={chunk + 1}", float(expected.mean() / actual.mean()),
                     samples, expected.shape[1], "1")  # fmt: skip


def _show(config: FidelityConfig, rows: list[Row], chunks: int, episodes: int) -> None:
    main = [row for row in rows if row.method in (*DYNAMICS, "persistence")]
    of_chunks = [row for row in main if row.setting.startswith("chunks=") and "," not in row.setting]
    variants = [row for row in rows if row.method.startswith("residual_flow,") and row.metric in ERROR_METRICS]
    metrics = list(dict.fromkeys(row.metric for row in of_chunks))
    # Stable: of each metric the residual flow first, its variants next, and then what it is compared with.
    others = sorted([*of_chunks, *variants], key=lambda row: not row.method.startswith("residual_flow"))
    headline = sorted(others, key=lambda row: metrics.index(row.metric))
    print_rows(headline, f"fidelity of {', '.join(config.world)} on {episodes} {config.split} episodes")
    print_rows([row for row in rows if row.method == "encoder"], "probes on all real frames of those episodes")
    print_rows([row for row in rows if row.method == "latent_projection"], "the latent projection alone, a chunk ahead")
    for span, title in ((f"chunks={chunks}", "at the end"), (f"chunks=1..{chunks}", "at any time")):
        grasps = [row for row in main if row.setting == span and ("lift" in row.metric or "grasp" in row.metric)]
        kinds = [row for row in main if row.setting.startswith(f"{span},kind=") and "lift" in row.metric]
        by_kind = [replace(row, setting=row.setting.split("=")[-1]) for row in kinds]
        print_rows([replace(row, setting="all") for row in grasps] + by_kind, f"lifts {title}, imagined against real")
    successes = [row for row in main if "success" in row.metric]
    print_rows(successes, "success: the detector in imagined states against the simulator")
    plot_horizon(of_chunks, beside(config.out, ".png"))
