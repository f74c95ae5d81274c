"""`rla-gym bench fidelity`: open-loop rollouts against held-out episodes.

Of any dataset: in tokens, in pictures, in proprioception and in success. Where a dataset has simulator columns, as
those of `rla-gym collect` do, also in centimetres and in lifts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.data_fidelity import DataFidelity
from benchmarks.fidelity_rows import FidelityRows
from benchmarks.held_out import HeldOut, Recorded, Views, possible_chunks, probe_errors, recorded_episodes
from benchmarks.picture_errors import sized
from benchmarks.plots import plot_horizon, save_film_strip
from benchmarks.probes import AttentiveProbe, ProbeConfig
from benchmarks.results import Row, print_rows, write_rows
from benchmarks.rollout_errors import QUANTITIES, TokenErrors, has_simulator_columns, rollout_errors, token_errors
from rewards import SuccessDetector
from rewards.success import CONFIG_FILE as DETECTOR_FILE
from rla_gym.tasks import TASKS, episode_chunks, get_task
from world_models.base import WorldModel
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features, cache_frames
from world_models.data_of_world import open_data
from world_models.files import beside
from world_models.io import (
    DYNAMICS,
    default_dynamics,
    dynamics_in,
    load_encoder,
    load_model,
    read_config,
    world_folder,
)
from world_models.mixer.dynamics import RegressionWorldModel, ResidualFlowWorldModel
from world_models.open_loop import open_loop
from world_models.training.checks import check_fits
from world_models.training.model_card import write_model_card

Table = dict[str, list[TokenErrors]]
"""Method -> its errors in each world."""
BASE_PREDICTOR = "residual_flow, base predictor alone"
"""Method: what the residual flow predicts without its flow."""
ERROR_METRICS = ("token_l1_vs_persistence", *(f"{name}_error_cm" for name in QUANTITIES))
"""Metrics of every chunk of every rollout, by which variants of the residual flow are compared."""
PICTURE_METRICS = ("pixel_l1_vs_persistence", "pixel_l1_vs_background", "ssim", "psnr_db")
DATA_METRICS = ("token_l1_vs_persistence", *PICTURE_METRICS[:3])
"""Metrics of a model card where the data have no simulator columns."""
EXAMPLES = 4
"""Episodes of the film strip."""


@dataclass(frozen=True)
class FidelityConfig:
    """Settings of the fidelity benchmark.

    Attributes:
        data: the dataset; any LeRobotDataset that fits the world. Its report episodes are rolled out; its training
            episodes give the background and, where it has simulator columns, fit the probes.
        world: names, paths or ``hf://owner/name``; several are training seeds of one recipe and give one table, with
            intervals over seeds and episodes. The pictures show the first. Rows of a kind of dynamics are of the worlds
            that have it.
        chunks: action chunks in a rollout; None for as many as an episode of the task has and, of
            data without simulator columns, as the longest episode of the split has.
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

    Rows in centimetres, of lifts, and of success at any time are of data with simulator columns alone.

    Raises:
        ValueError: the data do not fit a world, no episode is long enough, or no world is named.
    """
    if not config.world:
        raise ValueError("no world is named; give at least one with --world")
    folders = [world_folder(name) for name in config.world]
    first = read_config(folders[0])
    dataset = open_data(config.data, first)
    for folder in folders:
        check_fits(dataset, read_config(folder))
    chunks = config.chunks or episode_chunks(first.task)
    if config.chunks is None and not has_simulator_columns(dataset):
        chunks = possible_chunks(dataset, config.split, chunks, first.chunk_length)
    frames = cache_frames(dataset, _cache(config))
    of_data = DataFidelity(dataset, frames, config.seed)
    bench = FidelityRows(first.task, chunks, len(folders), config.seed)
    table: Table = {}
    probed: list[dict[str, tuple[float, float]]] = []
    detected: dict[str, list[np.ndarray]] = {}
    for world in _open_worlds(config, dataset, folders, chunks):
        rollouts = {}
        for method, errors, imagined in _roll_out(config, world):
            table.setdefault(method, []).append(errors)
            if method in world.models:
                rollouts[method] = imagined
        of_data.measure(world.folder, world.models, world.features, world.recorded, rollouts)
        if world.detector is not None:
            for method, imagined in rollouts.items():
                found = [world.detector.imagined_success(episode, method) for episode in imagined]
                detected.setdefault(method, []).append(torch.stack(found).numpy())
            if dataset.successes.any():  # where none is marked, nothing may be known of them
                of_data.measure_success(world.models, world.detector, world.features, world.recorded)
        if world.probed is not None:
            probed.append(world.probed)
        if world.folder == folders[0]:
            shown, name = world, default_dynamics(world.folder)
            imagined_by_default = rollouts[name]

    if probed:
        bench.add_probe_rows(probed, int(sum(dataset.lengths[i] for i in dataset.split(config.split))))
    for method, of_worlds in table.items():
        bench.add_rollout_rows(method, of_worlds, shown.recorded)
    if isinstance(shown.recorded, HeldOut):
        for method, successes in detected.items():
            bench.add_success_rows(method, np.stack(successes), shown.recorded)
    of_data.add_rows(bench)
    write_rows(config.out, bench.rows)
    if config.out == folders[0] / "fidelity.json":
        write_model_card(folders[0], _card_metrics(first.task, simulated=bool(probed)))
    _show(config, bench.rows, chunks, len(shown.recorded.kinds))
    _save_film_strip(config, shown.models[name], shown.recorded, imagined_by_default, frames, dataset.fps)
    return bench.rows


def _cache(config: FidelityConfig) -> Path:
    return config.cache or config.data / "cache"


def _card_metrics(task: str, *, simulated: bool) -> Sequence[str]:
    """Metrics of a world's model card."""
    if not simulated:
        return DATA_METRICS
    return get_task(task).card_metrics if task in TASKS else ERROR_METRICS


