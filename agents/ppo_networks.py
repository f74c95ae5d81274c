"""The networks of a PPO run: the clone, the iterate, the average that is kept, and the value function."""

from __future__ import annotations

from copy import deepcopy

import torch

from agents.policies.token_policy import TokenCritic, TokenPolicy
from agents.ppo_checkpoint import Parts


class PPONetworks:
    """What PPO trains, with its optimisers, and the clone that it is anchored to.

    Args:
        clone: cloned policy, without gradients.
        learning_rate: of the policy.
        value_learning_rate: of the value function.
        seed: of the value function's initial weights.

    Attributes:
        clone: as given.
        policy: the iterate, which acts.
        averaged: the average of the iterates, which is kept.
        critic: the value function.
        policy_optimizer, value_optimizer: Adam.
    """

    def __init__(self, clone: TokenPolicy, learning_rate: float, value_learning_rate: float, seed: int) -> None:
        self.clone = clone
        self.policy = deepcopy(clone).requires_grad_(True)
        self.averaged = deepcopy(clone)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = TokenCritic(clone).to(clone.log_std.device)
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=learning_rate, eps=1e-5)
        self.value_optimizer = torch.optim.Adam(self.critic.parameters(), lr=value_learning_rate, eps=1e-5)

    def parts(self) -> Parts:
        """What a checkpoint holds."""
        return {
            "policy": self.policy,
            "averaged": self.averaged,
            "critic": self.critic,
            "policy_optimizer": self.policy_optimizer,
            "value_optimizer": self.value_optimizer,
        }

    @torch.no_grad()
    def average(self, decay: float, count: int) -> None:
        """Move the averaged policy towards the iterate after ``count`` learning iterations.

        The average is bias-corrected: after few iterations it does not depend on the clone.
        """
        decay = min(decay, count / (count + 1))
        for average, new in zip(self.averaged.parameters(), self.policy.parameters(), strict=True):
            average.lerp_(new, 1.0 - decay)
