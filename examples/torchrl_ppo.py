"""TorchRL's PPO in the dream, batched: a GymWrapper over the vector environment.

After `pip install "rla-gym[torchrl]"`: `python -m examples.torchrl_ppo`; see --help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torchrl
import tyro
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
from torchrl.envs import GymWrapper
from torchrl.modules import MLP, IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import rla_gym  # noqa: F401  registers the environments
from benchmarks.learning import evaluate, report
from world_models.config import DynamicsName


@dataclass
class Args:
    """Train TorchRL's PPO in the dream, once per seed."""

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


class Gaussian(nn.Module):
    """Location and scale of the actions; the scale does not depend on the observation."""

    def __init__(self, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.mean = MLP(observation_size, action_size, num_cells=[64, 64], activation_class=nn.Tanh)
        nn.init.orthogonal_(self.mean[-1].weight, gain=0.01)  # initial actions near the middle
        nn.init.zeros_(self.mean[-1].bias)
        self.log_std = nn.Parameter(torch.full((action_size,), -0.7))  # actions are clipped at 1

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loc = self.mean(observation)
        return loc, self.log_std.exp().expand_as(loc)


def train(args: Args, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N,) of the evaluation episodes before and after training."""
    torch.manual_seed(seed)
    world = {"world": args.world, "dynamics": args.dynamics, "chunk_length": args.chunk_length, "obs": "pooled"}
    # TorchRL resets finished dreams by itself, with reset masks.
    envs = gym.make_vec(args.env_id, num_envs=args.num_envs, autoreset_mode="Disabled", **world)
    env = GymWrapper(envs)
    env.set_seed(seed)

    observation_size, action_size = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
    network = Gaussian(observation_size, action_size)
    actor = ProbabilisticActor(
        TensorDictModule(network, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=env.action_spec_unbatched,
        distribution_class=IndependentNormal,
        return_log_prob=True,
    )
    critic = ValueOperator(MLP(observation_size, 1, num_cells=[64, 64], activation_class=nn.Tanh))
    advantage = GAE(gamma=0.9, lmbda=0.95, value_network=critic, average_gae=True)
    loss_module = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=0.0, critic_coeff=0.5)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=args.learning_rate)

    frames_per_batch = 16 * args.num_envs
    collector = Collector(
        env,
        actor,
        frames_per_batch=frames_per_batch,
        total_frames=args.total_timesteps,
        auto_register_policy_transforms=True,
    )
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(frames_per_batch), sampler=SamplerWithoutReplacement(), batch_size=128
    )

    @torch.no_grad()
    def policy(observations: np.ndarray) -> np.ndarray:
        return network(torch.as_tensor(observations))[0].numpy()

    before = evaluate(policy, args.env_id, **world)
    for data in collector:
        for _ in range(8):
            advantage(data)
            buffer.extend(data.reshape(-1))
            for minibatch in buffer:
                losses = loss_module(minibatch)
                loss = losses["loss_objective"] + losses["loss_critic"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
                optimizer.step()
    after = evaluate(policy, args.env_id, **world)
    collector.shutdown()
    return before, after


if __name__ == "__main__":
    report("TorchRL PPO", torchrl.__version__, train, tyro.cli(Args))
