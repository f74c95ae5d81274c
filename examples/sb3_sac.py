"""Stable-Baselines3's SAC in the dream.

After `pip install "rla-gym[agents]"`: `python examples/sb3_sac.py`; see --help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import stable_baselines3
import tyro
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecMonitor

from benchmarks.learning import evaluate, report
from rla_gym import DreamVecEnv
from world_models.config import DynamicsName


@dataclass
class Args:
    """Train Stable-Baselines3's SAC in the dream, once per seed."""

    env_id: str = "RLAWM-Lift-v0"
    """Environment."""
    world: str | None = None
    """Bundled world's name or a world folder; None for the bundled one of the environment's task."""
    dynamics: DynamicsName = "regression"
    """Which dynamics of the world the dream has; regression is the cheap one."""
    chunk_length: int | None = 4
    """Control steps of an env step; None for the world's own. Short ones are easier to learn from scratch."""
    num_envs: int = 16
    """Dreams side by side."""
    total_timesteps: int = 8192
    """Env steps in all dreams together, each a chunk of actions."""
    learning_rate: float = 1e-3
    """Of Adam, for actor and critics."""
    ent_coef: float = 0.003
    """Weight of the entropy, fixed: a larger one would outweigh rewards, which are a fraction of one a step."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    out: Path | None = None
    """JSON file to keep the result rows in."""


def train(args: Args, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N,) of the evaluation episodes before and after training."""
    world = {"world": args.world, "dynamics": args.dynamics, "chunk_length": args.chunk_length, "obs": "pooled"}
    envs = gym.make_vec(args.env_id, num_envs=args.num_envs, autoreset_mode="SameStep", **world)
    model = SAC(
        "MlpPolicy",
        VecMonitor(DreamVecEnv(envs)),
        learning_rate=args.learning_rate,
        buffer_size=args.total_timesteps,
        learning_starts=16 * args.num_envs,
        batch_size=128,
        gamma=0.9,
        ent_coef=args.ent_coef,
        gradient_steps=args.num_envs // 4,  # per step of all dreams: one for four env steps
        policy_kwargs={"net_arch": [64, 64]},
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
    report("SB3 SAC", stable_baselines3.__version__, train, tyro.cli(Args))
