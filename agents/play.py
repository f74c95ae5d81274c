"""`rla-gym play`: a video of the dream alone, under a policy or random actions. Needs no simulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

import rla_gym  # noqa: F401  registers the environments
from agents.policies.io import load_policy
from agents.video import write_frames
from rla_gym.tasks import dream_id
from world_models.config import DynamicsName
from world_models.disk_space import check_file_writable
from world_models.io import read_config, world_folder


@dataclass(frozen=True)
class PlayConfig:
    """Settings of `play`."""

    world: str = "lift"
    """Bundled world's name or a world folder."""
    policy: Path | None = None
    """Policy folder; None plays random actions."""
    envs: int = 4
    """Dreams side by side in the picture."""
    chunks: int = 12
    """Action chunks to show."""
    seed: int = 0
    """Of initial states, noise and random actions."""
    dynamics: DynamicsName | None = None
    """Which dynamics of the world the dream has; None for the world's default."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    out: Path = Path("runs/play.mp4")
    """mp4 to write."""


def play(config: PlayConfig) -> Path:
    """Write the video and print its path; one frame per chunk and environment.

    Raises:
        ValueError: the policy does not fit the world, or a setting is out of range.
        FileNotFoundError: no such policy or world.
    """
    check_file_writable(config.out)
    task = read_config(world_folder(config.world)).task
    policy = load_policy(config.policy, config.device) if config.policy else None
    envs: Any = gym.make_vec(
        dream_id(task), num_envs=config.envs, world=config.world, dynamics=config.dynamics, device=config.device,
        output="torch", initial_states="first", render_mode="rgb_array", autoreset_mode=AutoresetMode.SAME_STEP,
    )  # fmt: skip
    rng = np.random.default_rng(config.seed)
    observation, _ = envs.reset(seed=config.seed)
    frames = [_side_by_side(envs.render())]
    step = torch.zeros(config.envs, dtype=torch.int64, device=config.device)
    for _ in range(config.chunks):
        if policy is not None:
            action = policy.act(observation, step)
        else:
            size = envs.single_action_space.shape[0]
            action = torch.from_numpy(rng.uniform(-1, 1, (config.envs, size)).astype(np.float32)).to(config.device)
        observation, _, terminated, truncated, _ = envs.step(action)
        step = torch.where(terminated | truncated, -1, step) + 1
        frames.append(_side_by_side(envs.render()))
    envs.close()
    write_frames(config.out, frames, fps=4)
    print(config.out)
    return config.out


def _side_by_side(frames: tuple[np.ndarray, ...]) -> np.ndarray:
    # Twice the size: 128 pixels are small on a screen.
    return np.concatenate(list(frames), axis=1).repeat(2, axis=0).repeat(2, axis=1)
