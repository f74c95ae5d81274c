"""A policy that plans for every state, in the world model, around another policy's actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agents.policies.base import Policy
from agents.policies.token_policy import TokenPolicy
from rewards import SuccessDetector, VideoAlignedReward, make_reward
from world_models.config import DynamicsName
from world_models.dataclass_reader import check_ranges, read_dataclass
from world_models.io import World, load_world
from world_models.open_loop import rollout_noise

MOST_IMAGINED = 2**16
"""Most chunks, of all candidates together, that are imagined for one state."""


@dataclass(frozen=True)
class Planning:
    """Settings of a planner that are no sizes; see :class:`agents.planner.PlannerConfig`."""

    method: Literal["cem", "mppi"]
    temperature: float
    std: float
    reward: Literal["progress", "success_probability"]
    success_bonus: float
    gamma: float
    dynamics: DynamicsName

    def __post_init__(self) -> None:
        check_ranges(
            self, temperature=(1e-9, 1e9), std=(1e-9, 1e3), success_bonus=(-1e6, 1e6), gamma=(0.0, 1.0)
        )  # fmt: skip


class Planner(Policy):
    """Plans for every state. Its folder holds the policy that it varies; the world is opened when it first acts.

    Args:
        num_tokens, channels, chunk_length, action_dim, width, queries: of the policy that is varied.
        candidates, iterations, elites, planned, horizon, seed: see :class:`agents.planner.PlannerConfig`, whose other
            settings are in ``facts["planning"]``.
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

    def check_facts(self) -> None:
        super().check_facts()
        fix = "make one by `rla-gym agent plan`"
        planning = read_dataclass(Planning, self.facts.get("planning"), source="planning", fix=fix)
        if planning.method == "cem" and not 2 <= self.elites <= self.candidates:
            raise ValueError(f"elites must be from 2 to candidates={self.candidates}, got {self.elites}")
        if self.planned > self.horizon:
            raise ValueError(f"planned={self.planned} chunks are more than horizon={self.horizon}")
        imagined = self.candidates * self.iterations * self.horizon
        if imagined > MOST_IMAGINED:
            raise ValueError(
                f"candidates={self.candidates}, iterations={self.iterations} and horizon={self.horizon} make "
                f"{imagined} chunks a state, more than {MOST_IMAGINED}"
            )

    def forward(self, features: Tensor, step: Tensor | None = None) -> Tensor:
        batch, planning = len(features), self.facts["planning"]
        generator = torch.Generator().manual_seed(2 * self.seed)
        shape = (self.iterations, self.candidates, self.planned, 1, self.action_dim)
        # The same candidates for every state: a plan must not depend on the rest of the batch.
        noise = torch.randn(shape, generator=generator, dtype=torch.float32).to(features.device)
        mean = features.new_zeros(batch, *shape[2:])
        std = torch.full_like(mean, planning["std"])
        for fresh in noise:
            deviation = mean[:, None] + std[:, None] * fresh
            deviation[:, 0] = mean  # the plan so far stays a candidate
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
        unread = torch.zeros(len(state), dtype=torch.int64, device=state.device)  # time, which these rewards ignore
        alive, total, error = torch.ones_like(unread, dtype=torch.bool), state.new_zeros(len(state)), None
        noise = rollout_noise(model, 1, self.horizon, torch.Generator().manual_seed(2 * self.seed + 1))
        for chunk in range(self.horizon):
            action = self.policy(state).unflatten(1, (self.chunk_length, self.action_dim))
            if chunk < self.planned:
                action = action + plan[:, chunk]
            # The same noise for all candidates: their scores differ by their actions alone.
            shared = None if noise is None else noise[:, chunk].to(state.device).expand(len(state), -1, -1)
            state, error, _ = model.predict(state, action.clamp(-1.0, 1.0), shared, None, error)
            success = detector.imagined_success(state, planning["dynamics"])
            earned = reward(state, unread, unread) + planning["success_bonus"] * success
            total = total + planning["gamma"] ** chunk * alive * earned
            alive = alive & ~success
        return total.view(batch, count)

    def _open(self, device: torch.device) -> tuple[World, SuccessDetector, VideoAlignedReward]:
        if self._opened is None or self._opened[0].demonstrations.features.device != device:
            planning = self.facts["planning"]
            world = load_world(self.world, dynamics=planning["dynamics"], device=device)
            detector = SuccessDetector.load(world.folder, device)
            self._opened = world, detector, make_reward(planning["reward"], world.demonstrations, detector)
        return self._opened
