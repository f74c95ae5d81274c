"""What the algorithms share that fine-tune a clone in its dream: settings, the environments, facts of the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gymnasium.vector import AutoresetMode

from agents.policies.base import facts_of_world
from agents.policies.token_policy import TokenPolicy
from agents.settings import json_settings
from rewards import RewardName
from world_models.config import DynamicsName
from world_models.io import default_dynamics, read_config, world_folder


@dataclass
class DreamTrainingConfig:
    """Settings that the algorithms share."""

    policy: Path | None = None
    """Cloned policy folder to start from."""
    out: Path = Path("runs/dream_training")
    """Policy folder to write."""
    world: str | None = None
    """Bundled world's name or a world folder; None takes the cloned policy's."""
    dynamics: DynamicsName | None = None
    """Which dynamics of the world the dream has; None for the world's default."""
    seed: int = 0
    """Of dreams, exploration and minibatches."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``, for dream and learner."""
    reward: RewardName = "corresponding"
    """Video-aligned reward; ``sparse`` gives the bonus alone."""
    success_bonus: float = 1.0
    """Added where the dream counts a success."""
    initial_states: Literal["mixed", "first", "everywhere"] = "everywhere"
    """Episodes start at demonstrations' first frames, half of them at a random frame, or else at any first state."""
    max_chunks: int | None = None
    """Chunks per episode; None takes the task's."""
    num_envs: int = 64
    """Environments side by side."""
    progress: bool = True
    """Show a progress bar."""

    def world_of(self, clone: TokenPolicy) -> str:
        """The world to train a clone in."""
        return self.world or clone.world


def env_arguments(config: DreamTrainingConfig, clone: TokenPolicy) -> dict[str, Any]:
    """Arguments of ``gymnasium.make_vec`` for the environments of a clone, be they dreams or simulators."""
    return {
        "world": config.world_of(clone),
        "obs": "features",
        "reward": config.reward,
        "success_bonus": config.success_bonus,
        "chunk_length": clone.chunk_length,
        "max_chunks": config.max_chunks,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }


def training_facts(
    config: DreamTrainingConfig, method: str, clone: TokenPolicy, *, seconds: float, env_steps: int, **more: Any
) -> dict[str, Any]:
    """What a trained policy's folder says of its training, for :attr:`agents.policies.base.Policy.facts`.

    Args:
        config: of the training.
        method: name in result rows.
        clone: what it started from.
        seconds: that it took.
        env_steps: of all environments together.
        more: further facts, as JSON can hold them.
    """
    world = config.world_of(clone)
    return {
        "method": method,
        **facts_of_world(world, read_config(world_folder(world))),
        "training": {
            **json_settings(config, without=("out", "progress", "world")),
            "dynamics": default_dynamics(world, config.dynamics),
            "clone": clone.facts.get("training"),
            "trained_seconds": round(seconds, 3),
            "env_steps": env_steps,
            **more,
        },
    }
