"""From a folder of robot videos to a world: all stages, top to bottom, resumable after a kill at any moment."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from world_models.checkpoint import save_json
from world_models.data.demonstrations import Demonstrations
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import Windows, cache_features, cache_frames, episode_offsets
from world_models.distillation import DistillationConfig, train_encoder
from world_models.features import EncoderConfig, FeatureEncoder
from world_models.flow import FlowConfig
from world_models.model_card import write_model_card
from world_models.open_loop import open_loop
from world_models.optimisation import OptimisationConfig, Scalars, optimise
from world_models.regression import RegressionConfig
from world_models.rgb_decoder import RGBDecoder, RGBDecoderConfig
from world_models.rla import RLA, RLAConfig, motion_weights, token_loss
from world_models.tensorboard_video import add_animation
from world_models.world_model import (
    RegressionWorldModel,
    RLAWorldModel,
    WorldConfig,
    WorldModel,
    load_encoder,
    save_encoder,
)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; the defaults are those of the bundled world.

    Attributes:
        data: folder of a LeRobotDataset v3.0.
        out: the world's folder; checkpoints and TensorBoard files go to its ``stages``.
        cache: folder of decoded frames and encoded features; None for ``<data>/cache``.
        task: name of the task; the environment id is ``RLAWM-<task>-v0``.
        chunk_length: most actions in a chunk.
        demonstrations: successful episodes that ship with the world, as start states, rewards and for cloning.
        device: ``cpu``, ``cuda`` or ``auto``.
        threads: CPU threads; 0 takes all cores.
        seed: of initial weights and batches.
        encoder_from: take the frozen encoder of this world (bundled name, folder or hub id) instead of training one.
        encoder_only: stop once encoder and demonstrations stand: enough to clone policies, whose roll-outs the data
            of the real world should hold.
        encoder, distillation, rla, flow, regression, rgb_decoder: the parts.
        rla_optimisation, flow_optimisation, regression_optimisation, rgb_optimisation: their schedules.
    """

    data: Path
    out: Path
    cache: Path | None = None
    task: str = "Lift"
    chunk_length: int = 8
    demonstrations: int = 32
    device: str = "auto"
    threads: int = 0
    seed: int = 0
    encoder_from: str | None = None
    encoder_only: bool = False
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    rla: RLAConfig = field(default_factory=RLAConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    regression: RegressionConfig = field(default_factory=RegressionConfig)
    rgb_decoder: RGBDecoderConfig = field(default_factory=RGBDecoderConfig)
    rla_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=5000, batch_size=32)
    )
    flow_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=1900, batch_size=32)
    )
    regression_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=1500, batch_size=32)
    )
    rgb_optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=2000, batch_size=32)
    )


@dataclass(frozen=True)
class TrainingData:
    """What the stages share: the dataset and, for each frame of it, pixels, features and actions."""

    dataset: EpisodeDataset
    frames: np.ndarray
    features: Tensor
    actions: Tensor
    offsets: np.ndarray

    def windows(self, split: str, motion_share: float = 0.7) -> Windows:
        """Training windows inside the episodes of a split."""
        return Windows.over(
            self.features, self.actions, self.offsets, self.dataset.split(split), motion_share=motion_share
        )


