"""A tiny random world: every interface of the real one, at a size that tests can afford."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from world_models.data.demonstrations import Demonstrations
from world_models.features import EncoderConfig, FeatureEncoder
from world_models.flow import FlowConfig
from world_models.regression import RegressionConfig
from world_models.rgb_decoder import RGBDecoderConfig
from world_models.rla import RLAConfig
from world_models.state import StateEncoder
from world_models.world_model import RegressionWorldModel, RLAWorldModel, WorldConfig

torch.set_num_threads(1)


def tiny_config(proprioception: int = 0) -> WorldConfig:
    return WorldConfig(
        task="Lift",
        action_names=("x", "y", "z", "gripper"),
        instruction="lift the cube",
        frame_size=32,
        proprioception=proprioception,
        encoder=EncoderConfig(
            backbone="vit_tiny_patch16_224",
            backbone_arguments={"depth": 1, "embed_dim": 24, "num_heads": 2, "patch_size": 8},
            image_size=32,
            pretrained=False,
            channels=8,
        ),
        rgb_decoder=RGBDecoderConfig(width=16),
        rla=RLAConfig(latents=4, latent_dim=4, width=16, depth=1),
        flow=FlowConfig(width=16, condition_depth=1, flow_depth=1, solver_steps=2),
        regression=RegressionConfig(width=16, depth=1),
    )


@pytest.fixture(scope="session")
def tiny_world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world from video alone, of random weights: L=16, C=8, A=4, K=8, 32 px, n=4, d=4, six demonstrations."""
    return write_tiny_world(tmp_path_factory.mktemp("tiny_world"), tiny_config())


@pytest.fixture(scope="session")
def sensing_world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with four proprioceptive readings in its state: L=17."""
    return write_tiny_world(tmp_path_factory.mktemp("sensing_world"), tiny_config(proprioception=4))


def write_tiny_world(folder: Path, config: WorldConfig) -> Path:
    """Save both dynamics with random weights, and demonstrations that drift."""
    torch.manual_seed(0)
    encoder = StateEncoder(FeatureEncoder(config.encoder), config.proprioception)
    for model in (RLAWorldModel(config, encoder), RegressionWorldModel(config, encoder)):
        for parameter in model.parameters():
            # Zero-initialised outputs would make every prediction the identity.
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        if isinstance(model, RLAWorldModel):
            model.rla.fit_components(torch.randn(200, encoder.num_tokens, encoder.channels))
        model.save(folder)
    lengths, shape = [20, 22, 24, 26, 28, 30], (1, encoder.num_tokens, encoder.channels)
    drift = [torch.linspace(0, 1, length).view(-1, 1, 1) * torch.randn(shape) for length in lengths]
    features = [torch.randn(shape) + item for item in drift]
    actions = [torch.rand(length, 4) * 2 - 1 for length in lengths]
    Demonstrations.stack(features, actions).save(folder / "starts.safetensors")
    return folder
