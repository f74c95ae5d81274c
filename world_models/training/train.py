"""From a folder of robot videos to a world: all stages, top to bottom, resumable after a kill at any moment."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from world_models.base import WorldModel
from world_models.config import DynamicsName, WorldConfig
from world_models.data.demonstrations import Demonstrations
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import (
    PROPRIOCEPTION,
    all_actions,
    cache_features,
    cache_frames,
    episode_offsets,
    proprioception_of,
)
from world_models.distributed.processes import launched
from world_models.encoders.features import EncoderConfig
from world_models.encoders.state import StateEncoder
from world_models.files import save_json, weights_digest
from world_models.heads.rgb_decoder import RGBDecoderConfig
from world_models.io import (
    DYNAMICS,
    load_encoder,
    read_config,
    save_encoder,
    save_model,
    world_folder,
)
from world_models.mixer.dynamics import RegressionWorldModel, ResidualFlowWorldModel, ScoreSamplerWorldModel
from world_models.mixer.regression import RegressionConfig
from world_models.mixer.residual_flow import ResidualFlowConfig
from world_models.mixer.score_sampler import ScoreSamplerConfig
from world_models.open_loop import open_loop
from world_models.provenance import describe_hardware
from world_models.rla_wm.dynamics import RLAWMConfig, RLAWorldModel
from world_models.training.calibration import calibrate_uncertainty
from world_models.training.checks import check_data, check_start, demonstration_episodes, possible_pushed_chunks
from world_models.training.choose_reading import AskedReading, choose_reading, chunks_of
from world_models.training.expected_errors import train_expected_errors
from world_models.training.feature_encoder import DistillationConfig, train_encoder
from world_models.training.model_card import write_model_card
from world_models.training.optimisation import OptimisationConfig, Scalars
from world_models.training.rla_wm_stages import train_latent_flow, train_rla
from world_models.training.room import check_training_room
from world_models.training.score_sampler_stage import train_score_sampler
from world_models.training.separate_views import SeparateViews
from world_models.training.stages import fit_projection, train_regression, train_residual_flow, train_rgb_decoder
from world_models.training.start_from import Start, start_from
from world_models.training.tensorboard_video import add_animation
from world_models.training.training_data import TrainingData


@dataclass(frozen=True)
class TrainConfig(AskedReading):
    """Settings of a training; the defaults are those of the bundled world.

    Attributes:
        data: folder of a LeRobotDataset v3.0, v2.1 or v2.0; `rla-gym data inspect` says what is in it.
        out: the world's folder; checkpoints and TensorBoard files go to its ``stages``.
        camera: key of the video to train on, where the dataset has several, or keys of several, whose views then lie
            side by side in a frame; the world remembers it.
        cache: folder of decoded frames and encoded features; None for ``<data>/cache``.
        task: name of the task; None for that of `rla-gym collect`'s recordings, and for the folder's name of others. A
            world of a task that rla-gym does not know opens as ``RLAWM-v0``, by its folder.
        chunk_length: most actions in a chunk.
        pushed_chunks: the world model also trains on states that it predicted itself, up to this many chunks on (the
            pushforward trick, arXiv 2202.03376), so that rollouts stay accurate; fewer where episodes are shorter, 0
            for never.
        longest_rollout: chunks of the longest rollouts on which expected errors are trained and calibrated; fewer where
            episodes are shorter.
        first_frame_share: part of the training windows that start at an episode's first frame, as most imagined
            episodes do.
        demonstrations: successful episodes that ship with the world, as initial states, rewards and for cloning.
        first_states: training episodes whose first states ship with the world, as further initial states.
        device: ``cpu``, ``cuda`` or ``auto``. Several processes, on one machine or more, are started by
            ``torchrun -m rla_gym train`` or ``accelerate launch --module rla_gym train``; ``data`` and ``out`` must
            then be in sight of all.
        ray: encode the features on a Ray cluster: that of ``RAY_ADDRESS``, else one on this machine.
        threads: CPU threads; 0 takes all cores, shared among the processes of the machine.
        seed: of initial weights and batches.
        encoder_from: take the frozen encoder of this world (a name, a path, or ``hf://owner/name``) instead of training
            one; with its scale of proprioception, where that fits the data, so that cached features serve again.
        start_from: go on from this world (a name, a path, or ``hf://owner/name``), with its encoder and its weights,
            instead of from random ones; stages of 0 iterations stay as they are there, and dynamics that it lacks begin
            anew.
        encoder_only: stop once encoder and demonstrations stand: enough to clone policies, whose rollouts the data of
            the real world should hold.
        dynamics: what is trained, one after the other; the last is the world's default in every environment. The score
            sampler needs the regression, from whose weights its training begins.
        encoder: the backbone that gives the features.
        distillation: how the projection over it is trained.
        residual_flow: sizes of these dynamics.
        regression: sizes of these dynamics.
        score_sampler: sizes of these dynamics.
        rla_wm: sizes of these dynamics.
        rgb_decoder: sizes of the decoder of pictures.
        residual_flow_optimisation: schedule of the residual flow.
        regression_optimisation: schedule of the regression.
        score_sampler_optimisation: schedule of the score sampler.
        rla_optimisation: schedule of RLA-WM's autoencoder.
        latent_flow_optimisation: schedule of RLA-WM's flow.
        rgb_optimisation: schedule of the decoder of pictures.
        error_optimisation: schedule of what the dynamics are taught about the errors of their own rollouts.
    """

    data: Path
    out: Path
    camera: tuple[str, ...] = ()
    cache: Path | None = None
    task: str | None = None
    chunk_length: int = 8
    pushed_chunks: int = 3
    longest_rollout: int = 9
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
    dynamics: tuple[DynamicsName, ...] = ("regression", "score_sampler")
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    residual_flow: ResidualFlowConfig = field(default_factory=ResidualFlowConfig)
    regression: RegressionConfig = field(default_factory=RegressionConfig)
    score_sampler: ScoreSamplerConfig = field(default_factory=ScoreSamplerConfig)
    rla_wm: RLAWMConfig = field(default_factory=RLAWMConfig)
    rgb_decoder: RGBDecoderConfig = field(default_factory=RGBDecoderConfig)
    residual_flow_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=5000, batch_size=64, learning_rate=2e-3)
    )
    regression_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=5000, batch_size=64, learning_rate=2e-3)
    )
    score_sampler_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=4000, batch_size=64, learning_rate=1e-3)
    )
    rla_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=1500, batch_size=64, learning_rate=1e-3)
    )
    latent_flow_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=3500, batch_size=64, learning_rate=1e-3)
    )
    rgb_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=2500, batch_size=32)
    )
    error_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=400, batch_size=64, learning_rate=2e-3)
    )


def train(config: TrainConfig, tasks: Mapping[str, str] = MappingProxyType({})) -> dict[str, Scalars]:
    """Train every stage and write the world folder.

    Args:
        config: of everything.
        tasks: name of each task that is known, by what it is in words; for data whose task ``config`` does not name.

    Returns:
        The last validation of each stage, with its seconds.

    Raises:
        FileNotFoundError: ``data`` is no dataset.
        ValueError: a setting is out of range, too few or unfit episodes, or ``out`` holds stages trained with other
            settings.
        OSError: a folder cannot be written, or has no room.
    """
    # ---- check, before any work starts
    given = config.start_from or config.encoder_from
    of_given = None if given is None else read_config(world_folder(given))
    dataset, notes = choose_reading(
        config.data, config.camera, () if of_given is None else of_given.cameras, config,
        of_given.reading if of_given is not None and config.start_from is not None else None,
        (config if of_given is None else of_given).encoder.image_size,
    )  # fmt: skip
    name = tasks.get(dataset.instruction) or dataset.root.resolve().name
    config = dataclasses.replace(config, task=config.task or name)
    _check(config, dataset)
    demonstrations = demonstration_episodes(dataset, config.demonstrations, config.chunk_length)
    processes = launched(config.device)
    device = processes.device
    torch.set_num_threads(config.threads or processes.threads)
    stages, cache = config.out / "stages", config.cache or config.data / "cache"
    data_key = dataset.fingerprint()
    if processes.main:
        _check_room(config, dataset, data_key, cache, stages)
    config = _fitted(config, dataset, notes, processes.main)

    # ---- frames, encoder, features: each made once
    with processes.main_first():
        frames = cache_frames(dataset, cache)
    encoder, encoder_metrics = _encoder(config, dataset, frames, stages, data_key, device)
    with processes.main_first():
        features = cache_features(dataset, encoder, cache, ray=config.ray)
    data = TrainingData.of(
        dataset, frames, features, device, first_frame_share=config.first_frame_share,
        longest_rollout=config.longest_rollout, span=config.chunk_length,
    )  # fmt: skip
    metrics = {"encoder": encoder_metrics}
    key = {"encoder": encoder.fingerprint(), "data": data_key, "seed": config.seed}
    key["first_frame_share"] = config.first_frame_share
    world = _world_config(config, dataset, encoder)
    if processes.main:
        save_encoder(config.out, world, encoder)
        _save_demonstrations(config, dataset, demonstrations, data)
    if config.encoder_only:
        return metrics

    # ---- dynamics and RGB decoder
    models = _models(world, encoder, config.seed, device)
    before = Start()
    if config.start_from is not None:
        before = start_from(config.start_from, models)
        metrics |= before.metrics
        key["start_from"] = "-".join(weights_digest(model) for model in models.values())
    metrics |= _train_models(config, models, data, stages, key, before.dynamics)
    metrics = {stage: before.with_effort(stage, scalars) for stage, scalars in metrics.items()}
    if not processes.main:
        return metrics

    # ---- calibrate and write
    for model in models.values():
        calibrate_uncertainty(model, data.validation)
        # fp16 halves the file; the world that is measured is the one that is read back.
        save_model(config.out, model, torch.float16)
    _log_animation(next(iter(models.values())), data, stages)
    facts = {"metrics": metrics, "data": _describe(dataset), "hardware": describe_hardware(device, processes.count)}
    save_json(config.out / "training.json", {**facts, "settings": plain_settings(config)})
    write_model_card(config.out)
    return metrics


def _train_models(
    config: TrainConfig,
    models: dict[str, WorldModel],
    data: TrainingData,
    stages: Path,
    key: dict[str, Any],
    begun: Collection[str],
) -> dict[str, Scalars]:
    """Every stage after the encoder that has iterations; its last validation by name.

    Dynamics in ``begun`` have the weights of the world that this training goes on from.
    """
    metrics: dict[str, Scalars] = {}
    for name, model in models.items():
        if isinstance(model, ResidualFlowWorldModel) and config.residual_flow_optimisation.iterations:
            horizon = config.residual_flow.horizon
            metrics["latent_projection"] = fit_projection(model.latent_projection, data, horizon, stages, key)
            metrics[name] = train_residual_flow(
                model, data, config.residual_flow_optimisation, stages, key, config.pushed_chunks
            )
        if isinstance(model, RegressionWorldModel) and config.regression_optimisation.iterations:
            metrics[name] = train_regression(
                model, data, config.regression_optimisation, stages, key, config.pushed_chunks
            )
        if isinstance(model, ScoreSamplerWorldModel) and config.score_sampler_optimisation.iterations:
            regression = models["regression"]
            if name not in begun and isinstance(regression, RegressionWorldModel):
                model.score_sampler.base.load_state_dict(regression.regression.state_dict())
            metrics[name] = train_score_sampler(
                model, data, config.score_sampler_optimisation, stages, key, config.pushed_chunks
            )
        if isinstance(model, RLAWorldModel):
            if config.rla_optimisation.iterations:
                metrics["rla"] = train_rla(model.rla, data, config.rla_optimisation, stages, key)
            if config.latent_flow_optimisation.iterations:
                metrics["latent_flow"] = train_latent_flow(model, data, config.latent_flow_optimisation, stages, key)
    decoder = next(iter(models.values())).rgb_decoder  # one for all
    if config.rgb_optimisation.iterations:
        metrics["rgb_decoder"] = train_rgb_decoder(decoder, data, config.rgb_optimisation, stages, key)
    for name, model in models.items():
        if config.error_optimisation.iterations:
            stage = f"{name}_errors"
            metrics[stage] = train_expected_errors(stage, model, data, config.error_optimisation, stages, key)
    return metrics


def _world_config(config: TrainConfig, dataset: EpisodeDataset, encoder: StateEncoder) -> WorldConfig:
    assert config.task is not None
    return WorldConfig(
        config.task,
        tuple(dataset.action_names),
        instruction=dataset.instruction,
        chunk_length=config.chunk_length,
        fps=dataset.fps,
        max_chunks=chunks_of(dataset, config.chunk_length),
        camera=dataset.views if len(dataset.views) > 1 else dataset.views[0],
        reading=dataset.reading,
        frame_size=dataset.image_size[0],
        proprioception=encoder.proprioception_dim // 2,
        encoder=encoder.visual.config,
        rgb_decoder=config.rgb_decoder,
        dynamics={name: getattr(config, name) for name in DYNAMICS if name in config.dynamics},
        default_dynamics=config.dynamics[-1],
    )


def _models(world: WorldConfig, encoder: StateEncoder, seed: int, device: torch.device) -> dict[str, WorldModel]:
    """A model of each of the world's dynamics, with one RGB decoder."""
    torch.manual_seed(seed)
    models: dict[str, WorldModel] = {}
    for name in world.dynamics:
        decoder = next(iter(models.values())).rgb_decoder if models else None
        models[name] = DYNAMICS[name](world, encoder, decoder).to(device)
    return models


def _encoder(
    config: TrainConfig, dataset: EpisodeDataset, frames: np.ndarray, stages: Path, data_key: str, device: torch.device
) -> tuple[StateEncoder, Scalars]:
    if config.start_from is not None:
        return load_encoder(config.start_from, device), {}
    proprioception = None
    if config.proprioception and PROPRIOCEPTION in dataset.columns:
        proprioception = torch.cat(
            [proprioception_of(dataset, int(index)) for index in dataset.split("train", config.chunk_length)]
        )
    metrics: Scalars = {}
    if config.encoder_from is not None:
        given = load_encoder(config.encoder_from, device)
        # With its scale of proprioception, what was encoded of a dataset that has grown serves again.
        scale = given.proprioception
        if scale is not None and proprioception is not None and scale.fits(proprioception.to(device)):
            return given, {}
        visual = given.visual
    else:
        views = SeparateViews(frames, len(dataset.views))
        visual, metrics = train_encoder(
            config.distillation,
            config.encoder,
            views,
            np.tile(all_actions(dataset), (len(dataset.views), 1)),
            views.repeated(episode_offsets(dataset.lengths)),
            views.episodes(dataset.split("train", config.chunk_length), len(dataset)),
            views.episodes(dataset.split("validation", config.chunk_length), len(dataset)),
            stages,
            key={"data": data_key, "seed": config.seed},
            device=device,
        )
    count = 0 if proprioception is None else proprioception.shape[1] // 2
    encoder = StateEncoder(visual, count, len(dataset.views))
    if encoder.proprioception is not None and proprioception is not None:
        encoder.proprioception.fit(proprioception)
    launched(config.device).copy_from_main(encoder)
    # Weights ship as float16: round them now, so that every later stage sees the states that users will get.
    return encoder.half().float().to(device), metrics


def _save_demonstrations(
    config: TrainConfig, dataset: EpisodeDataset, demonstrations: list[int], data: TrainingData
) -> None:
    """Write demonstrations and first states, where imagined episodes begin."""
    spans = [slice(int(data.offsets[index]), int(data.offsets[index + 1])) for index in demonstrations]
    episodes = dataset.split("train", config.chunk_length)
    spread = np.linspace(0, len(episodes) - 1, min(config.first_states, len(episodes))).astype(int)
    first_states = data.features[data.offsets[episodes[spread]]].cpu() if len(spread) else None
    Demonstrations.stack(
        [data.features[span].cpu() for span in spans], [data.actions[span].cpu() for span in spans], first_states
    ).save(config.out)


def _check(config: TrainConfig, dataset: EpisodeDataset) -> None:
    """Raise ValueError for settings out of range, for data that cannot train a world, and for an unfit start."""
    if not 0 <= config.first_frame_share <= 1:
        raise ValueError(f"first_frame_share={config.first_frame_share} must be between 0 and 1")
    if not config.dynamics:
        raise ValueError(f"dynamics is empty: name at least one of {', '.join(DYNAMICS)}")
    for dynamics in config.dynamics:
        lacking = [needed for needed in DYNAMICS[dynamics].requires if needed not in config.dynamics]
        if lacking:
            asked = " ".join((lacking[0], *config.dynamics))
            raise ValueError(f"{dynamics} is trained around {lacking[0]}: pass --dynamics {asked}")
    for name, least in (("longest_rollout", 1), ("pushed_chunks", 0), ("chunk_length", 1)):
        if getattr(config, name) < least:
            raise ValueError(f"{name}={getattr(config, name)} must be at least {least}")
    check_data(dataset, max(config.chunk_length, config.distillation.horizon), proprioception=config.proprioception)
    if config.start_from is not None:
        assert config.task is not None
        check_start(
            world_folder(config.start_from), dataset, task=config.task, proprioception=config.proprioception,
            dynamics=config.dynamics,
        )  # fmt: skip


def _check_room(config: TrainConfig, dataset: EpisodeDataset, data_key: str, cache: Path, stages: Path) -> None:
    given = config.start_from or config.encoder_from
    encoder = config.encoder if given is None else read_config(world_folder(given)).encoder
    check_training_room(dataset, data_key, encoder, config.distillation if given is None else None, cache, stages)


def _fitted(config: TrainConfig, dataset: EpisodeDataset, notes: list[str], main: bool) -> TrainConfig:
    """Settings that the episodes' lengths allow; the main process says in a line what is otherwise than asked for."""
    pushed = possible_pushed_chunks(dataset, config.chunk_length, config.pushed_chunks)
    short = len(dataset) - len(dataset.split("all", config.chunk_length))
    step = float(np.median(np.concatenate([np.diff(times) for times in dataset.times()])))
    if pushed < config.pushed_chunks:
        longest = (config.pushed_chunks + 1) * config.chunk_length + 1
        notes.append(
            f"pushed_chunks={config.pushed_chunks} needs a training episode of {longest} frames or more, so it is "
            f"{pushed} (--pushed-chunks {pushed} says the same)"
        )
    if short:
        notes.append(
            f"{short} of {len(dataset)} episodes have {config.chunk_length} frames or fewer, no more than a chunk, and "
            "are left out"
        )
    if abs(step * dataset.fps - 1) > 0.02:
        notes.append(
            f"the timestamps are {step:.4g} s apart, but meta/info.json names {dataset.fps:g} fps, which is taken for "
            "the world's rate"
        )
    for note in notes if main else ():
        print(f"rla-gym: {dataset.root}: {note}", file=sys.stderr)
    return dataclasses.replace(config, pushed_chunks=pushed)


def _log_animation(world: WorldModel, data: TrainingData, folder: Path, count: int = 3) -> None:
    """Real (top) and predicted (bottom) frames of a few validation episodes, in TensorBoard."""
    writer = SummaryWriter(str(folder / "tensorboard" / "open_loop"))
    step = world.chunk_length
    for index in data.dataset.split("validation")[:count]:
        first, last = int(data.offsets[index]), int(data.offsets[index + 1])
        chunks = (last - 1 - first) // step
        if chunks == 0:
            continue
        actions = data.actions[first : first + chunks * step].view(1, chunks, step, -1)
        start = data.features[first : first + 1].float()
        predicted = world.decode(torch.cat([start, open_loop(world, start, actions).features[0]])).cpu().numpy()
        real = data.frames[first : first + chunks * step + 1 : step]
        add_animation(writer, f"open_loop/episode_{index}", np.concatenate([real, predicted], axis=1), 0)
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


def plain_settings(config: TrainConfig) -> dict[str, Any]:
    """Settings as JSON holds them, but for where data and world lie."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in {"data", "out"}}
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain
