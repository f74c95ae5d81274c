"""The mixer's dynamics as world models: the regression, a flow on what that leaves, and a sampler around it."""

from __future__ import annotations

import torch
from torch import Tensor

from world_models.base import Prediction, WorldModel
from world_models.config import WorldConfig
from world_models.encoders.state import StateEncoder
from world_models.heads.expected_error import ExpectedErrorHead
from world_models.heads.rgb_decoder import RGBDecoder
from world_models.mixer.blocks import Mixer
from world_models.mixer.latent_projection import LatentProjection
from world_models.mixer.regression import MixerRegression, RegressionConfig
from world_models.mixer.residual_flow import ResidualFlow, ResidualFlowConfig
from world_models.mixer.score_sampler import ScoreSampler, ScoreSamplerConfig


class MixerWorldModel(WorldModel):
    """What the two share: a regression that predicts the state and the error of that."""

    @property
    def base_predictor(self) -> MixerRegression:
        """The regression."""
        raise NotImplementedError

    @property
    def expected_error(self) -> ExpectedErrorHead:
        return self.base_predictor.expected_error

    def use_precision(self, dtype: torch.dtype) -> None:
        for module in self.modules():
            if isinstance(module, Mixer):
                module.to(dtype)


class ResidualFlowWorldModel(MixerWorldModel):
    """A mixer regression with a flow on what it leaves. With one solver step, as shipped, nearly deterministic."""

    name = "residual_flow"
    config_type = ResidualFlowConfig
    parts = (*MixerWorldModel.parts, "latent_projection", "residual_flow")
    stochastic = True

    def __init__(self, config: WorldConfig, encoder: StateEncoder, rgb_decoder: RGBDecoder | None = None) -> None:
        super().__init__(config, encoder, rgb_decoder)
        sizes: ResidualFlowConfig = config.dynamics[self.name]
        self.latent_projection = LatentProjection(self.num_tokens, self.channels, sizes.latents, sizes.latent_dim)
        self.residual_flow = ResidualFlow(
            sizes, self.num_tokens, self.channels, self.action_dim, self.proprioception_dim
        )
        self.prediction_noise = (sizes.latents, sizes.latent_dim)

    @property
    def base_predictor(self) -> MixerRegression:
        return self.residual_flow.base

    def _predict_once(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        assert noise is not None
        flow = self.residual_flow
        predicted = flow.base(features, actions, error=error)
        latent = flow.sample(flow.context(predicted), noise, solver_steps)
        reached = features + predicted.residual.float() + self.latent_projection.decode(latent).float()
        return Prediction(reached, predicted.error, flow.base.expected_error.uncertainty(predicted.error))


class RegressionWorldModel(MixerWorldModel):
    """Deterministic prediction of features by a mixer, in the manner of DINO-WM (arXiv 2411.04983)."""

    name = "regression"
    config_type = RegressionConfig
    parts = (*MixerWorldModel.parts, "regression")

    def __init__(self, config: WorldConfig, encoder: StateEncoder, rgb_decoder: RGBDecoder | None = None) -> None:
        super().__init__(config, encoder, rgb_decoder)
        self.regression = MixerRegression(
            config.dynamics[self.name], self.num_tokens, self.channels, self.action_dim, self.proprioception_dim
        )

    @property
    def base_predictor(self) -> MixerRegression:
        return self.regression

    def _predict_once(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        predicted = self.regression(features, actions, error=error)
        reached = features + predicted.residual.float()
        return Prediction(reached, predicted.error, self.regression.expected_error.uncertainty(predicted.error))


class ScoreSamplerWorldModel(MixerWorldModel):
    """Samples of what may come: a regression and a sampler around it, one pass of each, trained by a proper score."""

    name = "score_sampler"
    config_type = ScoreSamplerConfig
    parts = (*MixerWorldModel.parts, "score_sampler")
    requires = ("regression",)
    stochastic = True

    def __init__(self, config: WorldConfig, encoder: StateEncoder, rgb_decoder: RGBDecoder | None = None) -> None:
        super().__init__(config, encoder, rgb_decoder)
        sizes: ScoreSamplerConfig = config.dynamics[self.name]
        self.score_sampler = ScoreSampler(
            sizes, config.dynamics["regression"], self.num_tokens, self.channels, self.action_dim,
            self.proprioception_dim,
        )  # fmt: skip
        self.prediction_noise, self.lasting_noise = (1, sizes.noise), sizes.lasting

    @property
    def base_predictor(self) -> MixerRegression:
        return self.score_sampler.base

    @property
    def expected_error(self) -> ExpectedErrorHead:
        return self.score_sampler.expected_error

    def _predict_once(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        assert noise is not None
        change, predicted = self.score_sampler(features, actions, noise)
        expected = self.expected_error(predicted.tokens, error)
        return Prediction(features + change[:, 0], expected, self.expected_error.uncertainty(expected))
