"""Frozen visual features: the patch tokens of a timm backbone, standardised per channel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.dataclass_reader import check_ranges
from world_models.encoders.backbone import (
    TOKEN_PIXELS,
    build_backbone,
    check_architecture,
    check_arguments,
    load_checkpoint,
    patch_multiple,
)
from world_models.encoders.shipped_weights import SHIPPED, load_shipped_weights

LARGEST_GRID = 256
"""Most tokens a side of a frame."""


@dataclass(frozen=True)
class EncoderConfig:
    """Which backbone gives the features.

    Attributes:
        backbone: any timm model name, for instance ``vit_small_patch14_dinov2.lvd142m``.
        backbone_arguments: sizes of the architecture, see :data:`world_models.encoders.backbone.ARGUMENTS`. Of a
            convolutional backbone the feature maps ``out_indices`` (1 and 2 unless said otherwise: strides 4 and 8) are
            taken and folded into tokens of 16 pixels a side, or of the coarsest map's stride where that is larger.
            Later maps see the whole picture from everywhere: every token would change when the arm moves, and a
            prediction would lose what lies still.
        image_size: frames are resized to this many pixels a side before the backbone sees them, 8 to 2048; to the
            next lower multiple of its patch, or of 16 where it is a convolutional one.
        pretrained: in a training, load timm's weights for the name, from its hub, the local cache, or the package that
            ships them. In a world's config it says how the weights came about, and nothing is loaded by it.
        checkpoint: the same of a local file (safetensors or a state dict), whose weights are loaded instead.
        channels: channels C of a token after the projection; None keeps the backbone's own.

    Raises:
        ValueError: a size is out of its range, or timm has no such backbone.
    """

    backbone: str = "tf_efficientnet_lite0"
    backbone_arguments: dict[str, int | float | bool | list[int]] = field(default_factory=dict)
    image_size: int = 128
    pretrained: bool = True
    checkpoint: str | None = None
    channels: int | None = 64

    def __post_init__(self) -> None:
        check_architecture(self.backbone)
        check_arguments(self.backbone_arguments)
        check_ranges(self, image_size=(8, 2048), channels=(1, 8192))


class FeatureEncoder(nn.Module):
    """Maps frames to standardised patch tokens.

    Args:
        config: which backbone.
        load_weights: False builds the structure alone, for weights that a world's own file brings.

    Attributes:
        image_size: side of the frames that the backbone sees, in pixels.

    Raises:
        ValueError: the backbone does not take its arguments or the image size, or its weights cannot be loaded.
        OSError: the checkpoint does not exist or cannot be read.
    """

    mean: Tensor
    std: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: EncoderConfig, *, load_weights: bool = True) -> None:
        super().__init__()
        self.config = config
        self.image_size = patch_multiple(config.backbone, config.backbone_arguments, config.image_size)
        self.backbone = _create_backbone(config, self.image_size, load_weights)
        data = getattr(self.backbone, "pretrained_cfg", None) or {}
        self.register_buffer("pixel_mean", torch.tensor(data.get("mean", (0.5, 0.5, 0.5))).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(data.get("std", (0.5, 0.5, 0.5))).view(1, 3, 1, 1))
        self.projection: nn.Module = nn.Identity()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.ones(1))
        self.num_tokens, width = self._shape()
        self.channels = config.channels or width
        if self.channels != width:
            self.projection = nn.Linear(width, self.channels)
        self.mean, self.std = torch.zeros(self.channels), torch.ones(self.channels)
        self.requires_grad_(False)
        self.eval()

    def _shape(self) -> tuple[int, int]:
        """Tokens L, and channels of each before the projection.

        Raises:
            ValueError: the backbone does not give tokens of a frame of this size.
        """
        size = self.image_size
        try:
            with torch.no_grad():
                tokens = self.backbone_tokens(torch.zeros(1, size, size, 3, dtype=torch.uint8))
        except (RuntimeError, ValueError, AssertionError, IndexError, ArithmeticError) as error:
            raise ValueError(
                f"backbone {self.config.backbone!r} does not take frames of {size} pixels: {error}"
            ) from error
        if tokens.ndim != 3 or not 1 <= tokens.shape[1] <= LARGEST_GRID**2:
            raise ValueError(
                f"backbone {self.config.backbone!r} makes {tuple(tokens.shape)} of a frame of {size} pixels, not 1 to "
                f"{LARGEST_GRID**2} tokens; give another backbone or image_size"
            )
        return tokens.shape[1], tokens.shape[2]

    def train(self, mode: bool = True) -> FeatureEncoder:
        """Stay in evaluation mode: the features are frozen, statistics of batch norms included."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.backbone.parameters()))

    def pixels(self, rgb: Tensor) -> Tensor:
        """uint8 frames ``(B, H, W, 3)`` of any size to normalised pixels ``(B, 3, S, S)`` float32."""
        if rgb.dtype != torch.uint8 or rgb.ndim != 4 or rgb.shape[-1] != 3:
            raise ValueError(
                f"frames must be uint8 of shape (B, H, W, 3), not {rgb.dtype} of shape {tuple(rgb.shape)}; "
                "stack them into one batch and keep values in 0..255"
            )
        image = rgb.permute(0, 3, 1, 2).float() / 255
        if image.shape[-2:] != (self.image_size, self.image_size):
            image = F.interpolate(image, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return (image - self.pixel_mean) / self.pixel_std

    def backbone_tokens(self, rgb: Tensor) -> Tensor:
        """uint8 frames ``(B, H, W, 3)`` to the backbone's own patch tokens ``(B, L, W)``."""
        pixels = self.pixels(rgb)
        if not hasattr(self.backbone, "forward_features"):
            return fold_maps(self.backbone(pixels), self.image_size // TOKEN_PIXELS)
        tokens = cast("Any", self.backbone).forward_features(pixels)
        return tokens[:, getattr(self.backbone, "num_prefix_tokens", 0) :]

    def projected(self, rgb: Tensor) -> Tensor:
        """uint8 frames ``(B, H, W, 3)`` to projected tokens ``(B, L, C)`` before they are standardised."""
        return self.projection(self.backbone_tokens(rgb))

    def forward(self, rgb: Tensor) -> Tensor:
        """uint8 frames ``(B, H, W, 3)`` of any size to features ``(B, L, C)``, float32."""
        return ((self.projected(rgb) - self.mean) / self.std).float()

    @torch.no_grad()
    def fit_projection(self, batches: Iterable[Tensor]) -> None:
        """Project to the principal channels of these uint8 batches ``(B, H, W, 3)``: for backbones as they come."""
        if isinstance(self.projection, nn.Identity):
            return
        tokens = torch.cat([self.backbone_tokens(batch).flatten(0, 1) for batch in batches]).double()
        centre = tokens.mean(dim=0)
        scale = tokens.std(dim=0).clamp_min(1e-6)
        components = torch.linalg.svd(((tokens - centre) / scale).T.cov(), full_matrices=False).U.T[: self.channels]
        weight = components / scale
        assert isinstance(self.projection, nn.Linear)
        self.projection.weight.copy_(weight)
        self.projection.bias.copy_(-(weight @ centre))

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Store per-channel mean and spread of the projected tokens of these uint8 batches ``(B, H, W, 3)``."""
        tokens = torch.cat([self.projected(batch).flatten(0, 1) for batch in batches]).double()
        self.mean.copy_(tokens.mean(dim=0))
        self.std.copy_(tokens.std(dim=0).clamp_min(1e-6))

    def fingerprint(self) -> str:
        """Hex digest of structure and weights: two encoders that differ at all never share a feature cache."""
        digest = hashlib.sha256(repr(self.config).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def fold_maps(maps: list[Tensor], largest_grid: int) -> Tensor:
    """Feature maps ``(B, W_i, H_i, H_i)`` to tokens ``(B, L, W)`` on one grid, what is finer folded into the channels.

    Args:
        maps: of different strides.
        largest_grid: most tokens a side; fewer where the coarsest map has fewer.
    """
    grid = min(largest_grid, *(item.shape[-1] for item in maps))
    folded = [F.pixel_unshuffle(item, item.shape[-1] // grid) for item in maps]
    return torch.cat(folded, dim=1).flatten(2).transpose(1, 2)


def _create_backbone(config: EncoderConfig, image_size: int, load_weights: bool) -> nn.Module:
    shipped = config.pretrained and config.checkpoint is None and config.backbone in SHIPPED
    by_name = load_weights and config.pretrained and config.checkpoint is None and not shipped
    backbone = build_backbone(config.backbone, config.backbone_arguments, image_size, pretrained=by_name)
    if load_weights and config.checkpoint is not None:
        load_checkpoint(config.checkpoint, config.backbone, backbone)
    elif load_weights and shipped:
        load_shipped_weights(config.backbone, backbone)
    _drop_unused_blocks(backbone)
    return backbone


def _drop_unused_blocks(backbone: nn.Module) -> None:
    """Leave out the blocks behind the last feature map that is taken: timm's EfficientNets compute and keep them."""
    if hasattr(backbone, "forward_features"):
        return  # a transformer: all of its blocks are run
    names = cast("Any", backbone).feature_info.module_name()
    stages = [name.removeprefix("blocks.") for name in names if name.startswith("blocks.")]
    blocks = getattr(backbone, "blocks", None)
    if isinstance(blocks, nn.Sequential) and len(stages) == len(names) > 0 and all(map(str.isdigit, stages)):
        backbone.blocks = blocks[: max(map(int, stages)) + 1]
