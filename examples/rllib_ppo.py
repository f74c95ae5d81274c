"""Ray RLlib's PPO in the dream, which RLlib vectorises by the environment's own vector entry point.

After `pip install "rla-gym[rllib]"`: `python examples/rllib_ppo.py`; see --help.
RLlib itself logs to ~/ray_results.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch
import tyro
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from benchmarks.learning import evaluate, report
from world_models.config import DynamicsName


@dataclass
class Args:
    """Train Ray RLlib's PPO in the dream, once per seed."""

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


def train(args: Args, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N,) of the evaluation episodes before and after training."""
    world = {"world": args.world, "dynamics": args.dynamics, "chunk_length": args.chunk_length, "obs": "pooled"}
    batch_size = 16 * args.num_envs
    config = (
        PPOConfig()
        # "module:id" makes every worker process import rla_gym, which registers the ids.
        .environment(f"rla_gym:{args.env_id}", env_config=world)
        .env_runners(
            num_env_runners=0,  # dreams are batched in this process; more runners are for more machines
            num_envs_per_env_runner=args.num_envs,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", free_log_std=True))
        .training(
            lr=args.learning_rate,
            gamma=0.9,
            lambda_=0.95,
            train_batch_size_per_learner=batch_size,
            minibatch_size=128,
            num_epochs=8,
            clip_param=0.2,
            kl_coeff=0.0,
            vf_loss_coeff=0.5,
            grad_clip=0.5,
        )
        .debugging(seed=seed)
    )
    algorithm = config.build_algo()

    @torch.no_grad()
    def policy(observations: np.ndarray) -> np.ndarray:
        module = algorithm.get_module()
        inputs = {"obs": torch.as_tensor(observations)}
        # the first half of the distribution's inputs is the mean
        return module.forward_inference(inputs)["action_dist_inputs"].chunk(2, dim=-1)[0].numpy()

    before = evaluate(policy, args.env_id, **world)
    for _ in range(args.total_timesteps // batch_size):
        algorithm.train()
    after = evaluate(policy, args.env_id, **world)
    algorithm.stop()
    return before, after


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    report("RLlib PPO", ray.__version__, train, tyro.cli(Args))
