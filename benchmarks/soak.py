"""Many random env steps: is memory flat and every number finite? ``python -m benchmarks.soak --env-steps 1000000``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

import rla_gym  # noqa: F401  registers the environments


@dataclass(frozen=True)
class SoakConfig:
    """Settings of `soak`."""

    world: str = "lift"
    """Bundled world's name or a world folder."""
    env_steps: int = 100_000
    """Environment steps, counted over all slots."""
    num_envs: int = 64
    """Slots."""
    seed: int = 0
    """Of dreams and actions."""


@dataclass(frozen=True)
class SoakResult:
    """What `soak` measured.

    Attributes:
        env_steps: environment steps taken, at least those asked for.
        episodes: how many ended.
        growth: MiB that the process's resident memory grew by over the last three quarters of the steps.
        finite: whether every observation and reward was.
    """

    env_steps: int
    episodes: int
    growth: float
    finite: bool


def soak(config: SoakConfig) -> SoakResult:
    """Take random actions in every slot, resetting in the same step.

    Raises:
        OSError: there is no /proc to read the memory from (not Linux).
    """
    envs = gym.make_vec("RLAWM-Lift-v0", num_envs=config.num_envs, world=config.world, autoreset_mode="SameStep")
    rng = np.random.default_rng(config.seed)
    count = -(-config.env_steps // config.num_envs)
    episodes, finite, settled = 0, True, 0.0
    envs.reset(seed=config.seed)
    for step in range(count):
        if step == count // 4:
            settled = memory()
        actions = rng.uniform(-1, 1, envs.action_space.shape or ()).astype(np.float32)
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        finite &= bool(np.isfinite(observations).all() and np.isfinite(rewards).all())
        episodes += int((terminated | truncated).sum())
    envs.close()
    return SoakResult(count * config.num_envs, episodes, memory() - settled, finite)


def memory(kind: str = "VmRSS") -> float:
    """MiB of memory that this process holds now ("VmRSS"), or held at most ("VmHWM")."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {kind}: this measures memory on Linux alone")


if __name__ == "__main__":
    print(soak(tyro.cli(SoakConfig)))
