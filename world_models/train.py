"""From a folder of robot videos to a world: all stages, top to bottom, resumable after a kill at any moment."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from world_models.calibration import calibrate_uncertainty
from world_models.checkpoint import save_json
from world_models.data.demonstrations import Demonstrations
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import (
    PROPRIOCEPTION,
    all_actions,
    cache_features,
    cache_frames,
    episode_offsets,
    readings,
)
from world_models.distillation import DistillationConfig, train_encoder
from world_models.expected_errors import train_expected_errors
from world_models.features import EncoderConfig
from world_models.flow import FlowConfig
from world_models.model_card import write_model_card
from world_models.open_loop import open_loop
from world_models.optimisation import OptimisationConfig, Scalars
from world_models.processes import Processes, launched
from world_models.regression import RegressionConfig
from world_models.rgb_decoder import RGBDecoderConfig
from world_models.rla import RLAConfig
from world_models.stages import TrainingData, train_flow, train_regression, train_rgb_decoder, train_rla, weights_digest
from world_models.state import StateEncoder
from world_models.tensorboard_video import add_animation
from world_models.world_model import (
    DYNAMICS,
    RegressionWorldModel,
    RLAWorldModel,
    WorldConfig,
    WorldModel,
    dynamics_in,
    load_encoder,
    load_model,
    read_config,
    save_encoder,
    world_folder,
)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; the defaults are those of the bundled world.

    Attributes:
        data: folder of a LeRobotDataset v3.0.
        out: the world's folder; checkpoints and TensorBoard files go to its ``stages``.
        cache: folder of decoded frames and encoded features; None for ``<data>/cache``.
        task: name of the task; one that is not rla-gym's own is dreamed as ``RLAWM-v0``, by its world.
        chunk_length: most actions in a chunk.
        proprioception: put the dataset's column ``observation.state`` into the state, where it has one.
        pushed_chunks: the world model trains a quarter of the time on states that it predicted itself, up to this many
            chunks on (the pushforward trick, arXiv 2202.03376), so that roll-outs stay where it knows its way; 0 for
            never.
        first_frame_share: part of the training windows that start at an episode's first frame, as most dreams do.
        demonstrations: successful episodes that ship with the world, as start states, rewards and for cloning.
        first_states: training episodes whose first states ship with the world, as further start states.
        device: ``cpu``, ``cuda`` or ``auto``. Several processes, on one machine or more, are started by
            ``torchrun -m rla_gym train`` or ``accelerate launch --module rla_gym train``; ``data`` and ``out`` must
            then be in sight of all.
        ray: encode the features on a Ray cluster: that of ``RAY_ADDRESS``, else one on this machine.
        threads: CPU threads; 0 takes all cores, shared among the processes of the machine.
        seed: of initial weights and batches.
        encoder_from: take the frozen encoder of this world (bundled name, folder or hub id) instead of training one;
            with the scale of the robot's senses, where that fits the data, so that cached features serve again.
        start_from: go on from this world (bundled name, folder or hub id), with its encoder and its weights, instead of
            from random ones; stages of 0 iterations stay as they are there.
        encoder_only: stop once encoder and demonstrations stand: enough to clone policies, whose roll-outs the data
            of the real world should hold.
        baseline: also train the regression world model, the baseline that the flow is compared with.
        encoder, distillation, rla, flow, regression, rgb_decoder: the parts.
        rla_optimisation, flow_optimisation, regression_optimisation, rgb_optimisation: their schedules.
        error_optimisation: schedule of what flow and baseline are taught about the errors of their own roll-outs.
    """

    data: Path
    out: Path
    cache: Path | None = None
    task: str = "Lift"
    chunk_length: int = 8
    proprioception: bool = True
    pushed_chunks: int = 3
    first_frame_share: float = 0.15
    demonstrations: int = 32
    first_states: int = 512
    device: str = "auto"
    ray: bool = False
    threads: int = 0
    seed: int = 0
    encoder_from: str | None = None
    start_from: str | None = None
    encoder_only: bool = False
    baseline: bool = True
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    rla: RLAConfig = field(default_factory=RLAConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    regression: RegressionConfig = field(default_factory=RegressionConfig)
    rgb_decoder: RGBDecoderConfig = field(default_factory=RGBDecoderConfig)
    rla_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=1500, batch_size=64, learning_rate=2e-3)
    )
    flow_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=5000, batch_size=64, learning_rate=2e-3)
    )
    regression_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=5000, batch_size=64, learning_rate=2e-3)
    )
    rgb_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=2500, batch_size=32)
    )
    error_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=400, batch_size=64, learning_rate=2e-3)
    )


def train(config: TrainConfig) -> dict[str, Scalars]:
    """Train every stage and write the world folder.

    Returns:
        The last validation of each stage, with its seconds.

    Raises:
        FileNotFoundError: ``data`` is no dataset.
        ValueError: a setting is out of range, too few or unfit episodes, or ``out`` holds stages trained with other
            settings.
    """
    if not 0 <= config.first_frame_share <= 1:
        raise ValueError(f"first_frame_share={config.first_frame_share} must be between 0 and 1")
    dataset = EpisodeDataset(config.data)
    demonstrations = _demonstration_episodes(dataset, config.demonstrations)
    _check_data(dataset, max(config.chunk_length, config.distillation.horizon))
    if config.start_from is not None:
        _check_start(config, world_folder(config.start_from))
    processes = launched(config.device)
    device = processes.device
    torch.set_num_threads(config.threads or processes.threads)
    stages, cache = config.out / "stages", config.cache or config.data / "cache"
    data_key = dataset.fingerprint()

    with processes.main_first():
        frames = cache_frames(dataset, cache)
    encoder, encoder_metrics = _encoder(config, dataset, frames, stages, data_key, device)
    with processes.main_first():
        features = cache_features(dataset, encoder, cache, ray=config.ray)
    data = TrainingData.of(dataset, frames, features, device, config.first_frame_share)
    metrics = {"encoder": encoder_metrics}
    key = {"encoder": encoder.fingerprint(), "data": data_key, "seed": config.seed}
    key["first_frame_share"] = config.first_frame_share
    world = WorldConfig(
        config.task,
        tuple(dataset.action_names),
        instruction=dataset.instruction,
        chunk_length=config.chunk_length,
        fps=dataset.fps,
        frame_size=dataset.image_size[0],
        proprioception=encoder.readings // 2,
        encoder=encoder.visual.config,
        rgb_decoder=config.rgb_decoder,
        rla=config.rla,
        flow=config.flow,
        regression=config.regression if config.baseline else None,
    )
    if processes.main:
        save_encoder(config.out, world, encoder)
        _save_starts(config, dataset, demonstrations, data)
    if config.encoder_only:
        return metrics

    torch.manual_seed(config.seed)
    flow_world = RLAWorldModel(world, encoder).to(device)

    models: list[WorldModel] = [flow_world]
    if config.baseline:
        models.append(RegressionWorldModel(world, encoder, flow_world.rgb_decoder).to(device))
    before: dict[str, Scalars] = {}
    if config.start_from is not None:
        before = _start_from(config.start_from, models)
        metrics |= before
        key["start_from"] = weights_digest(flow_world)
    pushed = config.pushed_chunks
    if config.rla_optimisation.iterations:
        metrics["rla"] = train_rla(flow_world.rla, data, config.rla_optimisation, stages, key)
    if config.flow_optimisation.iterations:
        metrics["flow"] = train_flow(flow_world, data, config.flow_optimisation, stages, key, pushed)
    if config.rgb_optimisation.iterations:
        metrics["rgb_decoder"] = train_rgb_decoder(flow_world.rgb_decoder, data, config.rgb_optimisation, stages, key)
    for model in models[1:]:
        assert isinstance(model, RegressionWorldModel)
        if config.regression_optimisation.iterations:
            metrics["regression"] = train_regression(model, data, config.regression_optimisation, stages, key, pushed)
    for name, model in zip(DYNAMICS, models, strict=False):
        if config.error_optimisation.iterations:
            stage = f"{name}_errors"
            metrics[stage] = train_expected_errors(stage, model, data, config.error_optimisation, stages, key)
    metrics = {stage: _with_effort_before(found, before.get(stage, {})) for stage, found in metrics.items()}
    if not processes.main:
        return metrics
    for model in models:
        calibrate_uncertainty(model, data.validation)
        # fp16 halves the file; the world that is measured is the one that is read back.
        model.save(config.out, torch.float16)
    _log_animation(flow_world, data, stages)
    facts = {"metrics": metrics, "data": _describe(dataset), "hardware": _hardware(processes)}
    save_json(config.out / "training.json", {**facts, "settings": plain_settings(config)})
    write_model_card(config.out)
    return metrics