@dataclass(frozen=True)
class _World:
    """One world and what its encoder makes of the dataset.

    Attributes:
        folder: of the world.
        models: its dynamics by name.
        detector: of success; None where the world has none.
        features: states ``(F, L, C)`` of all frames.
        recorded: the episodes that are rolled out.
        probe: reads simulator states off its states; None where the data have none.
        probed: errors of the probe on real frames.
    """

    folder: Path
    models: dict[str, WorldModel]
    detector: SuccessDetector | None
    features: Tensor
    recorded: Recorded
    probe: AttentiveProbe | None = None
    probed: dict[str, tuple[float, float]] | None = None


def _open_worlds(config: FidelityConfig, dataset: EpisodeDataset, folders: list[Path], chunks: int) -> Iterator[_World]:
    """One world after the other; those of one encoder share what it gives."""
    views = None
    if has_simulator_columns(dataset):
        views = Views(dataset, config.split, _cache(config), chunks=chunks, probe=config.probe)
    for folder in folders:
        models = {name: load_model(folder, name) for name in dynamics_in(folder)}
        detector = SuccessDetector.load(folder) if (folder / DETECTOR_FILE).is_file() else None
        if views is None:
            features = torch.from_numpy(cache_features(dataset, load_encoder(folder), _cache(config)))
            length = next(iter(models.values())).chunk_length
            recorded = recorded_episodes(dataset, config.split, features, chunks=chunks, length=length)
            yield _World(folder, models, detector, features, recorded)
        else:
            view = views.of(folder)
            probed = probe_errors(dataset, config.split, view.probe, view.features, view.states)
            yield _World(folder, models, detector, view.features, view.held_out, view.probe, probed)


def _roll_out(config: FidelityConfig, world: _World) -> Iterator[tuple[str, TokenErrors, Tensor]]:
    """Every method's errors, and what it imagined ``(E, M, L, C)``."""
    start, real = world.recorded.start, world.recorded.real
    for name, model in world.models.items():
        rollout = open_loop(model, start, world.recorded.actions, seed=config.seed)
        yield name, _errors(world, rollout.features, rollout.uncertainty), rollout.features
    flow = world.models.get("residual_flow")
    if isinstance(flow, ResidualFlowWorldModel):
        yield from _variants(config, flow, world)
    still = start[:, None].expand_as(real)
    yield "persistence", _errors(world, still), still
    if isinstance(flow, ResidualFlowWorldModel):
        yield _projected(flow, world)
    yield "real frames", _errors(world, real), real


def _errors(world: _World, imagined: Tensor, uncertainty: Tensor | None = None) -> TokenErrors:
    """Errors in tokens and, where the simulator's truth is known, in centimetres."""
    recorded = world.recorded
    if isinstance(recorded, HeldOut) and world.probe is not None:
        return rollout_errors(imagined, recorded.real, recorded.start, recorded.truth, world.probe, uncertainty)
    return token_errors(imagined, recorded.real, recorded.start, uncertainty)


def _variants(
    config: FidelityConfig, flow: ResidualFlowWorldModel, world: _World
) -> Iterator[tuple[str, TokenErrors, Tensor]]:
    """The residual flow without its flow, and with other numbers of solver steps."""
    start, actions = world.recorded.start, world.recorded.actions
    predicted = open_loop(_base_predictor(flow), start, actions).features
    yield BASE_PREDICTOR, _errors(world, predicted), predicted
    for steps in config.solver_steps:
        imagined = open_loop(flow, start, actions, seed=config.seed, solver_steps=steps).features
        yield f"residual_flow, {steps} solver step{'s' * (steps > 1)}", _errors(world, imagined), imagined


