"""A sampler of next states in one pass, trained by a proper score: noise decides which of the possible futures comes.

A frozen regression predicts the next state. A second mixer, steered by a few numbers of noise, moves that prediction to
one of the states that may come, as far at each token as the regression errs there. Its loss is the energy score
(Gneiting and Raftery 2007) of several draws, which no other distribution minimises than the true one: draws must be
near what came, and as far from each other as from it. Weather models are trained so (FGN, arXiv 2506.10772).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.dataclass_reader import check_ranges
from world_models.heads.expected_error import ExpectedErrorHead
from world_models.mixer.blocks import Mixer, MixerBlock, Mixing
from world_models.mixer.regression import ResidualPrediction

SMALL = 0.02
"""Spread of the initial weights that noise acts through: from zero, all draws would be alike, and stay so."""
ERROR_WEIGHT = 0.1
"""Weight of the squared errors of expected errors beside the energy score."""
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


class ScoreSampler(nn.Module):
    """Moves a regression's prediction to a sample.

    Args:
        config: sizes.
        num_tokens: tokens L of a state.
        channels: channels C of a token.
        base_width: channels W of the regression's hidden tokens.
    """

    def __init__(self, config: ScoreSamplerConfig, num_tokens: int, channels: int, base_width: int) -> None:
        super().__init__()
        self.config = config
        self.noise_in = nn.Sequential(
            nn.Linear(config.noise, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.state_in = nn.Linear(base_width, config.width)
        self.mixer = Mixer(
            num_tokens, 2 * channels + base_width, config.width, config.depth, modulated=True, mixing=config.mixing
        )
        self.move_out = nn.Linear(config.width, channels)
        for layer in (
            self.move_out,
            *(block.modulation for block in self.mixer.blocks if isinstance(block, MixerBlock)),
        ):
            assert layer is not None
            nn.init.normal_(layer.weight, std=SMALL)
        self.error_of_regression = ExpectedErrorHead(base_width)
        self.expected_error = ExpectedErrorHead(base_width)

    def forward(self, features: Tensor, predicted: ResidualPrediction, noise: Tensor) -> Tensor:
        """Samples of the change of a state.

        Args:
            features: states ``(B, L, C)``.
            predicted: what the regression says of them; no gradient reaches it.
            noise: standard normal ``(B, D, n)`` for D draws of each, n of :attr:`ScoreSamplerConfig.noise`.

        Returns:
            Changes of the state ``(B, D, L, C)``.
        """
        draws = noise.shape[1]
        residual, tokens = predicted.residual.detach().to(features.dtype), predicted.tokens.detach()
        inputs = torch.cat([features, residual, tokens.to(features.dtype)], dim=-1)
        condition = self.noise_in(noise) + self.state_in(tokens.mean(dim=1))[:, None]
        moved = self.move_out(self.mixer(inputs.repeat_interleave(draws, dim=0), condition.flatten(0, 1)))
        size = self.error_of_regression(tokens, None).detach()[:, None, :, None].to(features.dtype)
        return residual[:, None] + size * moved.unflatten(0, (-1, draws)).to(features.dtype)

    def loss(self, features: Tensor, predicted: ResidualPrediction, target: Tensor, noise: Tensor) -> Tensor:
        """Energy score of the draws, and the squared errors of both expected errors; a scalar.

        Args:
            features, predicted, noise: as of :meth:`forward`, with at least two draws.
            target: states ``(B, L, C)`` that came.
        """
        draws = features[:, None] + self(features, predicted, noise).float()
        one_error = (draws[:, 0].detach() - target).abs().mean(dim=2)
        regression_error = (features + predicted.residual.detach().float() - target).abs().mean(dim=2)
        errors = F.mse_loss(self.expected_error(predicted.tokens, None), one_error)
        errors = errors + F.mse_loss(self.error_of_regression(predicted.tokens, None), regression_error)
        return energy_score(draws, target) + ERROR_WEIGHT * errors


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
