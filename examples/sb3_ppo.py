"""Stable-Baselines3's PPO in the dream.

After `pip install "rla-gym[agents]"`: `python examples/sb3_ppo.py`; see --help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import stable_baselines3
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from benchmarks.learning import evaluate, report
from rla_gym import DreamVecEnv
from world_models.config import DynamicsName


@dataclass
class Args:
    """Train Stable-Baselines3's PPO in the dream, once per seed."""

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
    total_timesteps: int = 32768
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
    envs = gym.make_vec(args.env_id, num_envs=args.num_envs, autoreset_mode="SameStep", **world)
    model = PPO(
        "MlpPolicy",
        VecMonitor(DreamVecEnv(envs)),
        learning_rate=args.learning_rate,
        n_steps=16,
        batch_size=128,
        n_epochs=8,
        gamma=0.9,
        policy_kwargs={"log_std_init": -0.7},  # actions are clipped at 1: with a std of 1 most would be
        seed=seed,
        device="cpu",
    )

    def policy(observations: np.ndarray) -> np.ndarray:
        return model.predict(observations, deterministic=True)[0]

    before = evaluate(policy, args.env_id, **world)
    model.learn(args.total_timesteps)
    after = evaluate(policy, args.env_id, **world)
    model.get_env().close()
    return before, after


if __name__ == "__main__":
    report("SB3 PPO", stable_baselines3.__version__, train, tyro.cli(Args))
