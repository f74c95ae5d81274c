"""What Stable-Baselines3's algorithms share here: each starts as a clone, in its dream, and ends as a policy folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from agents.bc import world_reference
from agents.policy import TokenPolicy, TokenTrunk
from rewards import RewardName
from rla_gym.tasks import dream_id
from rla_gym.vector_env import RLAWMVectorEnv
from world_models.processes import choose_device

try:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecMonitor

    from rla_gym.sb3 import DreamVecEnv
except ImportError as error:
    raise ImportError(f'this needs Stable-Baselines3 ({error}): pip install "rla-gym[agents]"') from error


@dataclass
class SB3Config:
    """Settings that the algorithms share."""

    policy: Path = Path("runs/bc")
    """Cloned policy folder to start from."""
    out: Path = Path("runs/sb3")
    """Policy folder to write, with Stable-Baselines3's own ``model.zip`` and ``tensorboard/`` in it."""
    world: str | None = None
    """Bundled world's name or a world folder; None takes the cloned policy's."""
    dynamics: Literal["flow", "regression"] = "flow"
    """Which dynamics of the world dream."""
    seed: int = 0
    """Of dreams, exploration and minibatches."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``, for dream and learner."""
    reward: RewardName = "corresponding"
    """Video-aligned reward; ``sparse`` pays the bonus alone."""
    success_bonus: float = 1.0
    """Added when the dream sees success."""
    starts: Literal["mixed", "first", "everywhere"] = "everywhere"
    """Episodes start at demonstrations' first frames, half of them at a random frame, or else at any first state."""
    max_chunks: int | None = None
    """Chunks per episode; None takes the task's."""
    num_envs: int = 64
    """Dreams side by side."""
    progress: bool = True
    """Show a progress bar."""


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
        dream_id(_task(clone)),
        num_envs=config.num_envs,
        world=_world(config, clone),
        dynamics=config.dynamics,
        device=str(choose_device(config.device)),
        reward=config.reward,
        success_bonus=config.success_bonus,
        starts=config.starts,
        chunk_length=clone.chunk_length,
        max_chunks=config.max_chunks,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    return VecMonitor(DreamVecEnv(cast(RLAWMVectorEnv, dream)), info_keywords=("is_success",))


def check_fits(policy: TokenPolicy, envs: Any) -> None:
    """Raise ValueError unless a Stable-Baselines3 VecEnv has the spaces of a policy."""
    spaces = (envs.observation_space.shape, envs.action_space.shape)
    if spaces != ((policy.num_tokens, policy.channels), (policy.action_size,)):
        raise ValueError(
            f"the policy maps {(policy.num_tokens, policy.channels)} to {(policy.action_size,)}, the environment has "
            f"{spaces[0]} and {spaces[1]}; use the world and chunk length of the policy"
        )


class DreamWatch(BaseCallback):
    """Logs what a dream's own success rate does not say: its uncertainty, and how far the policy is from the clone.

    TensorBoard has them as ``charts/uncertainty`` (of the steps since the last record) and ``charts/distance_to_bc``
    (mean absolute difference of the deterministic actions in the present states), beside Stable-Baselines3's
    ``rollout/success_rate``. A success rate that rises far from the clone is to be judged in the simulator.

    Args:
        clone: the policy that training starts from.
        every: roll-outs between two measurements of the distance.
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
            seen = self.locals["new_obs"]
            actions, _ = self.model.predict(seen, deterministic=True)
            cloned = self._clone.act(torch.from_numpy(seen)).numpy()
            self.logger.record("charts/distance_to_bc", float(np.abs(np.clip(actions, -1, 1) - cloned).mean()))


def save_trained(
    config: SB3Config, method: str, model: BaseAlgorithm, policy: TokenPolicy, clone: TokenPolicy, seconds: float
) -> Path:
    """Write ``model.zip``, then its actor as a policy folder with the facts of its training; returns the folder."""
    config.out.mkdir(parents=True, exist_ok=True)
    temporary = config.out / ".model.tmp.zip"
    model.save(temporary)
    temporary.replace(config.out / "model.zip")
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    policy.facts = {
        "method": method,
        "world": world_reference(_world(config, clone)),
        "task": _task(clone),
        "training": {
            **{name: value for name, value in settings.items() if name not in ("out", "progress", "world")},
            "clone": clone.facts.get("training"),
            "train_in": "dream",
            "trained_seconds": round(seconds, 3),
            "decisions": model.num_timesteps,
        },
    }
    return policy.save(config.out)


def _task(clone: TokenPolicy) -> str:
    return str(clone.facts.get("task", "Lift"))


def _world(config: SB3Config, clone: TokenPolicy) -> str:
    return config.world or str(clone.facts.get("world", "lift"))