def train(config: TrainConfig) -> dict[str, Scalars]:
    """Train every stage and write the world folder.

    Returns:
        The last validation of each stage, with its seconds.

    Raises:
        FileNotFoundError: ``data`` is no dataset.
        ValueError: too few or unfit episodes, or ``out`` holds stages trained with other settings.
    """
    dataset = EpisodeDataset(config.data)
    demonstrations = _demonstration_episodes(dataset, config.demonstrations)
    _check_data(dataset, max(config.chunk_length, config.distillation.horizon))
    device = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device
    device = "cpu" if device == "auto" else device
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    stages, cache = config.out / "stages", config.cache or config.data / "cache"
    data_key = dataset.fingerprint()

    frames = cache_frames(dataset, cache)
    encoder, encoder_metrics = _encoder(config, dataset, frames, stages, data_key, device)
    # Weights ship as float16: round them now, so that every later stage sees the features that users will get.
    encoder.half().float()
    features = cache_features(dataset, encoder, cache)
    offsets = episode_offsets(dataset.lengths)
    actions = torch.from_numpy(_all_actions(dataset))
    data = TrainingData(dataset, frames, torch.from_numpy(features).to(device), actions.to(device), offsets)
    metrics = {"encoder": encoder_metrics}
    key = {"encoder": encoder.fingerprint(), "data": data_key, "seed": config.seed}
    world = WorldConfig(
        config.task,
        tuple(dataset.action_names),
        instruction=dataset.instruction,
        chunk_length=config.chunk_length,
        fps=dataset.fps,
        frame_size=dataset.image_size[0],
        encoder=encoder.config,
        rgb_decoder=config.rgb_decoder,
        rla=config.rla,
        flow=config.flow,
        regression=config.regression,
    )
    save_encoder(config.out, world, encoder)
    spans = [slice(int(offsets[index]), int(offsets[index + 1])) for index in demonstrations]
    Demonstrations.stack([data.features[span].cpu() for span in spans], [actions[span] for span in spans]).save(
        config.out / "starts.safetensors"
    )
    if config.encoder_only:
        return metrics

    torch.manual_seed(config.seed)
    flow_world = RLAWorldModel(world, encoder).to(device)
    regression_world = RegressionWorldModel(world, encoder, flow_world.rgb_decoder).to(device)

    metrics["rla"] = train_rla(flow_world.rla, data, config.rla_optimisation, stages, key)
    metrics["flow"] = train_flow(flow_world, data, config.flow_optimisation, stages, key)
    metrics["regression"] = train_regression(regression_world, data, config.regression_optimisation, stages, key)
    metrics["rgb_decoder"] = train_rgb_decoder(flow_world.rgb_decoder, data, config.rgb_optimisation, stages, key)

    # fp16 halves the file; the world that is measured is the one that is read back.
    flow_world.save(config.out, torch.float16)
    regression_world.save(config.out, torch.float16)
    _log_animation(flow_world, data, stages)
    facts = {"metrics": metrics, "data": _describe(dataset), "hardware": _hardware(device)}
    save_json(config.out / "training.json", {**facts, "settings": _plain(dataclasses.asdict(config))})
    write_model_card(config.out)
    return metrics


def train_rla(
    rla: RLA, data: TrainingData, optimisation: OptimisationConfig, folder: Path, key: dict[str, Any]
) -> Scalars:
    """Train the autoencoder on pairs of frames; no actions are needed."""
    windows, held_out = data.windows("train"), data.windows("validation", motion_share=0.0)

    def loss(generator: torch.Generator) -> Tensor:
        states, later, _, _ = windows.sample(optimisation.batch_size, rla.config.horizon, generator, full_share=0.0)
        return token_loss(rla(states, later), later, motion_weights(states, later))

    def validate() -> Scalars:
        states, later, _ = _full_windows(held_out, 512, min(8, rla.config.horizon))
        return {"token_l1_vs_persistence": _relative_l1(rla(states, later), states, later)}

    return optimise("rla", rla, loss, optimisation, folder, key={**key, "rla": vars(rla.config)}, validate=validate)


def train_flow(
    world: RLAWorldModel, data: TrainingData, optimisation: OptimisationConfig, folder: Path, key: dict[str, Any]
) -> Scalars:
    """Train the flow on latent actions that the frozen autoencoder gives."""
    rla, flow, horizon = world.rla, world.flow, world.chunk_length
    rla.requires_grad_(False)
    windows, held_out = data.windows("train"), data.windows("validation", motion_share=0.0)
    with torch.inference_mode():
        states, later, _, _ = windows.sample(1024, horizon, torch.Generator().manual_seed(0))
        flow.latent_scale.fill_(float(rla.encode(states, later).std()))

    def loss(generator: torch.Generator) -> Tensor:
        states, later, actions, lengths = windows.sample(optimisation.batch_size, horizon, generator)
        with torch.no_grad():
            latent = rla.encode(states, later).float()
        return flow.loss(states, actions, lengths, latent, generator)

    def validate() -> Scalars:
        states, later, actions = _full_windows(held_out, 256, horizon)
        return {
            "token_l1_vs_persistence": _relative_l1(open_loop(world, states, actions[:, None])[:, 0], states, later)
        }

    key = {**key, "rla": weights_digest(rla), "flow": vars(flow.config), "chunk_length": horizon}
    return optimise("flow", flow, loss, optimisation, folder, key=key, validate=validate)


