"""Planning in the dream: what would become of many variations of a policy's plan, and the best of them is played.

A plan is a deviation from what the policy would do, held over a chunk: a random walk's worth of independent noise on
every control step cancels itself out, and leaves dozens of dimensions to search. Every candidate is dreamed to the
end of the horizon, with the policy going on where the plan ends, so that the score knows what a first chunk is
good for. CEM (the cross-entropy method) refits a Gaussian to the best candidates, MPPI (arXiv 1707.02342) weighs all,
here without a cost of control or a warm start, for every plan begins from the policy. A plan that is worth no more than
the policy's own is not played.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from agents.policy import Policy, TokenPolicy, load_policy
from rewards import SuccessDetector, VideoAlignedReward, make_reward
from rla_gym.arguments import one_of
from world_models.world_model import DYNAMICS, World, load_world

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
    """Plans dreamed side by side in each iteration."""
    iterations: int = 3
    """Rounds of candidates, each about the plan that the one before has found."""
    elites: int = 6
    """Candidates that the next iteration's Gaussian is fitted to (CEM)."""
    temperature: float = 0.2
    """Return by which a candidate must be better to weigh e times as much (MPPI)."""
    planned: int = 2
    """Chunks that are varied."""
    horizon: int = 3
    """Chunks that are dreamed."""
    std: float = 0.2
    """Of the first iteration's deviations, for actions in [-1, 1]."""
    reward: Reward = "success_probability"
    """What a plan is scored by, with the success bonus: a reward that asks for no clock."""
    success_bonus: float = 1.0
    """Added when the dream sees success."""
    gamma: float = 0.9
    """Discount per chunk."""
    dynamics: Literal["flow", "regression"] = "flow"
    """Which dynamics of the policy's world dream."""
    seed: int = 0
    """Of candidates and dreams. The same state gets the same plan, whatever else is in the batch."""


class Planner(Policy):
    """Plans anew for every state. Its folder holds the policy it varies; the world is opened when it first acts.

    Args:
        num_tokens, channels, chunk_length, action_dim, width, queries: of the policy that is varied.
        candidates, iterations, elites, planned, horizon, seed: see :class:`PlannerConfig`; the rest of that is in
            ``facts["planning"]``.
    """

    kind = "planner"
    SIZES = (*TokenPolicy.SIZES, "candidates", "iterations", "elites", "planned", "horizon", "seed")

    def __init__(
        self,
        num_tokens: int,
        channels: int,
        chunk_length: int,
        action_dim: int,
        width: int,
        queries: int,
        candidates: int,
        iterations: int,
        elites: int,
        planned: int,
        horizon: int,
        seed: int,
    ) -> None:
        super().__init__(num_tokens, channels, chunk_length, action_dim)
        self.width, self.queries = width, queries
        self.candidates, self.iterations, self.elites = candidates, iterations, elites
        self.planned, self.horizon, self.seed = planned, horizon, seed
        self.policy = TokenPolicy(num_tokens, channels, chunk_length, action_dim, width, queries)
        self._opened: tuple[World, SuccessDetector, VideoAlignedReward] | None = None

    def forward(self, features: Tensor, step: Tensor | None = None) -> Tensor:
        batch, planning = len(features), self.facts["planning"]
        generator = torch.Generator().manual_seed(2 * self.seed)
        shape = (self.iterations, self.candidates, self.planned, 1, self.action_dim)
        # The same candidates for every state: a plan must not depend on who else is asked for one.
        noise = torch.randn(shape, generator=generator).to(features.device)
        mean = features.new_zeros(batch, *shape[2:])
        std = torch.full_like(mean, planning["std"])
        for fresh in noise:
            deviation = mean[:, None] + std[:, None] * fresh
            deviation[:, 0] = mean  # what is planned so far stays in the race
            score = self._score(features, deviation)
            if planning["method"] == "cem":
                best = score.topk(self.elites, dim=1).indices
                elites = deviation[torch.arange(batch, device=best.device)[:, None], best]
                mean, std = elites.mean(dim=1), elites.std(dim=1)
            else:
                weight = (score / planning["temperature"]).softmax(dim=1)
                mean = (weight[..., None, None, None] * deviation).sum(dim=1)
        plans = torch.stack([torch.zeros_like(mean), mean], dim=1)
        best = plans[torch.arange(batch, device=mean.device), self._score(features, plans).argmax(dim=1)]
        chunk = self.policy(features).unflatten(1, (self.chunk_length, self.action_dim))
        return (chunk + best[:, 0]).flatten(1)

    def _score(self, features: Tensor, deviation: Tensor) -> Tensor:
        """Discounted returns (B, N) of plans (B, N, planned, 1, A) from states (B, L, C)."""
        world, detector, reward = self._open(features.device)
        planning, model = self.facts["planning"], world.model
        batch, count = deviation.shape[:2]
        state, plan = features.repeat_interleave(count, dim=0), deviation.flatten(0, 1)
        nothing = torch.zeros(len(state), dtype=torch.int64, device=state.device)  # the rewards ask for no clock
        alive, total, error = torch.ones_like(nothing, dtype=torch.bool), state.new_zeros(len(state)), None
        generator = torch.Generator().manual_seed(2 * self.seed + 1)
        for chunk in range(self.horizon):
            action = self.policy(state).unflatten(1, (self.chunk_length, self.action_dim))
            if chunk < self.planned:
                action = action + plan[:, chunk]
            noise = None
            if model.noise_shape is not None:
                # One noise for all candidates: they differ by what they do and not by luck.
                noise = torch.randn(1, *model.noise_shape, generator=generator).to(state.device)
                noise = noise.expand(len(state), -1, -1)
            state, error, _ = model.predict(state, action.clamp(-1.0, 1.0), noise, None, error)
            success = detector.dreamed_success(state, planning["dynamics"])
            paid = reward(state, nothing, nothing) + planning["success_bonus"] * success
            total = total + planning["gamma"] ** chunk * alive * paid
            alive = alive & ~success
        return total.view(batch, count)

    def _open(self, device: torch.device) -> tuple[World, SuccessDetector, VideoAlignedReward]:
        if self._opened is None or self._opened[0].demonstrations.features.device != device:
            planning = self.facts["planning"]
            world = load_world(self.facts["world"], dynamics=planning["dynamics"], device=device)
            detector = SuccessDetector.load(world.folder, device)
            self._opened = world, detector, make_reward(planning["reward"], world.demonstrations, detector)
        return self._opened


