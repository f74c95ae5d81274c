"""A small world in which an agent can learn: its demonstrations are its own predictions under one hidden action.

The weights are random and large enough that actions matter. Under the hidden action the imagined states are those of
the demonstrations, so that the reward is small until these end.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from rewards import SuccessDetector
from tests.conftest import tiny_config
from world_models.data.demonstrations import Demonstrations
from world_models.encoders.features import FeatureEncoder
from world_models.encoders.state import StateEncoder
from world_models.io import save_model
from world_models.mixer.dynamics import RegressionWorldModel

HIDDEN_ACTION = (0.8, -0.6, 0.7, -0.8)


def save_learnable_world(folder: Path, demonstrations: int = 4, chunks: int = 48) -> Path:
    """Writes the world (L=16, C=8, A=4, K=1, regression dynamics only, success never) into a new folder."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = replace(tiny_config(), chunk_length=1)
    model = RegressionWorldModel(config, StateEncoder(FeatureEncoder(config.encoder)))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5 if "chunk_encoder" in name else 0.3)
    save_model(folder, model)

    action = torch.tensor(HIDDEN_ACTION)
    chunk = action.expand(demonstrations, model.chunk_length, 4)
    states = [torch.randn(demonstrations, 16, 8)]
    with torch.inference_mode():
        for _ in range(chunks):
            states.append(model.predict(states[-1], chunk).features)
    # A chunk's frames all repeat the state at its start, so an episode from any frame can follow the demonstration.
    frames = chunks * model.chunk_length + 1
    features = torch.stack(states, dim=1).repeat_interleave(model.chunk_length, dim=1)[:, :frames].clone()
    actions = action.expand(demonstrations, frames, 4).clone()
    Demonstrations.stack(list(features), list(actions)).save(folder)

    detector = SuccessDetector(16, 8, threshold=1.0)
    torch.nn.init.constant_(detector.head.bias, -100.0)
    detector.save(folder)
    return folder
