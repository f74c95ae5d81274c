"""Attentive probes: read cube, end-effector and gripper out of features. For evaluation only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world_models.layers.attention_pool import AttentionPool
from world_models.training.fit import fit


@dataclass(frozen=True)
class ProbeConfig:
    """Size and schedule of the probe.

    Attributes:
        width: channels of a token inside the probe.
        queries: learned queries Q.
        iterations: gradient steps.
        batch_size: frames in a step.
        learning_rate: peak of a one-cycle schedule (AdamW).
        seed: of the initial weights and the batches.
    """

    width: int = 96
    queries: int = 8
    iterations: int = 1500
    batch_size: int = 128
    learning_rate: float = 2e-3
    seed: int = 0


class AttentiveProbe(nn.Module):
    """Learned queries attend to the tokens; an MLP reads the quantities off them.

    Args:
        num_tokens, channels: shape (L, C) of a state.
        mean, std: statistics ``(D,)`` of the targets.
        config: size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_tokens: int, channels: int, mean: Tensor, std: Tensor, config: ProbeConfig) -> None:
        super().__init__()
        width = config.width
        self.token_in = nn.Linear(channels, width)
        self.positions = nn.Parameter(torch.randn(num_tokens, width))
        self.local = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        # Several queries over one head: where an object is, is where the attention lies.
        self.pool = AttentionPool(config.queries, width, spread=2.0)
        self.key_value = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width))
        self.read = nn.Sequential(
            nn.LayerNorm(config.queries * width), nn.Linear(config.queries * width, 256), nn.GELU(),
            nn.Linear(256, len(mean)),
        )  # fmt: skip
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, L, C)`` to quantities ``(B, D)`` in their own unit."""
        tokens = self.token_in(features) + self.positions
        tokens = tokens + self.local(tokens)
        keys, values = self.key_value(tokens).chunk(2, dim=-1)
        return self.read(self.pool(keys, values).flatten(1)) * self.std + self.mean


def fit_probe(features: Tensor, targets: Tensor, config: ProbeConfig) -> AttentiveProbe:
    """Fit a probe.

    Args:
        features: ``(F, L, C)`` float16 of training frames; may be memory-mapped.
        targets: ``(F, D)`` float32.
        config: size and schedule.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    mean, std = targets.mean(dim=0), targets.std(dim=0).clamp_min(1e-6)
    probe = AttentiveProbe(features.shape[1], features.shape[2], mean, std, config)
    optimiser = torch.optim.AdamW(probe.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, config.iterations)

    def loss() -> Tensor:
        rows = torch.randint(len(features), (config.batch_size,), generator=generator)
        read = probe(features[rows].float())
        return F.smooth_l1_loss((read - mean) / std, (targets[rows] - mean) / std, beta=0.1)

    fit(optimiser, schedule, loss, config.iterations, title="probe")
    return probe.eval().requires_grad_(False)
