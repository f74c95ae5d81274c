"""Backbones of others: any timm transformer at its own patch, and no minute of retries without a network."""

from __future__ import annotations

import time

import huggingface_hub.utils
import pytest
import torch

from world_models.encoders.features import EncoderConfig, FeatureEncoder

SMALL: dict[str, int | float | bool | list[int]] = {"depth": 1, "embed_dim": 48, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "asked", "seen", "tokens"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 128, 126, 81),
        ("vit_small_patch14_dinov2.lvd142m", 70, 70, 25),
        ("vit_small_patch16_dinov3.lvd1689m", 100, 96, 36),
        ("vit_tiny_patch16_224", 64, 64, 16),
        ("tf_efficientnet_lite0", 100, 96, 36),
    ],
)
def test_frames_are_cut_into_whole_patches(name: str, asked: int, seen: int, tokens: int) -> None:
    arguments = {} if name.startswith("tf_") else SMALL
    encoder = FeatureEncoder(EncoderConfig(name, arguments, asked, pretrained=False, channels=16))
    assert (encoder.image_size, encoder.num_tokens) == (seen, tokens)
    features = encoder(torch.randint(0, 255, (2, 90, 90, 3), dtype=torch.uint8))
    assert features.shape == (2, tokens, 16)


def test_a_frame_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image_size=12 is smaller than a patch of .*: give 14 pixels or more"):
        FeatureEncoder(EncoderConfig("vit_small_patch14_dinov2", {}, 12, pretrained=False))


def test_weights_that_are_not_to_be_had_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def head(self, *arguments: object, **more: object) -> None:
            raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"does not answer.*--encoder.checkpoint, or train from random weights"):
        FeatureEncoder(EncoderConfig("vit_small_patch14_dinov2.lvd142m", {}, 126))
    assert time.monotonic() - began < 30
