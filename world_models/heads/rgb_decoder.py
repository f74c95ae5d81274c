"""Feature tokens to pixels, for people and for policies that want images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.dataclass_reader import check_ranges


@dataclass(frozen=True)
class RGBDecoderConfig:
    """Sizes of the decoder.

    Attributes:
        width: channels at the token grid, 1 to 4096; they halve with every doubling of the resolution.

    Raises:
        ValueError: the width is out of its range.
    """

    width: int = 192

    def __post_init__(self) -> None:
        check_ranges(self, width=(1, 4096))


class RGBDecoder(nn.Module):
    """Convolutional decoder from a square grid of tokens to an image, laid over the scene behind it.

    A fixed camera sees the same background in every frame; it is learned once, as pixels, and a mask says where it
    shows. That leaves the decoder's few channels to what moves.

    Args:
        config: sizes.
        num_tokens: patch tokens L of all views; of each they must be a square number.
        channels: channels C of a token.
        image_size: side of the image in pixels; images are made at the next power-of-two multiple of the grid and, if
            that is larger, resized.
        views: pictures V side by side in an image, each decoded from its own tokens by the same layers.

    Raises:
        ValueError: the sizes do not go together.
    """

    def __init__(
        self, config: RGBDecoderConfig, num_tokens: int, channels: int, image_size: int, views: int = 1
    ) -> None:
        super().__init__()
        self.config, self.num_tokens, self.views = config, num_tokens, views
        self.grid, self.image_size = round((num_tokens / views) ** 0.5), image_size
        if views * self.grid**2 != num_tokens or image_size < self.grid:
            raise ValueError(
                f"{num_tokens} tokens and image size {image_size} do not fit: the tokens must form a square grid that "
                "is no larger than the image"
            )
        factor = 1 << (image_size // self.grid - 1).bit_length()
        self.background = nn.Parameter(torch.full((3, self.grid * factor, views * self.grid * factor), 0.5))
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU()]
        # The last doublings are one pixel shuffle: convolutions at full resolution cost most and add least.
        shuffle = min(4, factor)
        while factor > shuffle:
            if width % 2:
                raise ValueError(
                    f"width {config.width} of the RGB decoder cannot be halved as often as {self.grid} x {self.grid} "
                    f"tokens are doubled to {image_size} pixels; take a multiple of a larger power of two"
                )
            layers += [nn.Conv2d(width, width * 2, 3, padding=1), nn.PixelShuffle(2), nn.SiLU()]
            width //= 2
            factor //= 2
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 4 * shuffle**2, 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.PixelShuffle(shuffle))

    @torch.no_grad()
    def fit_background(self, images: Tensor) -> None:
        """Take the median of images ``(N, 3, H, V*W)`` in [0, 1] as the background to begin with."""
        shape = self.background.shape[1:]
        self.background.copy_(F.interpolate(images, shape, mode="bilinear", antialias=True).median(dim=0).values)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, L, C)`` to an image ``(B, 3, H, V*W)``, about in [0, 1], not clipped."""
        of_views = features.unflatten(1, (self.views, -1)).flatten(0, 1)
        grid = of_views.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        layers = self.layers(grid).unflatten(0, (-1, self.views)).permute(0, 2, 3, 1, 4).flatten(3)
        drawn, mask = layers.split([3, 1], dim=1)
        mask = mask.sigmoid()
        image = mask * drawn + (1 - mask) * self.background
        if image.shape[-2] != self.image_size:
            shape = self.image_size, self.views * self.image_size
            image = F.interpolate(image, shape, mode="bilinear", antialias=True)
        return image

    @torch.no_grad()
    def to_rgb(self, features: Tensor) -> Tensor:
        """Features ``(B, L, C)`` to uint8 images ``(B, H, V*W, 3)``."""
        image = self(features).clamp(0, 1).mul(255).round().to(torch.uint8)
        return image.permute(0, 2, 3, 1).contiguous()