def train_regression(
    world: RegressionWorldModel, data: TrainingData, optimisation: OptimisationConfig, folder: Path, key: dict[str, Any]
) -> Scalars:
    """Train the deterministic baseline on the same windows."""
    regression, horizon = world.regression, world.chunk_length
    windows, held_out = data.windows("train"), data.windows("validation", motion_share=0.0)

    def loss(generator: torch.Generator) -> Tensor:
        states, later, actions, lengths = windows.sample(optimisation.batch_size, horizon, generator)
        return token_loss(regression(states, actions, lengths), later, motion_weights(states, later))

    def validate() -> Scalars:
        states, later, actions = _full_windows(held_out, 256, horizon)
        return {"token_l1_vs_persistence": _relative_l1(regression(states, actions), states, later)}

    key = {**key, "regression": vars(regression.config), "chunk_length": horizon}
    return optimise("regression", regression, loss, optimisation, folder, key=key, validate=validate)


def train_rgb_decoder(
    decoder: RGBDecoder, data: TrainingData, optimisation: OptimisationConfig, folder: Path, key: dict[str, Any]
) -> Scalars:
    """Train tokens -> pixels on real frames."""
    device = data.features.device
    windows, held_out = data.windows("train"), data.windows("validation", motion_share=0.0)

    def error(rows: Tensor) -> Tensor:
        image = torch.from_numpy(data.frames[rows.numpy()]).to(device).permute(0, 3, 1, 2).float() / 255
        return F.l1_loss(decoder(data.features[rows.to(device)].float()).float(), image)

    def loss(generator: torch.Generator) -> Tensor:
        drawn = torch.multinomial(windows.weights, optimisation.batch_size, generator=generator)
        return error(windows.starts[drawn])

    def validate() -> Scalars:
        return {"pixel_l1": float(error(held_out.starts[:: max(1, len(held_out.starts) // 256)]))}

    key = {**key, "rgb_decoder": vars(decoder.config)}
    return optimise("rgb_decoder", decoder, loss, optimisation, folder, key=key, validate=validate)


def _encoder(
    config: TrainConfig, dataset: EpisodeDataset, frames: np.ndarray, stages: Path, data_key: str, device: str
) -> tuple[FeatureEncoder, Scalars]:
    if config.encoder_from is not None:
        return load_encoder(config.encoder_from, device), {}
    offsets = episode_offsets(dataset.lengths)
    return train_encoder(
        config.distillation,
        config.encoder,
        frames,
        _all_actions(dataset),
        offsets,
        dataset.split("train"),
        dataset.split("validation"),
        stages,
        key={"data": data_key, "seed": config.seed},
        device=device,
    )


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
    actions = _all_actions(dataset)
    largest = float(np.abs(actions).max()) if actions.size else float("nan")
    if not largest <= 1.0:
        raise ValueError(
            f"{dataset.root} has actions up to {largest:.3g}; environments take them in [-1, 1], so scale the column "
            "`action` (and remember the scale for the robot)"
        )


def _all_actions(dataset: EpisodeDataset) -> np.ndarray:
    """Actions ``(F, A)`` of all frames."""
    return np.concatenate([dataset.episode(index).actions for index in range(len(dataset))])


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


def weights_digest(module: torch.nn.Module) -> str:
    """Short digest of a module's weights, for the keys of later stages."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _full_windows(windows: Windows, count: int, horizon: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same windows of exactly ``horizon`` frames at every call: states, later states, actions."""
    states, later, actions, lengths = windows.sample(count, horizon, torch.Generator().manual_seed(0), full_share=1.0)
    full = lengths == horizon
    return states[full], later[full], actions[full]


def _relative_l1(predicted: Tensor, states: Tensor, later: Tensor) -> float:
    return float((predicted.float() - later).abs().mean() / (states - later).abs().mean().clamp_min(1e-6))


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
        dream = world.decode(torch.cat([start, open_loop(world, start, actions)[0]])).cpu().numpy()
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


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} cores, {platform.machine()}, no GPU"


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items() if key not in {"data", "out"}}
    return list(content) if isinstance(content, tuple) else str(content) if isinstance(content, Path) else content
