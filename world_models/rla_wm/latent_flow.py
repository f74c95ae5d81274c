"""Flow matching over latent actions: a transformer that generates the whole latent action of an action chunk.

Stage 1 reads the state, steered by the chunk, once per prediction. Stage 2 reads noisy latent tokens, steered by the
flow time, and attends to stage 1, whose keys and values are computed once; it runs once per solver step. All of it is
trained by the flow-matching loss (arXiv 2605.07079, 2210.02747).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.dataclass_reader import check_ranges
from world_models.layers.linear import zero_linear
from world_models.layers.samplers import euler
from world_models.rla_wm.blocks import Context, Transformer, learned_tokens


@dataclass(frozen=True)
class LatentFlowConfig:
    """Sizes of the flow.

    Attributes:
        width: channels inside both stages, an even number from 2 to 8192.
        state_depth: blocks of stage 1, 1 to 128.
        flow_depth: blocks of stage 2, 1 to 128.
        heads: attention heads, 1 to 256.
        solver_steps: Euler steps of a prediction when the caller names none, 1 to 256.

    Raises:
        ValueError: a size is out of its range.
    """

    width: int = 128
    state_depth: int = 4
    flow_depth: int = 4
    heads: int = 4
    solver_steps: int = 4

    def __post_init__(self) -> None:
        check_ranges(
            self, width=(2, 8192), state_depth=(1, 128), flow_depth=(1, 128), heads=(1, 256), solver_steps=(1, 256)
        )
        if self.width % 2:
            raise ValueError(f"width={self.width} must be even: half of the flow time's embedding are cosines")


class ChunkEmbedding(nn.Module):
    """Action chunks of any length to a condition: an MLP per step, then a GRU over the steps.

    Args:
        action_dim: dimensions A of one action.
        width: channels W.
    """

    def __init__(self, action_dim: int, width: int) -> None:
        super().__init__()
        self.step = nn.Sequential(nn.Linear(2 * action_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.recurrence = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, width)

    def forward(self, actions: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Actions ``(B, K, A)`` to ``(B, W)``; steps past ``lengths`` ``(B,)`` int64, where given, are ignored."""
        # Positions are sums of velocities: giving both spares the recurrence the adding.
        states, _ = self.recurrence(self.step(torch.cat([actions, actions.cumsum(dim=1) / 4], dim=-1)))
        last = states[:, -1] if lengths is None else states[torch.arange(len(states)), lengths - 1]
        return self.out(last)


class LatentFlow(nn.Module):
    """Generates latent actions ``(n, d)`` from a state and an action chunk.

    Args:
        config: sizes.
        num_tokens: tokens L of a state.
        channels: channels C of a token.
        action_dim: dimensions A of one action.
        latents: latent tokens n.
        latent_dim: channels d of a latent token.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self, config: LatentFlowConfig, num_tokens: int, channels: int, action_dim: int, latents: int, latent_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.chunk = ChunkEmbedding(action_dim, width)
        self.state_in = nn.Linear(channels, width)
        self.state_positions = learned_tokens(num_tokens, width)
        self.stage1 = Transformer(width, config.state_depth, config.heads, conditioned=True)
        self.time_in = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.latent_in = nn.Linear(latent_dim, width)
        self.latent_positions = learned_tokens(latents, width)
        self.stage2 = Transformer(width, config.flow_depth, config.heads, conditioned=True, context_width=width)
        self.velocity_out = zero_linear(width, latent_dim)
        # Data and noise of one scale: each latent number has unit spread inside the flow.
        self.register_buffer("latent_mean", torch.zeros(latents, latent_dim))
        self.register_buffer("latent_std", torch.ones(latents, latent_dim))

    @torch.no_grad()
    def fit_latents(self, latents: Tensor) -> None:
        """Store mean and spread of the autoencoder's latent actions ``(N, n, d)``."""
        self.latent_mean.copy_(latents.float().mean(dim=0))
        self.latent_std.copy_(latents.float().std(dim=0).clamp_min(1e-4))

    def read(self, features: Tensor, actions: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Stage 1: the state's hidden tokens ``(B, L, W)`` and the chunk's embedding ``(B, W)``.

        Args:
            features: states ``(B, L, C)``.
            actions: chunks ``(B, K, A)``.
            lengths: valid steps ``(B,)`` int64 of each chunk; None means all K.
        """
        chunk = self.chunk(actions, lengths)
        return self.stage1(self.state_in(features) + self.state_positions, chunk), chunk

    def velocity(self, noisy: Tensor, time: Tensor, chunk: Tensor, contexts: list[Context]) -> Tensor:
        """Stage 2: the velocity noise - data ``(B, n, d)`` at noisy latents ``(B, n, d)`` and flow times ``(B,)``."""
        condition = chunk + self.time_in(time_embedding(time, self.config.width).to(noisy.dtype))
        tokens = self.latent_in(noisy) + self.latent_positions
        return self.velocity_out(self.stage2(tokens, condition, contexts)).float()

    def sample(self, hidden: Tensor, chunk: Tensor, noise: Tensor, solver_steps: int | None = None) -> Tensor:
        """Latent action ``(B, n, d)`` in the autoencoder's scale, from standard normal ``noise`` ``(B, n, d)``.

        Args:
            hidden, chunk: of :meth:`read`.
            noise: what the sample is made of.
            solver_steps: Euler steps; None takes the config's.
        """
        contexts = self.stage2.contexts(hidden)
        latent = euler(
            lambda noisy, time: self.velocity(noisy, time, chunk, contexts),
            noise,
            solver_steps or self.config.solver_steps,
        )
        return latent * self.latent_std + self.latent_mean

    def loss(self, hidden: Tensor, chunk: Tensor, latent: Tensor, generator: torch.Generator) -> Tensor:
        """MSE + L1 of the velocity at logit-normal flow times, a scalar.

        Args:
            hidden, chunk: of :meth:`read`.
            latent: target latent actions ``(B, n, d)``, in the autoencoder's scale.
            generator: source of noise and flow times, on the CPU.
        """
        target = (latent.detach().float() - self.latent_mean) / self.latent_std
        noise = torch.randn(target.shape, generator=generator).to(target)
        time = torch.sigmoid(torch.randn(len(target), generator=generator)).to(target)
        noisy = torch.lerp(target, noise, time[:, None, None])
        error = self.velocity(noisy, time, chunk, self.stage2.contexts(hidden)) - (noise - target)
        return F.mse_loss(error, torch.zeros_like(error)) + error.abs().mean()


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding ``(B, W)`` of a flow time ``(B,)`` in [0, 1]."""
    steps = torch.arange(width // 2, device=time.device, dtype=torch.float32)
    frequencies = torch.exp(steps * (-math.log(1000.0) / (width // 2)))
    angles = time[:, None] * 1000.0 * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
