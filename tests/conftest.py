"""A tiny random world: every interface of the real one, at a size that tests can afford."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from world_models.io import save_model

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest
import torch

from rewards import SuccessDetector
from rla_gym import RLAWMVectorEnv
from tests.dreams import Make
from world_models.config import WorldConfig
from world_models.data.demonstrations import Demonstrations
from world_models.encoders.features import EncoderConfig, FeatureEncoder
from world_models.encoders.state import StateEncoder
from world_models.heads.rgb_decoder import RGBDecoderConfig
from world_models.io import load_world
from world_models.mixer.dynamics import RegressionWorldModel, ResidualFlowWorldModel
from world_models.mixer.regression import RegressionConfig
from world_models.mixer.residual_flow import ResidualFlowConfig

torch.set_num_threads(1)
# The same few examples in every run: a test that fails fails for everybody, and again.
hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, max_examples=12)
hypothesis.settings.load_profile("deterministic")


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
        dynamics={
            "residual_flow": ResidualFlowConfig(
                width=16, base_depth=1, flow_depth=1, solver_steps=2, latents=4, latent_dim=4
            ),
            "regression": RegressionConfig(width=16, depth=1),
        },
    )


@pytest.fixture(scope="session")
def tiny_world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world from video alone, of random weights: L=16, C=8, A=4, K=8, 32 px, n=4, d=4, six demonstrations."""
    return save_tiny_world(tmp_path_factory.mktemp("tiny_world"), spread=0.1)


def save_tiny_world(folder: Path, spread: float, proprioception: int = 0) -> Path:
    """Random weights of this spread: at 0.1 actions and noise hardly move a prediction, at 0.4 they do."""
    config = tiny_config(proprioception)
    torch.manual_seed(0)
    encoder = StateEncoder(FeatureEncoder(config.encoder), config.proprioception)
    for model in (ResidualFlowWorldModel(config, encoder), RegressionWorldModel(config, encoder)):
        for parameter in model.parameters():
            # Zero-initialised outputs would make every prediction the identity.
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=spread)
        if isinstance(model, ResidualFlowWorldModel):
            model.latent_projection.fit(torch.randn(200, encoder.num_tokens, encoder.channels))
        save_model(folder, model)
    lengths, shape = [20, 22, 24, 26, 28, 30], (1, encoder.num_tokens, encoder.channels)
    drift = [torch.linspace(0, 1, length).view(-1, 1, 1) * torch.randn(shape) for length in lengths]
    features = [torch.randn(shape) + item for item in drift]
    actions = [torch.rand(length, 4) * 2 - 1 for length in lengths]
    first_states = torch.randn(20, encoder.num_tokens, encoder.channels)
    Demonstrations.stack(features, actions, first_states).save(folder)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny world that depends on actions and noise, with a success detector that fires now and then."""
    return str(add_detector(save_tiny_world(tmp_path_factory.mktemp("world"), spread=0.4)))


@pytest.fixture(scope="session")
def proprioceptive_world(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with four proprioceptive values in its state: L=17, R=8."""
    return str(add_detector(save_tiny_world(tmp_path_factory.mktemp("proprioceptive"), spread=0.4, proprioception=4)))


def add_detector(folder: Path) -> Path:
    torch.manual_seed(2)  # of ten detectors, the one that fires in some dreams and not in others
    demonstrations = load_world(folder).demonstrations
    detector = SuccessDetector(*demonstrations.features.shape[2:]).requires_grad_(False)
    states = demonstrations.features.float().flatten(0, 1)
    detector.threshold = detector.probability(states).quantile(0.9).item()
    detector.save(folder)
    return folder


@pytest.fixture
def make(world: str) -> Iterator[Make]:
    """Makes vector environments over that world, and closes them."""
    opened: list[RLAWMVectorEnv] = []

    def make_vector_env(num_envs: int = 3, **arguments: Any) -> RLAWMVectorEnv:
        opened.append(RLAWMVectorEnv(num_envs, **{"world": world, **arguments}))
        return opened[-1]

    yield make_vector_env
    for env in opened:
        env.close()
