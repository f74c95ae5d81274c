"""LatentFlow: generates the latent action of an action chunk by flow matching (arXiv 2605.07079, 2210.02747)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.action_chunk import ActionChunkEncoder
from world_models.samplers import euler
from world_models.transformer import Block, KeysAndValues, learned_tokens


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of the flow.

    Attributes:
        width: channels inside the transformer.
        condition_depth: blocks of stage 1, over the tokens of the state, run once per prediction.
        flow_depth: blocks of stage 2, over the latent tokens, run once per solver step.
        heads: attention heads.
        solver_steps: Euler steps of a prediction when the caller names none.
    """

    width: int = 160
    condition_depth: int = 3
    flow_depth: int = 4
    heads: int = 5
    solver_steps: int = 4


@dataclass(frozen=True)
class FlowCondition:
    """What stage 1 hands to every solver step: keys and values per stage-2 block, and the chunk embedding."""

    keys_and_values: tuple[KeysAndValues, ...]
    chunk: Tensor


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding ``(B, W)`` of a flow time ``(B,)`` in [0, 1]."""
    frequencies = torch.exp(torch.arange(width // 2, device=time.device) * (-math.log(1000.0) / (width // 2)))
    angles = time[:, None] * 1000.0 * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class LatentFlow(nn.Module):
    """Velocity field over latent actions, conditioned on a state and an action chunk.

    Args:
        config: sizes.
        num_tokens: patch tokens L of a state.
        channels: channels C of a patch token.
        latents: latent tokens n.
        latent_dim: channels d of a latent token.
        action_dim: dimensions A of one action.
    """

    latent_scale: Tensor

    def __init__(
        self, config: FlowConfig, num_tokens: int, channels: int, latents: int, latent_dim: int, action_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        self.latents, self.latent_dim = latents, latent_dim
        width = config.width
        self.chunk_encoder = ActionChunkEncoder(action_dim, width)
        self.state_in = nn.Linear(channels, width)
        self.state_positions = learned_tokens(num_tokens, width)
        self.condition_blocks = nn.ModuleList(
            Block(width, config.heads, modulated=True) for _ in range(config.condition_depth)
        )
        self.context_norm = nn.LayerNorm(width)
        self.latent_in = nn.Linear(latent_dim, width)
        self.latent_positions = learned_tokens(latents, width)
        self.time_in = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.flow_blocks = nn.ModuleList(
            Block(width, config.heads, modulated=True, cross=True) for _ in range(config.flow_depth)
        )
        self.velocity_out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, latent_dim))
        output = self.velocity_out[1]
        assert isinstance(output, nn.Linear)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        # Latents are divided by their spread, so that data and noise have the same scale.
        self.register_buffer("latent_scale", torch.ones(()))

    def condition(self, features: Tensor, actions: Tensor, lengths: Tensor | None = None) -> FlowCondition:
        """Stage 1: state ``(B, L, C)`` and actions ``(B, K, A)`` to what the solver steps reuse."""
        chunk = self.chunk_encoder(actions, lengths)
        x = self.state_in(features) + self.state_positions
        for block in self.condition_blocks:
            x = block(x, chunk)
        context = self.context_norm(x)
        keys_and_values = []
        for block in self.flow_blocks:
            assert isinstance(block, Block)
            assert block.cross_attention is not None
            keys_and_values.append(block.cross_attention.keys_and_values(context))
        return FlowCondition(tuple(keys_and_values), chunk)

    def velocity(self, noisy: Tensor, time: Tensor, condition: FlowCondition) -> Tensor:
        """Stage 2: noisy scaled latent ``(B, n, d)`` at flow time ``(B,)`` to the velocity ``(B, n, d)``."""
        modulation = self.time_in(time_embedding(time, self.config.width).to(noisy.dtype)) + condition.chunk
        x = self.latent_in(noisy) + self.latent_positions
        for block, context in zip(self.flow_blocks, condition.keys_and_values, strict=True):
            x = block(x, modulation, context)
        return self.velocity_out(x)

    def sample(self, features: Tensor, actions: Tensor, noise: Tensor, solver_steps: int | None = None) -> Tensor:
        """Latent action ``(B, n, d)``, in the autoencoder's own scale, from standard normal ``noise``."""
        condition = self.condition(features, actions)
        steps = solver_steps or self.config.solver_steps
        return euler(lambda x, time: self.velocity(x, time, condition), noise, steps) * self.latent_scale

    def loss(
        self,
        features: Tensor,
        actions: Tensor,
        lengths: Tensor | None,
        latent: Tensor,
        generator: torch.Generator,
        draws: int = 4,
    ) -> Tensor:
        """Flow-matching loss MSE + L1 with logit-normal flow times, a scalar.

        Args:
            features: states ``(B, L, C)``.
            actions: chunks ``(B, K, A)``.
            lengths: valid steps of each chunk ``(B,)``, or None.
            latent: target latent actions ``(B, n, d)``, in the autoencoder's scale.
            generator: source of noise and flow times, on the CPU.
            draws: noise draws per sample; stage 1 is paid once for all of them.
        """
        condition = self.condition(features, actions, lengths)
        condition = FlowCondition(
            tuple((k.repeat(draws, 1, 1, 1), v.repeat(draws, 1, 1, 1)) for k, v in condition.keys_and_values),
            condition.chunk.repeat(draws, 1),
        )
        target = (latent / self.latent_scale).repeat(draws, 1, 1)
        noise = torch.randn(target.shape, generator=generator).to(target)
        time = torch.sigmoid(torch.randn(len(target), generator=generator)).to(target)
        noisy = (1 - time)[:, None, None] * target + time[:, None, None] * noise
        velocity = self.velocity(noisy, time, condition).float()
        return F.mse_loss(velocity, noise - target) + F.l1_loss(velocity, noise - target)
