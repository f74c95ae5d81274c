"""Stable-Baselines3's SAC in the dream, starting from a cloned policy: the off-policy learner.

Its stock algorithm, unchanged. The actor ends in a tanh, the clone does not: so actions are scaled to three times their
range, where the tanh is nearly linear, and clipped by the environment as the clone's are. No penalty anchors the actor
to the clone: only its learning rate is small, and the critics learn alone at first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium.spaces import Box

from agents.policies.io import load_clone
from agents.policies.token_policy import TokenPolicy
from agents.sb3_clone import (
    ActorWarmup,
    DreamWatch,
    SB3Config,
    TokenExtractor,
    check_fits,
    extractor_settings,
    open_dream,
    save_trained,
)
from world_models.devices import choose_device
from world_models.disk_space import check_writable

try:
    from stable_baselines3 import SAC
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
except ImportError as error:
    raise ImportError(f'SB3 SAC needs Stable-Baselines3 ({error}): pip install "rla-gym[agents]"') from error

SPREAD = 3.0
"""Actions reach this far where the environment clips them at 1: 3 tanh(x / 3) is x to within 4 % up to there."""


@dataclass
class SB3SACConfig(SB3Config):
    """Settings of `train_sb3_sac`."""

    out: Path = Path("runs/sb3_sac")
    """Policy folder to write, with Stable-Baselines3's own ``model.zip`` and ``tensorboard/`` in it."""
    env_steps: int = 32_768
    """Chunks in all dreams together."""
    warmup_env_steps: int = 4096
    """First env steps, with the clone's actions and their noise, from which the critics alone learn."""
    gradient_steps: int = 8
    """Gradient steps for each step of all dreams."""
    batch_size: int = 128
    """Env steps of a gradient step."""
    gamma: float = 0.9
    """Discount per chunk."""
    tau: float = 0.01
    """Share of the critics that their targets take on in a gradient step."""
    learning_rate: float = 1e-4
    """Of Adam, for actor and critics."""
    entropy_coefficient: float = 1e-4
    """Weight of the entropy, fixed: of dozens of action dimensions it would soon outweigh a reward of about one."""


class WideActions(VecEnvWrapper):
    """Actions in [-SPREAD, SPREAD], which the environment clips to its own [-1, 1]."""

    def __init__(self, envs: VecEnv) -> None:
        bounds = SPREAD * np.ones(cast(Box, envs.action_space).shape, np.float32)
        super().__init__(envs, action_space=Box(-bounds, bounds))

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()


def make_sb3_sac(policy: TokenPolicy, envs: VecEnv, config: SB3SACConfig) -> SAC:
    """A Stable-Baselines3 SAC whose deterministic action is the policy's own, up to the curvature of the tanh.

    Args:
        policy: cloned policy, (L, C) features to (K*A,) actions.
        envs: a Stable-Baselines3 VecEnv with these spaces.
        config: settings.

    Raises:
        ValueError: the environment's spaces are not those of the policy.
    """
    check_fits(policy, envs)
    model = SAC(
        "MlpPolicy",
        WideActions(envs),
        learning_rate=config.learning_rate,
        buffer_size=config.env_steps,
        learning_starts=0,
        batch_size=config.batch_size,
        tau=config.tau,
        gamma=config.gamma,
        gradient_steps=config.gradient_steps,
        ent_coef=config.entropy_coefficient,
        seed=config.seed,
        device=choose_device(config.device),
        tensorboard_log=str(config.out / "tensorboard"),
        policy_kwargs={
            **extractor_settings(policy),
            "net_arch": {"pi": [], "qf": [256]},
        },
    )
    with torch.no_grad():
        for part in (model.actor, model.critic, model.critic_target):
            cast(TokenExtractor, part.features_extractor).trunk.load_state_dict(policy.trunk.state_dict())
        mean, log_std = cast(torch.nn.Linear, model.actor.mu), cast(torch.nn.Linear, model.actor.log_std)
        mean.weight.copy_(policy.head.weight / SPREAD)
        mean.bias.copy_(policy.head.bias / SPREAD)
        log_std.weight.zero_()
        log_std.bias.copy_(policy.log_std - float(np.log(SPREAD)))
    return model


def token_policy_of(model: SAC, like: TokenPolicy) -> TokenPolicy:
    """The actor inside a Stable-Baselines3 model as a `TokenPolicy`, without the tanh."""
    policy = TokenPolicy(**like.sizes)
    policy.trunk.load_state_dict(cast(TokenExtractor, model.actor.features_extractor).trunk.state_dict())
    with torch.no_grad():
        policy.head.weight.copy_(SPREAD * cast(torch.nn.Linear, model.actor.mu).weight)
        policy.head.bias.copy_(SPREAD * cast(torch.nn.Linear, model.actor.mu).bias)
        policy.log_std.copy_(like.log_std)
    return policy.eval()


def train_sb3_sac(config: SB3SACConfig) -> Path:
    """Fine-tune a cloned policy in the dream with Stable-Baselines3's SAC; returns the policy folder ``config.out``.

    Raises:
        ValueError: the policy is not a cloned one, or does not fit the world.
        FileNotFoundError: no such policy or world.
    """
    if config.env_steps < config.num_envs:
        raise ValueError(f"env_steps={config.env_steps} must be at least one for each of the {config.num_envs} dreams")
    check_writable(config.out)
    clone = load_clone(config.policy)
    envs = open_dream(config, clone)
    began = time.perf_counter()
    try:
        model = make_sb3_sac(clone, envs, config)
        callbacks = [ActorWarmup(model.actor.parameters(), config.warmup_env_steps), DreamWatch(clone, every=8)]
        model.learn(config.env_steps, callback=callbacks, progress_bar=config.progress)
    finally:
        envs.close()
    return save_trained(config, "sb3_sac", model, token_policy_of(model, clone), clone, time.perf_counter() - began)