def _encoder(
    config: TrainConfig, dataset: EpisodeDataset, frames: np.ndarray, stages: Path, data_key: str, device: torch.device
) -> tuple[StateEncoder, Scalars]:
    if config.start_from is not None:
        return load_encoder(config.start_from, device), {}
    senses = None
    if config.proprioception and PROPRIOCEPTION in dataset.columns:
        senses = torch.cat([readings(dataset, int(index)) for index in dataset.split("train")])
    metrics: Scalars = {}
    if config.encoder_from is not None:
        given = load_encoder(config.encoder_from, device)
        # With the scale of the senses as it is, what was encoded of a dataset that has grown serves again.
        if given.proprioception is not None and senses is not None and given.proprioception.fits(senses.to(device)):
            return given, {}
        visual = given.visual
    else:
        visual, metrics = train_encoder(
            config.distillation,
            config.encoder,
            frames,
            all_actions(dataset),
            episode_offsets(dataset.lengths),
            dataset.split("train"),
            dataset.split("validation"),
            stages,
            key={"data": data_key, "seed": config.seed},
            device=device,
        )
    encoder = StateEncoder(visual, 0 if senses is None else senses.shape[1] // 2)
    if encoder.proprioception is not None and senses is not None:
        encoder.proprioception.fit(senses)
    launched(config.device).copy_from_main(encoder)
    # Weights ship as float16: round them now, so that every later stage sees the states that users will get.
    return encoder.half().float().to(device), metrics


def _save_starts(config: TrainConfig, dataset: EpisodeDataset, demonstrations: list[int], data: TrainingData) -> None:
    """Write demonstrations and first states, where dreams begin."""
    spans = [slice(int(data.offsets[index]), int(data.offsets[index + 1])) for index in demonstrations]
    episodes = dataset.split("train")
    spread = np.linspace(0, len(episodes) - 1, min(config.first_states, len(episodes))).astype(int)
    first_states = data.features[data.offsets[episodes[spread]]].cpu() if len(spread) else None
    Demonstrations.stack(
        [data.features[span].cpu() for span in spans], [data.actions[span].cpu() for span in spans], first_states
    ).save(config.out / "starts.safetensors")


def _check_start(config: TrainConfig, folder: Path) -> None:
    """Raise ValueError if a training cannot go on from the world in a folder as asked."""
    held = read_config(folder)
    if config.task != held.task:
        raise ValueError(f"{folder} is a world of task {held.task!r}, not {config.task!r}: pass --task {held.task}")
    if held.proprioception and not config.proprioception:
        raise ValueError(f"{folder} has proprioception in its states: leave --no-proprioception out, or train anew")
    if config.baseline and "regression" not in dynamics_in(folder):
        raise ValueError(f"{folder} has no regression to go on from: pass --no-baseline")


def _start_from(name: str, models: list[WorldModel]) -> dict[str, Scalars]:
    """Give models the weights of a world; returns what the world says of its stages.

    Raises:
        FileNotFoundError, ValueError: there is no such world, or it has other sizes or lacks a part.
    """
    folder = world_folder(name)
    for model, dynamics in zip(models, DYNAMICS, strict=False):
        device = next(model.parameters()).device
        try:
            model.load_state_dict(load_model(folder, dynamics, device).state_dict())
        except RuntimeError as error:
            raise ValueError(f"{folder} has other sizes than this training asks for: {error}") from error
    metrics: dict[str, Scalars] = json.loads((folder / "training.json").read_text())["metrics"]
    return metrics


def _with_effort_before(metrics: Scalars, before: Scalars) -> Scalars:
    """A stage's scalars; what was spent on the weights that it started from counts too."""
    if metrics is before:
        return metrics
    effort = ("seconds", "iterations", "training_petaflop")
    return {name: value + before.get(name, 0.0) * (name in effort) for name, value in metrics.items()}


def _check_data(dataset: EpisodeDataset, span: int) -> None:
    height, width = dataset.image_size
    if height != width:
        raise ValueError(f"{dataset.root} has frames of {height} x {width} pixels; crop or pad its videos to squares")
    for split in ("train", "validation"):
        if not any(dataset.lengths[index] > span for index in dataset.split(split)):
            raise ValueError(
                f"{dataset.root} has no episode longer than {span} frames in its {split} split; collect at least 20 "
                "episodes, and longer ones than a chunk"
            )
    actions = all_actions(dataset)
    largest = float(np.abs(actions).max()) if actions.size else float("nan")
    if not largest <= 1.0:
        raise ValueError(
            f"{dataset.root} has actions up to {largest:.3g}; environments take them in [-1, 1], so scale the column "
            "`action` (and remember the scale for the robot)"
        )


def _demonstration_episodes(dataset: EpisodeDataset, count: int) -> list[int]:
    """Successful training episodes, experts first: what a user would call demonstrations."""
    successful = [int(index) for index in dataset.split("train") if dataset.successes[index]]
    experts = [index for index in successful if dataset.kinds[index] == "expert"]
    chosen = (experts or successful)[:count]
    if not chosen:
        raise ValueError(
            f"{dataset.root} has no successful episode in its train split; demonstrations are where roll-outs start "
            "and what rewards compare with, so collect some (their column next.success ends true)"
        )
    return chosen


def _log_animation(world: WorldModel, data: TrainingData, folder: Path, count: int = 3) -> None:
    """Real (top) and dream (bottom) of a few validation episodes, in TensorBoard."""
    writer = SummaryWriter(str(folder / "tensorboard" / "dream"))
    step = world.chunk_length
    for index in data.dataset.split("validation")[:count]:
        first, last = int(data.offsets[index]), int(data.offsets[index + 1])
        chunks = (last - 1 - first) // step
        if chunks == 0:
            continue
        actions = data.actions[first : first + chunks * step].view(1, chunks, step, -1)
        start = data.features[first : first + 1].float()
        dream = world.decode(torch.cat([start, open_loop(world, start, actions).features[0]])).cpu().numpy()
        real = data.frames[first : first + chunks * step + 1 : step]
        add_animation(writer, f"open_loop/episode_{index}", np.concatenate([real, dream], axis=1), 0)
    writer.close()


def _describe(dataset: EpisodeDataset) -> dict[str, Any]:
    kinds = sorted(set(dataset.kinds))
    return {
        "episodes": len(dataset),
        "frames": int(dataset.num_frames),
        "kinds": {kind: dataset.kinds.count(kind) for kind in kinds},
        "successful": int(dataset.successes.sum()),
        "splits": {split: len(dataset.split(split)) for split in ("train", "validation", "report")},
    }


def _hardware(processes: Processes) -> str:
    if processes.device.type == "cuda":
        name = torch.cuda.get_device_name(processes.device)
        return name if processes.count == 1 else f"{processes.count} x {name}"
    return f"{os.cpu_count()} cores, {platform.machine()}, no GPU"


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    """Settings as JSON holds them, but for where data and world lie."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in {"data", "out"}}
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain
