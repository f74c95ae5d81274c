"""Planning in the dream: many variations of a policy's actions are imagined, and the best of them is played.

A plan is a deviation from the policy's actions, constant over a chunk: independent noise on every control step averages
out, and leaves dozens of dimensions to search. Every candidate is imagined to the end of the horizon. Where the plan
ends the policy goes on, so that the score includes what follows. CEM (the cross-entropy method) refits a Gaussian to
the best candidates, MPPI (arXiv 1707.02342) weighs all of them, here without a cost of control and without a warm
start, for every plan begins from the policy. A plan is played only if its score is higher than that of the policy's
own actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from agents.policies.base import ACTION_SCALE, check_sizes
from agents.policies.io import load_policy
from agents.policies.planner import Planner
from agents.policies.token_policy import TokenPolicy
from agents.settings import check_positive, check_unit_interval
from rla_gym.arguments import one_of
from world_models.config import DynamicsName
from world_models.disk_space import check_writable
from world_models.io import DYNAMICS, default_dynamics

Method = Literal["cem", "mppi"]
Reward = Literal["progress", "success_probability"]


@dataclass
class PlannerConfig:
    """Settings of `make_planner`."""

    policy: Path
    """Cloned or dream-trained policy whose plans are varied."""
    out: Path = Path("runs/planner")
    """Policy folder to write."""
    method: Method = "cem"
    """How candidates are turned into a plan."""
    candidates: int = 32
    """Plans imagined side by side in each iteration."""
    iterations: int = 3
    """Rounds of candidates, each around the best plan of the round before."""
    elites: int = 6
    """Candidates that the next iteration's Gaussian is fitted to (CEM)."""
    temperature: float = 0.2
    """Return by which a candidate must be better to weigh e times as much (MPPI)."""
    planned: int = 2
    """Chunks that are varied."""
    horizon: int = 3
    """Chunks that are imagined."""
    std: float = 0.2
    """Of the first iteration's deviations, for actions in [-1, 1]."""
    reward: Reward = "success_probability"
    """What a plan is scored by, with the success bonus: a reward that does not depend on the time in the episode."""
    success_bonus: float = 1.0
    """Added where the dream counts a success."""
    gamma: float = 0.9
    """Discount per chunk."""
    dynamics: DynamicsName | None = None
    """Which dynamics of the policy's world the dream has; None for the world's default."""
    seed: int = 0
    """Of candidates and dreams. The same state gets the same plan, whatever else is in the batch."""


def make_planner(config: PlannerConfig) -> Path:
    """Write a planner around ``config.policy`` into a policy folder; returns the folder.

    Raises:
        ValueError: a setting is out of range, or the policy is itself a planner or blind.
        FileNotFoundError: no such policy.
    """
    _check(config)
    check_writable(config.out)
    policy = load_policy(config.policy)
    if not isinstance(policy, TokenPolicy):
        raise ValueError(f"{config.policy} is a {policy.kind!r} policy; vary one by `rla-gym agent bc` or `agent ppo`")
    searched = ("candidates", "iterations", "elites", "planned", "horizon", "seed")
    sizes = {name: getattr(config, name) for name in searched}
    check_sizes(sizes)
    planner = Planner(**policy.sizes, **sizes)
    planner.policy.load_state_dict(policy.state_dict())
    names = ("method", "temperature", "std", "reward", "success_bonus", "gamma")
    planning = {name: getattr(config, name) for name in names}
    planner.facts = {
        "method": config.method,
        "world": policy.facts.get("world", "lift"),
        "task": policy.task,
        **({ACTION_SCALE: policy.facts[ACTION_SCALE]} if ACTION_SCALE in policy.facts else {}),
        "planning": {**planning, "dynamics": default_dynamics(policy.world, config.dynamics)},
        "training": {"policy": policy.facts.get("training")},
    }
    planner.check_facts()
    return planner.save(config.out)


def _check(config: PlannerConfig) -> None:
    one_of(get_args(Method), method=config.method)
    one_of(get_args(Reward), reward=config.reward)
    one_of((*DYNAMICS, None), dynamics=config.dynamics)
    check_positive(config, "candidates", "iterations", "planned", "horizon", "std", "temperature")
    check_unit_interval(config, "gamma")
