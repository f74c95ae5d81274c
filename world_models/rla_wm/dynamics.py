"""RLA-WM as a world model: the flow generates a latent action, the autoencoder's decoder applies it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from world_models.base import Prediction, WorldModel
from world_models.config import WorldConfig
from world_models.encoders.state import StateEncoder
from world_models.heads.expected_error import ExpectedErrorHead
from world_models.heads.rgb_decoder import RGBDecoder
from world_models.rla_wm.autoencoder import RLAConfig, RLAutoencoder
from world_models.rla_wm.latent_flow import LatentFlow, LatentFlowConfig


@dataclass(frozen=True)
class RLAWMConfig:
    """Sizes of the paper's model; the defaults train on two CPU cores in an hour.

    Attributes:
        autoencoder: of residual latent actions.
        flow: over them.
    """

    autoencoder: RLAConfig = field(default_factory=RLAConfig)
    flow: LatentFlowConfig = field(default_factory=LatentFlowConfig)


class RLAWorldModel(WorldModel):
    """The model of arXiv 2605.07079: latent actions are generated whole, by flow matching, and decoded."""

    name = "rla_wm"
    config_type = RLAWMConfig
    parts = (*WorldModel.parts, "rla", "latent_flow", "error_head")
    stochastic = True

    def __init__(self, config: WorldConfig, encoder: StateEncoder, rgb_decoder: RGBDecoder | None = None) -> None:
        super().__init__(config, encoder, rgb_decoder)
        sizes: RLAWMConfig = config.dynamics[self.name]
        latents, latent_dim = sizes.autoencoder.latents, sizes.autoencoder.latent_dim
        self.rla = RLAutoencoder(sizes.autoencoder, self.num_tokens, self.channels)
        self.latent_flow = LatentFlow(sizes.flow, self.num_tokens, self.channels, self.action_dim, latents, latent_dim)
        self.error_head = ExpectedErrorHead(sizes.flow.width)
        self.prediction_noise = (latents, latent_dim)

    @property
    def expected_error(self) -> ExpectedErrorHead:
        return self.error_head

    def use_precision(self, dtype: torch.dtype) -> None:
        for transformer in (self.rla.decoder, self.latent_flow.stage1, self.latent_flow.stage2):
            transformer.to(dtype)

    def _predict_once(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        assert noise is not None
        hidden, chunk = self.latent_flow.read(features, actions)
        latent = self.latent_flow.sample(hidden, chunk, noise, solver_steps)
        expected = self.error_head(hidden, error)
        return Prediction(self.rla.decode(features, latent), expected, self.error_head.uncertainty(expected))
