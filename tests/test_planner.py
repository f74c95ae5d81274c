"""Planners have a higher return in the dream than the policy that they vary, and the same plan in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agents.planner import Method, PlannerConfig, make_planner
from agents.policies.base import Policy
from agents.policies.io import load_policy
from agents.policies.planner import Planner
from agents.policies.token_policy import TokenPolicy
from rla_gym import RLAWMVectorEnv
from tests.learnable_world import HIDDEN_ACTION, save_learnable_world


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that stands still in the learnable world, where moving in one hidden way is rewarded."""
    folder = tmp_path_factory.mktemp("planner")
    world = save_learnable_world(folder / "world")
    torch.manual_seed(0)
    still = TokenPolicy(16, 8, chunk_length=1, action_dim=4, width=32)
    torch.nn.init.zeros_(still.head.weight)
    torch.nn.init.zeros_(still.head.bias)
    still.facts = {"method": "bc", "world": str(world), "task": "Lift"}
    return still.save(folder / "policy")


def planner(policy: Path, out: Path, method: Method = "cem") -> Policy:
    config = PlannerConfig(policy, out, method, candidates=128, iterations=4, elites=12, temperature=0.005,
                           reward="progress", dynamics="regression", std=0.5)  # fmt: skip
    return load_policy(make_planner(config))


def imagined_return(policy: Policy) -> float:
    env = RLAWMVectorEnv(4, task=None, world=str(policy.facts["world"]), dynamics="regression", reward="progress",
                         initial_states="first", output="torch")  # fmt: skip
    obs, _ = env.reset(seed=0, options={"demo": torch.arange(4), "t": torch.zeros(4, dtype=torch.int64)})
    total = 0.0
    for _ in range(6):
        obs, reward, *_ = env.step(policy.act(obs))
        total += float(reward.mean())
    env.close()
    return total


@pytest.mark.parametrize("method", ["cem", "mppi"])
def test_a_plan_is_worth_more_than_the_policy_it_varies(policy: Path, tmp_path: Path, method: Method) -> None:
    planned = planner(policy, tmp_path, method)
    assert isinstance(planned, Planner)
    assert planned.method == method
    still = hidden = load_policy(policy)
    nothing = imagined_return(still)
    assert isinstance(hidden, TokenPolicy)
    with torch.no_grad():
        hidden.head.bias.copy_(torch.tensor(HIDDEN_ACTION))
    best = imagined_return(hidden)
    assert best > nothing
    assert imagined_return(planned) > nothing + 0.8 * (best - nothing)


def test_a_plan_depends_on_the_state_alone(policy: Path, tmp_path: Path) -> None:
    planned = planner(policy, tmp_path)
    states = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(1))
    together = planned.act(states, torch.tensor([0, 3, 1]))
    assert together.abs().max() <= 1
    torch.testing.assert_close(planned.act(states[1:2]), together[1:2])
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"elites": 40}, "elites must be from 2 to candidates=32, got 40"),
        ({"planned": 4, "horizon": 3}, "planned=4 chunks are more than horizon=3"),
        ({"std": 0.0}, "std must be positive"),
        ({"method": "shooting"}, "'cem', 'mppi'"),
    ],
)
def test_settings_are_checked(policy: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_planner(PlannerConfig(policy, tmp_path, **settings))


def test_a_planner_is_not_planned_around(policy: Path, tmp_path: Path) -> None:
    planner(policy, tmp_path / "planner")
    with pytest.raises(ValueError, match="'planner' policy"):
        make_planner(PlannerConfig(tmp_path / "planner", tmp_path / "again"))
