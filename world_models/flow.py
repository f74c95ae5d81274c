"""LatentFlow: generates the latent action of an action chunk by flow matching (arXiv 2605.07079, 2210.02747).

Most of what a chunk does can be foretold. Stage 1 foretells it by regression, once per step; the flow generates only
what is left, the latent action that leads from the foretold state to the one that comes (as CorrDiff does with pixels,
arXiv 2309.15214). Stage 2 predicts the clean latent action rather than the velocity: a single solver step from noise
then gives its mean, with none of the noise left in it, and more steps give samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from world_models.mixer import Mixer, Mixing, zero_linear
from world_models.regression import FeatureRegression, RegressionConfig, ResidualPrediction
from world_models.samplers import euler


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of the flow.

    Attributes:
        width: channels inside both stages.
        condition_depth: blocks of stage 1, over the tokens of the state, run once per prediction.
        flow_depth: blocks of stage 2, over the latent tokens, run once per solver step.
        mixing: how tokens see each other in stage 1; stage 2 has few and mixes positions.
        solver_steps: Euler steps of a prediction when the caller names none.
    """

    width: int = 160
    condition_depth: int = 6
    flow_depth: int = 2
    mixing: Mixing = "positions"
    solver_steps: int = 1


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding ``(B, W)`` of a flow time ``(B,)`` in [0, 1]."""
    frequencies = torch.exp(torch.arange(width // 2, device=time.device) * (-math.log(1000.0) / (width // 2)))
    angles = time[:, None] * 1000.0 * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class LatentFlow(nn.Module):
    """Flow over what of a latent action cannot be foretold from a state and an action chunk.

    Args:
        config: sizes.
        num_tokens: tokens L of a state.
        channels: channels C of a token.
        latents: latent tokens n.
        latent_dim: channels d of a latent token.
        action_dim: dimensions A of one action.
        readings: values in the proprioceptive token; 0 for a world from video alone.
    """

    latent_scale: Tensor

    def __init__(
        self,
        config: FlowConfig,
        num_tokens: int,
        channels: int,
        latents: int,
        latent_dim: int,
        action_dim: int,
        readings: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        stage = RegressionConfig(width, config.condition_depth, config.mixing)
        self.stage1 = FeatureRegression(stage, num_tokens, channels, action_dim, readings)
        self.context_tokens = nn.Linear(num_tokens, latents)
        self.context_channels = nn.Linear(width, width)
        self.time_in = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.stage2 = Mixer(latents, latent_dim + width, width, config.flow_depth, modulated=True)
        self.clean_out = zero_linear(width, latent_dim)
        # What is left, per latent dimension, is divided by its spread: data and noise have one scale.
        self.register_buffer("latent_scale", torch.ones(latents, latent_dim))
        self._powers: list[Tensor] = []

    def context(self, prediction: ResidualPrediction) -> Tensor:
        """What stage 1 hands to every solver step: channels ``(B, n, W)`` beside each noisy latent token.

        The gradient stops here: generating what is left must not make stage 1 leave more of it.
        """
        context = self.context_tokens(prediction.tokens.detach().transpose(1, 2)).transpose(1, 2)
        return self.context_channels(context)

    def clean(self, noisy: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Stage 2: the latent action ``(B, n, d)`` expected behind a noisy one at flow time ``(B,)``, both scaled."""
        modulation = self.time_in(time_embedding(time, self.config.width).to(noisy.dtype))
        tokens = torch.cat([noisy, context.to(noisy.dtype)], dim=-1)
        return self.clean_out(self.stage2(tokens, modulation))

    def sample(self, context: Tensor, noise: Tensor, solver_steps: int | None = None) -> Tensor:
        """Latent action ``(B, n, d)``, in the autoencoder's own scale, from standard normal ``noise``."""

        def velocity(noisy: Tensor, time: Tensor) -> Tensor:
            return (noisy - self.clean(noisy, time, context)) / time[:, None, None]

        return euler(velocity, noise, solver_steps or self.config.solver_steps) * self.latent_scale

    def loss(self, context: Tensor, latent: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of the clean latent action, weighted as the tokens see each dimension, a scalar.

        Half of the samples are pure noise, where every solver begins and a single step ends; the flow times of the
        others are logit-normal. In training mode it also remembers the power of the latent actions, for
        :meth:`update_latent_scale`.

        Args:
            context: of the states and chunks.
            latent: target latent actions ``(B, n, d)`` from the foretold states on, in the autoencoder's scale.
            generator: source of noise and flow times, on the CPU.
        """
        latent = latent.detach().float()
        if self.training:
            self._powers.append(latent.square().mean(dim=0))
        target = latent / self.latent_scale
        noise = torch.randn(target.shape, generator=generator).to(target)
        time = torch.sigmoid(torch.randn(len(target), generator=generator)).to(target)
        time[::2] = 1.0
        noisy = (1 - time)[:, None, None] * target + time[:, None, None] * noise
        weights = self.latent_scale.square() / self.latent_scale.square().mean()
        return (weights * (self.clean(noisy, time, context).float() - target).square()).mean()

    @torch.no_grad()
    def update_latent_scale(self, average: Callable[[Tensor], Tensor]) -> None:
        """Move ``latent_scale`` towards the latent actions of all losses since the last call.

        Args:
            average: over the processes that train together, of one tensor.
        """
        power = average(torch.stack(self._powers).mean(dim=0))
        self._powers.clear()
        self.latent_scale.copy_(power.lerp(self.latent_scale.square(), 0.98).sqrt().clamp_min(1e-4))
