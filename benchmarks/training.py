"""`rla-gym bench training`: what each stage of a training costs here, how it uses the chip, and what data take up."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders import matrix_product
from benchmarks.results import Row, print_methods, provenance, row_of, write_rows
from benchmarks.speed import take_turns
from world_models.config import WorldConfig
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import CPU_BATCH, cache_features, cache_frames, encode_episodes
from world_models.data_of_world import open_data
from world_models.devices import choose_device, has_bfloat16
from world_models.encoders.state import StateEncoder
from world_models.io import load_encoder, read_config, world_folder
from world_models.mixer.dynamics import (
    MixerWorldModel,
    RegressionWorldModel,
    ResidualFlowWorldModel,
    ScoreSamplerWorldModel,
)
from world_models.training.expected_errors import train_expected_errors
from world_models.training.optimisation import LOG_EVERY, OptimisationConfig
from world_models.training.score_sampler_stage import train_score_sampler
from world_models.training.stages import fit_projection, train_regression, train_residual_flow, train_rgb_decoder
from world_models.training.training_data import TrainingData

ENCODE_BATCH = 128
ENCODE_FRAMES, ENCODE_EPISODES = 896, 16
"""Frames that are encoded in a round, and the episodes that they are taken for."""


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the benchmark. Leave the machine alone while it runs.

    Attributes:
        data: folder of a LeRobotDataset v3.0; its features are encoded first, if they are not in the cache.
        world: bundled world's name or a world folder: its encoder and sizes.
        cache: folder of frames and features; None for ``<data>/cache``.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; 0 takes all cores.
        rounds: stretches of iterations of each stage that are timed, after one that is not.
        batch_size: samples in an iteration.
        out: JSON of the result rows.
    """

    data: Path
    world: str = "lift"
    cache: Path | None = None
    device: str = "auto"
    threads: int = 0
    rounds: int = 4
    batch_size: int = 64
    out: Path = Path("benchmarks/results/training.json")