def make_planner(config: PlannerConfig) -> Path:
    """Write a planner about ``config.policy`` into a policy folder; returns the folder.

    Raises:
        ValueError: a setting is out of range, or the policy is none over tokens.
        FileNotFoundError: no such policy.
    """
    _check(config)
    policy = load_policy(config.policy)
    if not isinstance(policy, TokenPolicy):
        raise ValueError(f"{config.policy} is a {policy.kind!r} policy; vary one by `rla-gym agent bc` or `agent ppo`")
    sizes = {name: getattr(policy, name) for name in TokenPolicy.SIZES}
    planner = Planner(
        **sizes,
        candidates=config.candidates,
        iterations=config.iterations,
        elites=config.elites,
        planned=config.planned,
        horizon=config.horizon,
        seed=config.seed,
    )
    planner.policy.load_state_dict(policy.state_dict())
    names = ("method", "temperature", "std", "reward", "success_bonus", "gamma", "dynamics")
    planner.facts = {
        "method": config.method,
        "world": policy.facts.get("world", "lift"),
        "task": policy.facts.get("task", "Lift"),
        "planning": {name: getattr(config, name) for name in names},
        "training": {"policy": policy.facts.get("training")},
    }
    return planner.save(config.out)


def _check(config: PlannerConfig) -> None:
    one_of(get_args(Method), method=config.method)
    one_of(get_args(Reward), reward=config.reward)
    one_of(tuple(DYNAMICS), dynamics=config.dynamics)
    for name in ("candidates", "iterations", "planned", "horizon", "std", "temperature"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")
    if not 0 <= config.gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {config.gamma}")
    if config.method == "cem" and not 2 <= config.elites <= config.candidates:
        raise ValueError(f"elites must be from 2 to candidates={config.candidates}, got {config.elites}")
    if config.planned > config.horizon:
        raise ValueError(f"planned={config.planned} chunks are more than horizon={config.horizon}")
