"""A sampler of next states in one pass, trained by a proper score: noise decides which of the possible futures comes.

A regression predicts the next state. A second mixer, steered by a few numbers of noise, moves that prediction to one of
the states that may come, as far at each token as the regression expects to err there. Both are trained by the energy
score (Gneiting and Raftery 2007) of several draws, which no other distribution minimises than the true one: draws must
be near what came, and as far from each other as from it. Weather models are trained so (FGN, arXiv 2506.10772).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.dataclass_reader import check_ranges
from world_models.heads.expected_error import ExpectedErrorHead
from world_models.mixer.blocks import Mixer, MixerBlock, Mixing
from world_models.mixer.regression import MixerRegression, RegressionConfig, ResidualPrediction

SMALL = 0.02
"""Spread of the initial weights that noise acts through: from zero, all draws would be alike, and stay so."""
BASE_WEIGHT = 0.3
"""Weight of the regression's own loss beside the energy score: it goes on predicting states, and its errors."""
ERROR_WEIGHT = 0.1
"""Weight of the squared error of expected errors beside the energy score."""
ROUNDING = 1e-6
"""Added under square roots: the slope of a distance has no limit at zero."""


@dataclass(frozen=True)
class ScoreSamplerConfig:
    """Sizes of the sampler.

    Attributes:
        width: channels inside, 2 to 8192.
        depth: mixer blocks, run once per draw; 1 to 128.
        noise: numbers of noise that decide a draw, 1 to 4096.
        lasting: how many of these stay the same through an episode, 0 to ``noise``: they stand for what is hidden and
            does not change, so that an imagined grasp which holds goes on holding.
        mixing: how tokens see each other in the blocks.

    Raises:
        ValueError: a size is out of its range.
    """

    width: int = 128
    depth: int = 3
    noise: int = 16
    lasting: int = 8
    mixing: Mixing = "positions"

    def __post_init__(self) -> None:
        check_ranges(self, width=(2, 8192), depth=(1, 128), noise=(1, 4096), lasting=(0, self.noise))


class ScoreSample(NamedTuple):
    """Draws of a :class:`ScoreSampler`.

    Attributes:
        change: of the state ``(B, D, L, C)``.
        predicted: what the regression says, around which they are drawn.
    """

    change: Tensor
    predicted: ResidualPrediction


class ScoreSampler(nn.Module):
    """A regression, and what moves its prediction to a sample.

    Args:
        config: sizes.
        base: sizes of the regression.
        num_tokens: tokens L of a state.
        channels: channels C of a token.
        action_dim: dimensions A of one action.
        proprioception_dim: values R in the proprioceptive token; 0 for a world from video alone.
    """

    def __init__(
        self,
        config: ScoreSamplerConfig,
        base: RegressionConfig,
        num_tokens: int,
        channels: int,
        action_dim: int,
        proprioception_dim: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.base = MixerRegression(base, num_tokens, channels, action_dim, proprioception_dim)
        self.noise_in = nn.Sequential(
            nn.Linear(config.noise, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.state_in = nn.Linear(base.width, config.width)
        self.mixer = Mixer(
            num_tokens, 2 * channels + base.width, config.width, config.depth, modulated=True, mixing=config.mixing
        )
        self.move_out = nn.Linear(config.width, channels)
        for layer in (
            self.move_out,
            *(block.modulation for block in self.mixer.blocks if isinstance(block, MixerBlock)),
        ):
            assert layer is not None
            nn.init.normal_(layer.weight, std=SMALL)
        self.expected_error = ExpectedErrorHead(base.width)

    def forward(self, features: Tensor, actions: Tensor, noise: Tensor, lengths: Tensor | None = None) -> ScoreSample:
        """Samples of the change of a state.

        Args:
            features: states ``(B, L, C)``.
            actions: chunks ``(B, K, A)``.
            noise: standard normal ``(B, D, n)`` for D draws of each, n of :attr:`ScoreSamplerConfig.noise`.
            lengths: valid steps ``(B,)`` int64 of each chunk; None means all K.
        """
        draws, predicted = noise.shape[1], self.base(features, actions, lengths)
        residual, tokens = predicted.residual.to(features.dtype), predicted.tokens
        inputs = torch.cat([features, residual, tokens.to(features.dtype)], dim=-1)
        condition = self.noise_in(noise) + self.state_in(tokens.mean(dim=1))[:, None]
        moved = self.move_out(self.mixer(inputs.repeat_interleave(draws, dim=0), condition.flatten(0, 1)))
        size = predicted.error.detach()[:, None, :, None].to(features.dtype)
        change = residual[:, None] + size * moved.unflatten(0, (-1, draws)).to(features.dtype)
        return ScoreSample(change.float(), predicted)

    def loss(
        self, features: Tensor, actions: Tensor, target: Tensor, noise: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """Energy score of the draws, loss of the regression, and squared error of expected errors; a scalar.

        Args:
            features, actions, noise, lengths: as of :meth:`forward`, with at least two draws.
            target: states ``(B, L, C)`` that came.
        """
        change, predicted = self(features, actions, noise, lengths)
        draws = features[:, None] + change
        wrong_by = (draws[:, 0].detach() - target).abs().mean(dim=2)
        error = F.mse_loss(self.expected_error(predicted.tokens, None), wrong_by)
        of_base = self.base.loss(predicted, features, target)
        return energy_score(draws, target) + BASE_WEIGHT * of_base + ERROR_WEIGHT * error


def energy_score(draws: Tensor, target: Tensor) -> Tensor:
    """The fair energy score of draws, of tokens and of whole states, a scalar; smaller is better.

    Args:
        draws: states ``(B, D, L, C)``, D at least 2.
        target: the states that came ``(B, L, C)``.
    """
    count = draws.shape[1]
    first, second = torch.triu_indices(count, count, offset=1)
    wrong = (draws - target[:, None]).float().square().mean(dim=-1)
    apart = (draws[:, first] - draws[:, second]).float().square().mean(dim=-1)
    # Each token alone, so that no part of the picture is lost in the sum, and all together, so that they fit.
    scores = [
        _root(wrong).mean() - 0.5 * _root(apart).mean(),
        _root(wrong.mean(-1)).mean() - 0.5 * _root(apart.mean(-1)).mean(),
    ]
    return scores[0] + scores[1]


def _root(square: Tensor) -> Tensor:
    return (square + ROUNDING).sqrt()
