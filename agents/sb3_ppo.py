"""Stable-Baselines3's PPO in the dream, starting from the same cloned policy, weight for weight.

For users of Stable-Baselines3: its stock algorithm, unchanged. It has no penalty on the KL to the clone, so a small
learning rate and target KL alone bound how far it goes; `agents.ppo` has the penalty.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

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
    from stable_baselines3 import PPO
    from stable_baselines3.common.policies import ActorCriticPolicy
except ImportError as error:
    raise ImportError(f'SB3 PPO needs Stable-Baselines3 ({error}): pip install "rla-gym[agents]"') from error


@dataclass
class SB3PPOConfig(SB3Config):
    """Settings of `train_sb3_ppo`."""

    out: Path = Path("runs/sb3_ppo")
    """Policy folder to write, with Stable-Baselines3's own ``model.zip`` and ``tensorboard/`` in it."""
    num_steps: int = 4
    """Chunks per dream and iteration."""
    iterations: int = 300
    """Iterations in all, warm-up included."""
    warmup_iterations: int = 10
    """First iterations, in which only the value function learns."""
    epochs: int = 4
    """Passes over an iteration's samples."""
    batch_size: int = 64
    """Samples of a minibatch."""
    gamma: float = 0.9
    """Discount per chunk."""
    gae_lambda: float = 0.95
    """Of generalised advantage estimation."""
    clip: float = 0.2
    """PPO's clipping of the probability ratio."""
    target_kl: float = 0.03
    """Updates of an iteration stop near this KL."""
    learning_rate: float = 2e-5
    """Of Adam, for policy and value function."""


def make_sb3_ppo(policy: TokenPolicy, envs: Any, config: SB3PPOConfig) -> PPO:
    """A Stable-Baselines3 PPO whose deterministic action is the policy's own.

    The actor's trunk, head and log std are copies of the policy's; the critic's trunk starts as a copy too.

    Args:
        policy: cloned policy, (L, C) features to (K*A,) actions.
        envs: a Stable-Baselines3 VecEnv with these spaces.
        config: PPO settings.

    Raises:
        ValueError: the environment's spaces are not those of the policy.
    """
    check_fits(policy, envs)
    model = PPO(
        ActorCriticPolicy,
        envs,
        learning_rate=config.learning_rate,
        n_steps=config.num_steps,
        batch_size=config.batch_size,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip,
        target_kl=config.target_kl,
        seed=config.seed,
        device=choose_device(config.device),
        tensorboard_log=str(config.out / "tensorboard"),
        policy_kwargs={
            **extractor_settings(policy),
            "net_arch": [],
            "ortho_init": False,
        },
    )
    with torch.no_grad():
        for extractor in (model.policy.pi_features_extractor, model.policy.vf_features_extractor):
            cast(TokenExtractor, extractor).trunk.load_state_dict(policy.trunk.state_dict())
        model.policy.action_net.load_state_dict(policy.head.state_dict())
        model.policy.log_std.copy_(policy.log_std)
        torch.nn.init.zeros_(model.policy.value_net.weight)
        torch.nn.init.zeros_(model.policy.value_net.bias)
    return model


def token_policy_of(model: PPO, like: TokenPolicy) -> TokenPolicy:
    """The actor inside a Stable-Baselines3 model as a `TokenPolicy` with the sizes and facts of ``like``."""
    policy = TokenPolicy(**like.sizes)
    policy.trunk.load_state_dict(cast(TokenExtractor, model.policy.pi_features_extractor).trunk.state_dict())
    policy.head.load_state_dict(model.policy.action_net.state_dict())
    with torch.no_grad():
        policy.log_std.copy_(model.policy.log_std)
    policy.facts = dict(like.facts)
    return policy.eval()


def train_sb3_ppo(config: SB3PPOConfig) -> Path:
    """Fine-tune a cloned policy in the dream with Stable-Baselines3; returns the policy folder ``config.out``.

    Raises:
        ValueError: the policy is not a cloned one, or does not fit the world.
        FileNotFoundError: no such policy or world.
    """
    samples = config.num_envs * config.num_steps
    if config.batch_size > samples or samples % config.batch_size:
        raise ValueError(f"batch_size={config.batch_size} must divide the {samples} samples of an iteration")
    check_writable(config.out)
    clone = load_clone(config.policy)
    envs = open_dream(config, clone)
    began = time.perf_counter()
    try:
        model = make_sb3_ppo(clone, envs, config)
        callbacks = [ActorWarmup(_actor(model), config.warmup_iterations * samples), DreamWatch(clone)]
        model.learn(config.iterations * samples, callback=callbacks, progress_bar=config.progress)
    finally:
        envs.close()
    return save_trained(config, "sb3_ppo", model, token_policy_of(model, clone), clone, time.perf_counter() - began)


def _actor(model: PPO) -> list[torch.nn.Parameter]:
    policy = cast(ActorCriticPolicy, model.policy)
    return [*policy.pi_features_extractor.parameters(), *policy.action_net.parameters(), policy.log_std]
