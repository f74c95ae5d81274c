"""Environments that a policy plays on and on, an iteration's chunks at a time, to fill a rollout buffer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.env_shards import EnvShards
from agents.policies.gaussian import gaussian_log_prob
from agents.policies.token_policy import TokenPolicy
from agents.rollout_buffer import RolloutBuffer
from rla_gym.ground_truth.seeds import COLLECT_SEED_RANGE


class Player:
    """Environments that a policy plays on and on, some chunks at a time.

    Args:
        envs: vector environment of B environments, autoreset in the same step, output as tensors.
        shards: which of all environments they are.
        dreams: whether they are dreams, which are uncertain and take any seed.
    """

    def __init__(self, envs: Any, shards: EnvShards, *, dreams: bool) -> None:
        self._envs, self._shards, self._dreams = envs, shards, dreams

    def reset(self, seed: int) -> None:
        """Begin new episodes in all environments."""
        if not self._dreams:  # simulators keep to the states that training may use
            seed %= len(COLLECT_SEED_RANGE) - len(self._shards.local)
        self._observation, _ = self._envs.reset(seed=seed)
        self._episode_return = torch.zeros(len(self._shards.local), device=self._observation.device)

    @torch.no_grad()
    def rollout(self, policy: TokenPolicy, buffer: RolloutBuffer, generator: torch.Generator) -> Tensor:
        """Fill a buffer; returns the sum of the returns of the episodes that ended, a scalar.

        Args:
            policy: draws the actions.
            buffer: T chunks of the B environments.
            generator: of the exploration, the same in all processes.
        """
        finished_returns = torch.zeros_like(self._episode_return[0])
        for t in range(buffer.num_steps):
            mean, log_std = policy(self._observation), policy.log_std
            # drawn for all processes' environments, so that it does not matter who steps which
            shape = (self._shards.num_envs, mean.shape[1])
            noise = self._shards.take(torch.randn(shape, device=mean.device, generator=generator))
            action = mean + log_std.exp() * noise
            buffer.features[t], buffer.actions[t] = self._observation, action
            buffer.log_probs[t] = gaussian_log_prob(action, mean, log_std)

            self._observation, reward, terminated, truncated, info = self._envs.step(action)
            done = terminated | truncated
            buffer.rewards[t], buffer.terminations[t], buffer.ends[t] = reward, terminated.float(), done.float()
            # Where an episode ended, what counts is its last state and not the first one of the next episode.
            buffer.next_features[t] = torch.where(done[:, None, None], info["final_obs"], self._observation)
            if self._dreams:
                buffer.uncertainties[t] = torch.where(done, info["final_info"]["uncertainty"], info["uncertainty"])
            self._episode_return += reward
            finished_returns += (self._episode_return * done).sum()
            self._episode_return *= ~done
        return finished_returns

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()