def run(config: TrainingConfig) -> list[Row]:
    """Train every stage for a few iterations in a temporary folder, print a table, write JSON; returns the rows.

    Raises:
        FileNotFoundError: there is no such data or world.
        ValueError: a setting is out of range.
    """
    if not 2 <= config.rounds <= 10:
        raise ValueError(f"rounds={config.rounds}: give 2 to 10, for an interval over them")
    if config.batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {config.batch_size}")
    folder = world_folder(config.world)
    dataset = open_data(config.data, read_config(folder))
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    world, encoder = read_config(folder), load_encoder(folder, device)
    cache = config.cache or config.data / "cache"
    frames = cache_frames(dataset, cache)
    features = cache_features(dataset, encoder, cache)
    facts = provenance(device)

    def row(method: str, metric: str, values: np.ndarray, unit: str, setting: str) -> Row:
        return row_of(
            values, bench="training", task=world.task, method=method, metric=metric, setting=setting, seeds="0",
            unit=unit, **facts,
        )  # fmt: skip

    rows = [row(*measured, setting="data") for measured in _storage(config.data, dataset, features)]
    trained = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    rows += [row(*measured, setting="whole training") for measured in _effort(trained["metrics"])]

    peaks = {}
    for precision in ("float32", "bfloat16"):
        (speeds,) = take_turns([matrix_product(str(device), precision)], config.rounds, 1.0, progress=False)
        peaks[precision] = float(speeds.mean())
    peak = peaks["bfloat16" if has_bfloat16(device) else "float32"]
    setting = f"batch={CPU_BATCH if device.type == 'cpu' else ENCODE_BATCH},device={device.type}"
    speeds, arithmetic = _encoding(
        encoder, frames[:: max(1, len(frames) // ENCODE_FRAMES)][:ENCODE_FRAMES], config.rounds
    )
    rows += [
        row("features", "samples_per_second", speeds, "1/s", setting),
        row("features", "gflops_per_sample", np.array([arithmetic / 1e9]), "GFLOP", setting),
        row("features", "share_of_peak", speeds * arithmetic / peaks["float32"], "fraction", setting),
    ]
    setting = f"batch={config.batch_size},device={device.type}"
    settings = trained["settings"]
    # Worlds of rla-gym 0.1 do not name their longest rollout.
    windows = {name: settings[name] for name in ("first_frame_share", "longest_rollout") if name in settings}
    data = TrainingData.of(dataset, frames, features, device, **windows)
    for stage, train in _stages(world, encoder, data, settings["pushed_chunks"]).items():
        speeds, arithmetic, waited = _timed(stage, train, config)
        rows += [
            row(stage, "samples_per_second", speeds, "1/s", setting),
            row(stage, "gflops_per_sample", np.array([arithmetic / 1e9]), "GFLOP", setting),
            row(stage, "share_of_peak", speeds * arithmetic / peak, "fraction", setting),
            row(stage, "input_share", waited, "fraction", setting),
        ]
    write_rows(config.out, rows)
    for kind in dict.fromkeys(row.setting for row in rows):
        print_methods([row for row in rows if row.setting == kind], f"training: {kind}")
    return rows


Measured = tuple[str, str, np.ndarray, str]
"""Method, metric, values and unit of a row."""


def _storage(folder: Path, dataset: EpisodeDataset, features: np.ndarray) -> list[Measured]:
    """What an hour of robot video takes on disk, as the dataset and as cached features, in MB."""
    hours = dataset.num_frames / dataset.fps / 3600
    files = [path for part in ("data", "videos", "meta") for path in (folder / part).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return [
        ("dataset", "megabytes_per_hour", np.array([size / hours / 1e6]), "MB"),
        ("features", "megabytes_per_hour", np.array([features.nbytes / hours / 1e6]), "MB"),
        ("dataset", "hours", np.array([hours]), "h"),
    ]


def _effort(trained: dict[str, dict[str, float]]) -> list[Measured]:
    """What the world's own training took and reached, as its training.json has it."""
    units = {"seconds": ("training_minutes", 1 / 60, "min"), "training_petaflop": ("training_petaflop", 1.0, "PFLOP")}
    effort = []
    for stage, metrics in trained.items():
        for name, value in metrics.items():
            metric, scale, unit = units.get(name, (name, 1.0, "fraction"))
            if name != "iterations":
                effort.append((stage, metric, np.array([value * scale]), unit))
    return effort


def _encoding(encoder: StateEncoder, frames: np.ndarray, rounds: int) -> tuple[np.ndarray, float]:
    """Frames encoded in a second as the feature cache does it, per round, and the operations for one of them."""
    episodes = []
    for part in np.array_split(np.asarray(frames), ENCODE_EPISODES):
        episodes.append(
            (part, torch.zeros(len(part), encoder.proprioception_dim) if encoder.proprioception_dim else None)
        )
    batch, proprioception = torch.from_numpy(episodes[0][0][:1]).to(encoder.device), episodes[0][1]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder(batch, None if proprioception is None else proprioception[:1])
    speeds = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in encode_episodes(encoder, episodes, ENCODE_BATCH):
            pass
        speeds.append(len(frames) / (time.perf_counter() - began))
    return np.array(speeds), counter.get_total_flops()


Train = Callable[[OptimisationConfig, Path, dict[str, Any]], Any]
"""Trains a stage with a schedule, in a folder, under a key."""


def _stages(world: WorldConfig, encoder: StateEncoder, data: TrainingData, pushed: int) -> dict[str, Train]:
    """The stages of new models of the world's sizes, in their order."""
    torch.manual_seed(0)
    device = data.actions.device
    models: list[MixerWorldModel] = []
    stages: dict[str, Train] = {}
    if "residual_flow" in world.dynamics:
        flow = ResidualFlowWorldModel(world, encoder).to(device)
        _fit_projection(flow, data)
        models.append(flow)
        stages["residual_flow"] = lambda schedule, folder, key: train_residual_flow(
            flow, data, schedule, folder, key, pushed
        )
    if "regression" in world.dynamics:
        regression = RegressionWorldModel(world, encoder).to(device)
        models.append(regression)
        stages["regression"] = lambda schedule, folder, key: train_regression(
            regression, data, schedule, folder, key, pushed
        )
    if "score_sampler" in world.dynamics:
        sampler = ScoreSamplerWorldModel(world, encoder).to(device)
        models.append(sampler)
        stages["score_sampler"] = lambda schedule, folder, key: train_score_sampler(
            sampler, data, schedule, folder, key, pushed
        )
    first = models[0]
    stages["rgb_decoder"] = lambda schedule, folder, key: train_rgb_decoder(
        first.rgb_decoder, data, schedule, folder, key
    )
    # last, as it freezes the rest of the model
    errors = f"{first.name}_errors"
    stages[errors] = lambda schedule, folder, key: train_expected_errors(errors, first, data, schedule, folder, key)
    return stages


def _fit_projection(flow: ResidualFlowWorldModel, data: TrainingData) -> None:
    """Solve the projection whose latent actions the flow learns; in closed form, so no samples are counted."""
    horizon = flow.config.dynamics["residual_flow"].horizon
    with tempfile.TemporaryDirectory() as folder:
        fit_projection(flow.latent_projection, data, horizon, Path(folder), {})


def _timed(stage: str, train: Train, config: TrainingConfig) -> tuple[np.ndarray, float, np.ndarray]:
    """Of each round samples a second and the share of the time spent waiting for samples; operations per sample."""
    iterations = (config.rounds + 1) * LOG_EVERY + 2
    schedule = OptimisationConfig(iterations, config.batch_size, validate_every=10 * iterations)
    with tempfile.TemporaryDirectory() as folder:
        metrics = train(schedule, Path(folder), {"seed": 0})
        events = EventAccumulator(f"{folder}/tensorboard/{stage}").Reload()
        at = np.array([scalar.wall_time for scalar in events.Scalars(f"losses/{stage}")])
        waited = np.array([scalar.value for scalar in events.Scalars(f"charts/{stage}/input_share")])
    # Between two losses in the log lie as many iterations; the first of them warm up, the very last is profiled.
    speeds = LOG_EVERY * config.batch_size / np.diff(at[1:-1])
    operations = metrics["training_petaflop"] * 1e15 / iterations / config.batch_size
    return speeds, operations, waited[2:-1]