@torch.inference_mode()
def _projected(flow: ResidualFlowWorldModel, world: _World) -> tuple[str, TokenErrors, Tensor]:
    """What the latent projection keeps of every real change over a chunk; each counts as an episode of one chunk."""
    recorded, real = world.recorded, world.recorded.real
    before = torch.cat([recorded.start[:, None], real[:, :-1]], dim=1).flatten(0, 1)
    after = real.flatten(0, 1)
    projected = before + flow.latent_projection.decode(flow.latent_projection.encode(before, after))
    single = replace(recorded, start=before, real=after[:, None])
    if isinstance(single, HeldOut):
        single = replace(single, truth=single.truth.flatten(0, 1)[:, None])
    errors = _errors(replace(world, recorded=single), projected[:, None])
    return "latent_projection", errors, projected.view_as(real)


def _base_predictor(flow: ResidualFlowWorldModel) -> RegressionWorldModel:
    """The residual flow without its flow, as a world model of its own."""
    base = flow.residual_flow.base
    model = RegressionWorldModel(flow.config.with_dynamics({"regression": base.config}), flow.encoder, flow.rgb_decoder)
    model.regression = base
    return model.eval()


def _save_film_strip(
    config: FidelityConfig, model: WorldModel, recorded: Recorded, imagined: Tensor, frames: np.ndarray, fps: float
) -> None:
    """A few episodes, real and imagined: one of each kind, and further ones."""
    _, firsts = np.unique(recorded.kinds, return_index=True)
    order = [*sorted(firsts.tolist()), *sorted(set(range(len(recorded.kinds))) - set(firsts.tolist()))]
    examples = order[:EXAMPLES]
    states = [torch.cat([recorded.start[k : k + 1], imagined[k]]) for k in examples]
    length = recorded.actions.shape[2]
    save_film_strip(
        [sized(frames[recorded.frames[k].numpy()], model.frame_shape).numpy() for k in examples],
        [model.decode(of_episode).numpy() for of_episode in states],
        [f"{recorded.kinds[k]} {recorded.episodes[k]}" for k in examples],
        [chunk * length / fps for chunk in range(imagined.shape[1] + 1)],
        beside(config.out, "_film_strip.png"),
    )


def _show(config: FidelityConfig, rows: list[Row], chunks: int, episodes: int) -> None:
    main = [row for row in rows if row.method in (*DYNAMICS, "persistence")]
    of_values = [row for row in main if re.fullmatch(r"proprioception_\d+_error", row.metric)]
    agreed = [row for row in rows if row.metric == "success_agreement"]
    of_chunks = [row for row in main if re.fullmatch(r"chunks=\d+", row.setting) and row not in of_values + agreed]
    real = [row for row in rows if row.method == "real frames" and row.metric in PICTURE_METRICS]
    variants = [row for row in rows if row.method.startswith("residual_flow,") and row.metric in ERROR_METRICS]
    metrics = list(dict.fromkeys(row.metric for row in of_chunks))
    # Stable: of each metric the residual flow first, its variants next, and then what it is compared with.
    others = sorted([*of_chunks, *variants, *real], key=lambda row: not row.method.startswith("residual_flow"))
    headline = sorted(others, key=lambda row: metrics.index(row.metric))
    by_title = {
        f"fidelity of {', '.join(config.world)} on {episodes} {config.split} episodes": headline,
        "proprioception, in the robot's own units": of_values,
        "the RGB decoder on real frames of those episodes": [row for row in rows if row.method == "rgb_decoder"],
        "probes on all real frames of those episodes": [row for row in rows if row.method == "encoder"],
        "the latent projection alone, a chunk ahead": [row for row in rows if row.method == "latent_projection"],
    }
    for span, title in ((f"chunks={chunks}", "at the end"), (f"chunks=1..{chunks}", "at any time")):
        grasps = [row for row in main if row.setting == span and ("lift" in row.metric or "grasp" in row.metric)]
        kinds = [row for row in main if row.setting.startswith(f"{span},kind=") and "lift" in row.metric]
        by_kind = [replace(row, setting=row.setting.split("=")[-1]) for row in kinds]
        by_title[f"lifts {title}, imagined against real"] = [replace(row, setting="all") for row in grasps] + by_kind
    successes = [row for row in main if "success" in row.metric and row not in agreed]
    by_title["success: the detector in imagined states against the simulator"] = successes
    by_title["success: the detector in imagined last states against the label"] = agreed
    for title, chosen in by_title.items():
        if chosen:
            print_rows(chosen, title)
    plot_horizon([*of_chunks, *real], beside(config.out, ".png"))
