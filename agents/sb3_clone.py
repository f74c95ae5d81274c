"""What Stable-Baselines3's algorithms share here: each starts as a clone, in its dream, and ends as a policy folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from agents.dream_training import DreamTrainingConfig, env_arguments, training_facts
from agents.policies.token_policy import TokenPolicy, TokenTrunk
from rla_gym.tasks import dream_id
from rla_gym.vector_env import RLAWMVectorEnv
from world_models.devices import choose_device

try:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecMonitor

    from rla_gym.clients.sb3 import DreamVecEnv
except ImportError as error:
    raise ImportError(f'this needs Stable-Baselines3 ({error}): pip install "rla-gym[agents]"') from error


@dataclass
class SB3Config(DreamTrainingConfig):
    """Settings that Stable-Baselines3's algorithms share."""

    policy: Path = Path("runs/bc")
    """Cloned policy folder to start from."""
    out: Path = Path("runs/sb3")
    """Policy folder to write, with Stable-Baselines3's own ``model.zip`` and ``tensorboard/`` in it."""


class TokenExtractor(BaseFeaturesExtractor):
    """`TokenTrunk` as a Stable-Baselines3 features extractor: (B, L, C) observations -> (B, 2 * width)."""

    def __init__(self, observation_space: gym.spaces.Box, width: int = 128, queries: int = 8) -> None:
        super().__init__(observation_space, features_dim=2 * width)
        num_tokens, channels = observation_space.shape
        self.trunk = TokenTrunk(num_tokens, channels, width, queries, hidden=2 * width)

    def forward(self, observations: Tensor) -> Tensor:
        return self.trunk(observations)


def extractor_settings(policy: TokenPolicy) -> dict[str, Any]:
    """``policy_kwargs`` with which actor and critics each have a trunk of the policy's shape."""
    return {
        "features_extractor_class": TokenExtractor,
        "features_extractor_kwargs": {"width": policy.width, "queries": policy.queries},
        "share_features_extractor": False,
    }


def open_dream(config: SB3Config, clone: TokenPolicy) -> VecMonitor:
    """The dream of a clone's world and task, for Stable-Baselines3."""
    dream = gym.make_vec(
        dream_id(clone.task),
        num_envs=config.num_envs,
        dynamics=config.dynamics,
        device=str(choose_device(config.device)),
        initial_states=config.initial_states,
        **env_arguments(config, clone),
    )
    return VecMonitor(DreamVecEnv(cast(RLAWMVectorEnv, dream)), info_keywords=("is_success",))


def check_fits(policy: TokenPolicy, envs: Any) -> None:
    """ValueError unless a Stable-Baselines3 VecEnv has the spaces of a policy."""
    shapes = envs.observation_space.shape, envs.action_space.shape
    policy.check_fits(*shapes, "use the world and chunk length of the policy")


class ActorWarmup(BaseCallback):
    """Leaves the actor as it is at first, until the critics have learned: untrained ones would ruin the clone.

    Args:
        actor: parameters of the actor.
        env_steps: in all dreams together, after which it learns.
    """

    def __init__(self, actor: Iterable[nn.Parameter], env_steps: int) -> None:
        super().__init__()
        self._actor, self._env_steps = list(actor), env_steps

    def _on_rollout_start(self) -> None:
        for parameter in self._actor:
            parameter.requires_grad_(self.num_timesteps >= self._env_steps)

    def _on_step(self) -> bool:
        return True


class DreamWatch(BaseCallback):
    """Logs what Stable-Baselines3 does not: the dream's uncertainty, and the distance of the policy from the clone.

    TensorBoard has them as ``charts/uncertainty`` (of the steps since the last record) and ``charts/distance_to_bc``
    (mean absolute difference of the deterministic actions in the present states), beside Stable-Baselines3's
    ``rollout/success_rate``. Far from the clone, test a success rate that rises in the simulator.

    Args:
        clone: the policy that training starts from.
        every: rollouts between two measurements of the distance.
    """

    def __init__(self, clone: TokenPolicy, every: int = 1) -> None:
        super().__init__()
        self._clone, self._every, self._rollouts = clone, every, 0

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            self.logger.record_mean("charts/uncertainty", info["uncertainty"])
        return True

    def _on_rollout_end(self) -> None:
        self._rollouts += 1
        if self._rollouts % self._every == 0:
            features = self.locals["new_obs"]
            actions, _ = self.model.predict(features, deterministic=True)
            cloned = self._clone.act(torch.from_numpy(features)).numpy()
            self.logger.record("charts/distance_to_bc", float(np.abs(np.clip(actions, -1, 1) - cloned).mean()))


def save_trained(
    config: SB3Config, method: str, model: BaseAlgorithm, policy: TokenPolicy, clone: TokenPolicy, seconds: float
) -> Path:
    """Write ``model.zip``, then its actor as a policy folder with the facts of its training; returns the folder."""
    config.out.mkdir(parents=True, exist_ok=True)
    temporary = config.out / ".model.tmp.zip"
    model.save(temporary)
    temporary.replace(config.out / "model.zip")
    policy.facts = training_facts(
        config, method, clone, seconds=seconds, env_steps=model.num_timesteps, train_in="dream"
    )
    return policy.save(config.out)
