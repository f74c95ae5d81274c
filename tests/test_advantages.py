"""Generalised advantages equal the sums that define them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.rollout_buffer import RolloutBuffer, generalised_advantages

STEPS, ENVS, GAMMA = 7, 5, 0.9


def slow_advantage(rows: dict[str, Tensor], t: int, env: int, gae_lambda: float) -> float:
    """The definition, written out: a sum of temporal differences up to the end of the episode or of the steps."""
    total, weight = 0.0, 1.0
    for later in range(t, STEPS):
        step = {name: float(table[later, env]) for name, table in rows.items()}
        bootstrap = 0.0 if step["terminations"] else GAMMA * step["next_values"]
        total += weight * (step["rewards"] + bootstrap - step["values"])
        if step["ends"]:
            break
        weight *= GAMMA * gae_lambda
    return total


@pytest.fixture
def rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rewards, values, next_values = torch.randn(3, STEPS, ENVS, generator=generator)
    ends = (torch.rand(STEPS, ENVS, generator=generator) < 0.3).float()
    terminations = ends * (torch.rand(STEPS, ENVS, generator=generator) < 0.5)
    assert 0 < terminations.sum() < ends.sum()
    return {
        "rewards": rewards, "values": values, "next_values": next_values, "terminations": terminations, "ends": ends,
    }  # fmt: skip


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_advantages_are_the_sums_that_define_them(rows: dict[str, Tensor], gae_lambda: float) -> None:
    advantages = generalised_advantages(**rows, gamma=GAMMA, gae_lambda=gae_lambda)
    slow = [[slow_advantage(rows, t, env, gae_lambda) for env in range(ENVS)] for t in range(STEPS)]
    torch.testing.assert_close(advantages, torch.tensor(slow))


def test_one_step_episodes_have_their_reward_as_return(rows: dict[str, Tensor]) -> None:
    always = torch.ones(STEPS, ENVS)
    advantages = generalised_advantages(
        rows["rewards"], rows["values"], rows["next_values"], always, always, gamma=GAMMA, gae_lambda=0.95
    )
    torch.testing.assert_close(advantages + rows["values"], rows["rewards"])


def test_a_buffer_has_a_place_for_every_transition() -> None:
    buffer = RolloutBuffer.zeros(STEPS, ENVS, (16, 8), 32, torch.device("cpu"))
    assert buffer.num_steps == STEPS
    assert buffer.features.shape == buffer.next_features.shape == (STEPS, ENVS, 16, 8)
    assert buffer.actions.shape == (STEPS, ENVS, 32)
    assert buffer.rewards.shape == buffer.log_probs.shape == buffer.ends.shape == (STEPS, ENVS)
