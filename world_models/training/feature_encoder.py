"""Trains the encoder's tokens to hold what a pretrained network sees, what the pixels show, and what the robot does.

A pretrained backbone stays frozen and only the projection to the token's channels is trained; a fresh one (a small
ViT, say) is trained as a whole, as the student of a pretrained network. Objectives come from frames and actions alone,
never from simulator states:

- *distillation*: predict the patch features of the pretrained network (the backbone's own, where it is pretrained);
- *pixels*: predict each patch's deviation from the mean frame, which keeps small objects and finger positions;
- *inverse dynamics*: predict the actions between two frames, which keeps what the robot controls.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.data.array_file import ArrayFile
from world_models.disk_space import OUT_OPTION
from world_models.distributed.processes import launched
from world_models.encoders.features import EncoderConfig, FeatureEncoder
from world_models.file_lock import only_maker
from world_models.files import check_tensors, read_tensors, save_tensors
from world_models.training.checkpoint import FIX
from world_models.training.optimisation import OptimisationConfig, Scalars, optimise
from world_models.training.separate_views import SeparateViews

TARGET_BATCH = 64
"""Frames that the teacher sees at once."""


@dataclass(frozen=True)
class DistillationConfig:
    """How the encoder is trained.

    Attributes:
        teacher: timm name of the pretrained network that a fresh backbone learns from; its feature maps at strides 8
            and 16 are the targets.
        frame_stride: every n-th frame of an episode is used; the pretrained network is the slow part.
        horizon: frames between the two states of the inverse dynamics, a multiple of ``frame_stride``.
        pixel_weight, inverse_weight: weights of the two objectives beside distillation.
        optimisation: schedule.
    """

    teacher: str = "tf_efficientnet_lite0"
    frame_stride: int = 4
    horizon: int = 8
    pixel_weight: float = 1.0
    inverse_weight: float = 1.0
    optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(iterations=800, batch_size=64, learning_rate=1e-3)
    )


class Student(nn.Module):
    """The encoder with the heads of its objectives; only the encoder is kept.

    Args:
        encoder: structure with a projection to its C channels, still untrained.
        target_dim: channels D of the teacher's targets.
        action_size: actions times dimensions in the inverse dynamics.
        bottleneck: channels of a token in the inverse dynamics.
    """

    def __init__(self, encoder: FeatureEncoder, target_dim: int, action_size: int, bottleneck: int = 16) -> None:
        super().__init__()
        if isinstance(encoder.projection, nn.Identity):
            raise ValueError("distillation trains a projection; set the encoder's channels below its width")
        self.encoder = encoder
        channels = encoder.channels
        self.patch = encoder.image_size // round(encoder.num_tokens**0.5)
        # No affine: the scale of the tokens is fixed, so that no head can shrink what the others need.
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.teacher_head = nn.Linear(channels, target_dim)
        self.pixel_head = nn.Linear(channels, 3 * self.patch**2)
        self.inverse_in = nn.Linear(2 * channels, bottleneck)
        self.inverse_out = nn.Sequential(
            nn.Linear(bottleneck * encoder.num_tokens, 256), nn.GELU(), nn.Linear(256, action_size)
        )

    def inverse_dynamics(self, tokens: Tensor, later: Tensor) -> Tensor:
        """Tokens ``(B, L, C)`` at two frames to the actions between them, flat ``(B, K * A)``."""
        joint = self.inverse_in(torch.cat([tokens, later - tokens], dim=-1))
        return self.inverse_out(F.gelu(joint).flatten(1))


def train_encoder(
    config: DistillationConfig,
    encoder_config: EncoderConfig,
    frames: np.ndarray | SeparateViews,
    actions: np.ndarray,
    offsets: np.ndarray,
    train_episodes: np.ndarray,
    validation_episodes: np.ndarray,
    folder: Path,
    *,
    key: dict[str, Any],
    device: torch.device | str = "cpu",
) -> tuple[FeatureEncoder, Scalars]:
    """Train the encoder.

    Args:
        config: objectives and schedule.
        encoder_config: the student's structure.
        frames: ``(F, H, W, 3)`` uint8 of all episodes.
        actions: ``(F, A)`` float32.
        offsets: ``(N + 1,)`` first frame of each episode.
        train_episodes, validation_episodes: indices of episodes.
        folder: checkpoint and TensorBoard files.
        key: ``data``, the dataset's fingerprint, and ``seed``.
        device: where to train.

    Returns:
        The frozen encoder with its statistics, and the last validation's scalars.
    """
    if config.horizon % config.frame_stride:
        raise ValueError(f"horizon {config.horizon} must be a multiple of frame_stride {config.frame_stride}")
    torch.manual_seed(key["seed"])
    encoder = FeatureEncoder(encoder_config).to(device)
    frozen = encoder_config.pretrained or encoder_config.checkpoint is not None
    pairs = {
        name: _pairs(offsets, episodes, config)
        for name, episodes in (("train", train_episodes), ("validation", validation_episodes))
    }
    if frozen and isinstance(encoder.projection, nn.Identity):
        # Tokens as the backbone gives them: nothing to train.
        sample = torch.from_numpy(frames[np.unique(pairs["train"])])
        encoder.fit_statistics(_batches(sample, device))
        return encoder, {}
    data = _DistillationData(config, encoder, frozen, frames, actions, pairs, Path(folder), key["data"])
    if frozen:
        encoder.fit_projection(_batches(data.training_pixels, device, count=500))
    student = Student(encoder, data.targets.shape[-1], config.horizon * actions.shape[1])
    student.requires_grad_(True)
    encoder.backbone.requires_grad_(not frozen)
    student.to(device)

    def draw(generator: torch.Generator, samples: int) -> _Samples:
        rows = torch.randint(len(pairs["train"]), (samples,), generator=generator).numpy()
        return data.read(pairs["train"][rows])

    def loss(samples: _Samples, generator: torch.Generator) -> Tensor:
        distillation, pixel, inverse = data.losses(student, samples)
        return distillation + config.pixel_weight * pixel + config.inverse_weight * inverse

    def validate() -> Scalars:
        batches = np.array_split(pairs["validation"], max(1, len(pairs["validation"]) // 128))
        parts = [torch.stack(data.losses(student, data.read(batch))) for batch in batches[:4]]
        values = torch.stack(parts).mean(dim=0).tolist()
        return dict(zip(("distillation", "pixel", "inverse_dynamics"), values, strict=True))

    key = {**key, "distillation": vars(config) | {"optimisation": None}, "encoder": vars(encoder_config)}
    metrics = optimise("encoder", student, draw, loss, config.optimisation, folder, key=key, validate=validate)
    encoder.requires_grad_(False)
    encoder.eval()
    with launched(torch.device(device).type).main_first():
        _restore_statistics(encoder, data.training_pixels, Path(folder), device)
    return encoder, metrics


_Samples = tuple[Tensor, Tensor, Tensor]
"""Actions ``(B, H * A)``, frames ``(2 B, H, W, 3)`` uint8 and targets ``(2 B, L, D)`` of pairs of frames."""


class _DistillationData:
    """Frames in memory, the teacher's features of them, and the losses of a student on them.

    Args:
        config: objectives.
        encoder: the student's, still untrained; where its backbone is frozen, that is the teacher.
        frozen: whether it is.
        frames: ``(F, H, W, 3)`` uint8 of all episodes.
        actions: ``(F, A)`` float32.
        pairs: frames ``(M, 2)`` by split.
        folder: of the teacher's features.
        data_key: the dataset's fingerprint.
    """

    def __init__(
        self, config: DistillationConfig, encoder: FeatureEncoder, frozen: bool, frames: np.ndarray | SeparateViews,
        actions: np.ndarray, pairs: dict[str, np.ndarray], folder: Path, data_key: str,
    ) -> None:  # fmt: skip
        self._config, self._actions, self._frozen = config, actions, frozen
        self._device = encoder.pixel_mean.device
        used = np.unique(np.concatenate([item.flatten() for item in pairs.values()]))
        training_rows = np.flatnonzero(np.isin(used, pairs["train"]))
        self._row = np.full(len(frames), -1)
        self._row[used] = np.arange(len(used))
        self._pixels = torch.from_numpy(frames[used])
        teacher, source = _teacher(config, encoder, frozen)
        # Whatever the targets depend on is in the file's name.
        digest = hashlib.sha256(repr((source, data_key)).encode() + used.tobytes()).hexdigest()[:16]
        with launched(self._device.type).main_first():
            self.targets = _teacher_targets(teacher, self._pixels, folder / f"targets-{digest}.npy", self._device)
        self.training_pixels = self._pixels[training_rows]
        statistics = _channel_statistics(self.targets, training_rows)
        self._target_mean, self._target_std = (item.to(self._device) for item in statistics)
        first_frames = self.training_pixels[:: max(1, len(self.training_pixels) // 500)].float()
        first_frames = _resized(first_frames, encoder.image_size)
        self._mean_frame = (first_frames.mean(dim=0) / 255).to(self._device)
        self._deviation = float((first_frames / 255 - self._mean_frame.cpu()).std())

    def read(self, rows: np.ndarray) -> _Samples:
        """Samples of pairs of frames ``(B, 2)``, on the training device."""
        chunk = torch.from_numpy(self._actions[rows[:, :1] + np.arange(self._config.horizon)]).flatten(1)
        at = torch.from_numpy(self._row[rows.T.flatten()])
        targets = torch.from_numpy(self.targets[at.numpy()])
        return chunk.to(self._device), self._pixels[at].to(self._device), targets.to(self._device).float()

    def losses(self, student: Student, samples: _Samples) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of distillation, pixels and inverse dynamics, scalars."""
        chunk, seen, raw = samples
        encoder = student.encoder
        rgb = _resized(seen, encoder.image_size)
        tokens = student.norm((encoder.projection(raw) if self._frozen else encoder.projected(seen)).float())
        target = (raw - self._target_mean) / self._target_std
        distillation = F.smooth_l1_loss(student.teacher_head(tokens).float(), target)
        deviations = (rgb / 255 - self._mean_frame).permute(0, 3, 1, 2) / self._deviation
        patches = F.pixel_unshuffle(deviations, student.patch).flatten(2).transpose(1, 2)
        pixel = F.smooth_l1_loss(student.pixel_head(tokens).float(), patches)
        before, after = tokens.chunk(2)
        inverse = F.smooth_l1_loss(student.inverse_dynamics(before, after).float(), chunk)
        return distillation, pixel, inverse


def _teacher(
    config: DistillationConfig, encoder: FeatureEncoder, frozen: bool
) -> tuple[Callable[[Tensor], Tensor], str]:
    """The pretrained network that gives the targets, and what it is called in the names of files."""
    if frozen:
        return encoder.backbone_tokens, encoder.fingerprint()
    teacher = FeatureEncoder(teacher_config(config, encoder))
    grid = round(encoder.num_tokens**0.5)
    return teacher.to(encoder.pixel_mean.device).backbone_tokens, f"{config.teacher}-{grid}"


def teacher_config(config: DistillationConfig, student: FeatureEncoder) -> EncoderConfig:
    """The pretrained network that gives a fresh student its targets, one for each of its tokens."""
    # At 16 pixels a token its coarsest map has one cell per token.
    maps: dict[str, Any] = {"out_indices": [2, 3]}
    size = 16 * round(student.num_tokens**0.5)
    return EncoderConfig(config.teacher, maps, size, pretrained=True, channels=None)


def _restore_statistics(encoder: FeatureEncoder, pixels: Tensor, folder: Path, device: torch.device | str) -> None:
    """Token statistics, computed once per encoder: another machine's rounding would make it another encoder."""
    path = folder / f"statistics-{encoder.fingerprint()}.safetensors"
    with only_maker(path):
        if os.path.lexists(path):
            statistics = read_tensors(path, fix=FIX)
            expected = {"mean": encoder.mean, "std": encoder.std}
            check_tensors(statistics, expected, source=str(path), fix=FIX, exact=True)
            encoder.load_state_dict(statistics, strict=False)
            return
        encoder.fit_statistics(_batches(pixels, device))
        save_tensors(path, {"mean": encoder.mean, "std": encoder.std})


def _pairs(offsets: np.ndarray, episodes: np.ndarray, config: DistillationConfig) -> np.ndarray:
    """Frames ``(M, 2)``: starts on the stride, shifted from episode to episode, and the frames a horizon later.

    An episode longer than the horizon has at least one; a shorter one has none.
    """
    starts = []
    for index in episodes:
        first, last = int(offsets[index]), int(offsets[index + 1]) - config.horizon
        shift = int(index) % max(1, min(config.frame_stride, last - first))
        starts.append(np.arange(first + shift, last, config.frame_stride))
    joined = np.concatenate(starts)
    return np.stack([joined, joined + config.horizon], axis=1)


def _resized(frames: Tensor, size: int) -> Tensor:
    """Frames ``(B, H, W, 3)`` as float at ``(B, size, size, 3)``."""
    if frames.shape[1:3] == (size, size):
        return frames.float()
    image = F.interpolate(frames.permute(0, 3, 1, 2).float(), (size, size), mode="bilinear", antialias=True)
    return image.permute(0, 2, 3, 1)


def _batches(pixels: Tensor, device: torch.device | str, count: int = 2000) -> Iterator[Tensor]:
    for batch in pixels[:: max(1, len(pixels) // count)].split(128):
        yield batch.to(device)


@torch.inference_mode()
def _teacher_targets(
    teacher: Callable[[Tensor], Tensor], pixels: Tensor, path: Path, device: torch.device | str
) -> np.ndarray:
    offsets = np.append(np.arange(0, len(pixels), TARGET_BATCH), len(pixels))
    row_shape = tuple(teacher(pixels[:1].to(device)).shape[1:])

    def targets(first: int) -> Iterator[np.ndarray]:
        for batch in pixels[offsets[first] :].split(TARGET_BATCH):
            yield teacher(batch.to(device)).cpu().half().numpy()

    return ArrayFile(path, offsets, row_shape, np.float16, OUT_OPTION).fill(targets, "teacher features", "frame")


def _channel_statistics(targets: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    sample = torch.from_numpy(targets[rows[:: max(1, len(rows) // 1000)]]).flatten(0, 1).float()
    return sample.mean(dim=0), sample.std(dim=0).clamp_min(1e-3)
