"""skrl's PPO in the dream.

After `pip install "rla-gym[skrl]"`: `python examples/skrl_ppo.py`; see --help.
skrl itself writes TensorBoard files and checkpoints to runs/.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import skrl
import torch
import tyro
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from skrl.resources.preprocessors.torch import RunningStandardScaler
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import nn

import rla_gym  # noqa: F401  registers the environments
from benchmarks.learning import evaluate, report
from world_models.config import DynamicsName


@dataclass
class Args:
    """Train skrl's PPO in the dream, once per seed."""

    env_id: str = "RLAWM-Lift-v0"
    """Environment."""
    world: str | None = None
    """Bundled world's name or a world folder; None for the bundled one of the environment's task."""
    dynamics: DynamicsName = "regression"
    """Which dynamics of the world the dream has; regression is the cheap one."""
    chunk_length: int | None = 4
    """Control steps of an env step; None for the world's own. Short ones are easier to learn from scratch."""
    num_envs: int = 32
    """Dreams side by side."""
    total_timesteps: int = 16384
    """Env steps in all dreams together, each a chunk of actions."""
    learning_rate: float = 1e-3
    """Of Adam."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    out: Path | None = None
    """JSON file to keep the result rows in."""


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of 64."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


class Policy(GaussianMixin, Model):
    """Gaussian over action chunks."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, device: torch.device) -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device=device)
        GaussianMixin.__init__(self)
        self.net = mlp(self.num_observations, self.num_actions)
        nn.init.orthogonal_(self.net[-1].weight, gain=0.01)  # initial actions near the middle
        nn.init.zeros_(self.net[-1].bias)
        self.log_std = nn.Parameter(torch.full((self.num_actions,), -0.7))  # actions are clipped at 1

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {"log_std": self.log_std}


class Value(DeterministicMixin, Model):
    """State value."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, device: torch.device) -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device=device)
        DeterministicMixin.__init__(self)
        self.net = mlp(self.num_observations, 1)

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


def train(args: Args, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N,) of the evaluation episodes before and after training."""
    set_seed(seed)
    world = {"world": args.world, "dynamics": args.dynamics, "chunk_length": args.chunk_length, "obs": "pooled"}
    # Next-step autoreset: the observation of a truncated episode is its own last one, and skrl bootstraps from it.
    env = wrap_env(gym.make_vec(args.env_id, num_envs=args.num_envs, **world), verbose=False)
    spaces = (env.observation_space, env.action_space, env.device)
    models = {"policy": Policy(*spaces), "value": Value(*spaces)}
    agent = PPO(
        models=models,
        memory=RandomMemory(memory_size=16, num_envs=args.num_envs, device=env.device),
        cfg=PPO_CFG(
            rollouts=16,
            learning_epochs=8,
            mini_batches=4,
            discount_factor=0.9,
            learning_rate=args.learning_rate,
            value_loss_scale=0.5,
            time_limit_bootstrap=True,  # else advantages would run on into the next episode
            value_preprocessor=RunningStandardScaler,
            value_preprocessor_kwargs={"size": 1, "device": env.device},
        ),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device=env.device,
    )
    trainer = SequentialTrainer(
        env=env,
        agents=agent,
        cfg={
            "timesteps": args.total_timesteps // args.num_envs,
            "headless": True,
            "disable_progressbar": True,
            "close_environment_at_exit": False,
        },
    )

    @torch.no_grad()
    def policy(observations: np.ndarray) -> np.ndarray:
        inputs = torch.as_tensor(observations, device=env.device)
        return models["policy"].compute({"observations": inputs}, "policy")[0].cpu().numpy()

    before = evaluate(policy, args.env_id, **world)
    trainer.train()
    after = evaluate(policy, args.env_id, **world)
    env.close()
    return before, after


if __name__ == "__main__":
    report("skrl PPO", skrl.__version__, train, tyro.cli(Args))
