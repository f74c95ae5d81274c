"""What PPO collects in an iteration, T chunks of B environments, and the advantages of its actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RolloutBuffer:
    """Transitions of T chunks in B environments, as tensors on one device, float32 each.

    Attributes:
        features: states before the chunks, (T, B, L, C).
        next_features: states after them, (T, B, L, C); where an episode ended, its last state.
        actions: flat action chunks, not clipped, (T, B, K*A).
        log_probs: log densities of the actions under the policy that drew them, (T, B).
        rewards: (T, B).
        uncertainties: of the dream about the states after the chunks, (T, B); 0 in a simulator.
        terminations: 1 where the episode ended in success, (T, B).
        ends: 1 where the episode ended in whatever way, (T, B).
    """

    features: Tensor
    next_features: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    uncertainties: Tensor
    terminations: Tensor
    ends: Tensor

    @classmethod
    def zeros(
        cls, num_steps: int, num_envs: int, state_shape: tuple[int, ...], action_size: int, device: torch.device
    ) -> RolloutBuffer:
        """A buffer of T = ``num_steps`` and B = ``num_envs`` for states of ``state_shape`` (L, C)."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(num_steps, num_envs, *shape, device=device)

        return cls(
            features=zeros(*state_shape),
            next_features=zeros(*state_shape),
            actions=zeros(action_size),
            log_probs=zeros(),
            rewards=zeros(),
            uncertainties=zeros(),
            terminations=zeros(),
            ends=zeros(),
        )

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.rewards)


def generalised_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminations: Tensor,
    ends: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimation (arXiv 1506.02438) over T steps of B environments.

    The advantage of step t is the sum over k of ``(gamma * gae_lambda) ** k`` times the temporal difference of step
    t + k, up to the end of the episode or of the T steps. A truncated episode goes on in value: its last temporal
    difference counts ``next_values``. A terminated one does not.

    Args:
        rewards: (T, B) float.
        values: of the states before the steps, (T, B).
        next_values: of the states after them, (T, B); where an episode ended, of its last state.
        terminations: 1 where an episode terminated, else 0, (T, B).
        ends: 1 where an episode terminated or was truncated, else 0, (T, B).
        gamma: discount per step.
        gae_lambda: weight of later temporal differences: 0 takes the step's own alone, 1 all.

    Returns:
        Advantages (T, B); added to ``values`` they are the targets of the value function.
    """
    deltas = rewards + gamma * next_values * (1.0 - terminations) - values
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        running = deltas[t] + gamma * gae_lambda * (1.0 - ends[t]) * running
        advantages[t] = running
    return advantages
