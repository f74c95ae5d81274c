"""Stable-Baselines3's PPO in the dream, starting from the same cloned policy, weight for weight.

For users who live in Stable-Baselines3: its stock algorithm, unchanged. It has no penalty on the distance to the
clone, so a small learning rate and target KL are all that keeps it near; `agents.ppo` is the careful one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import gymnasium as gym
import torch
from torch import Tensor

from agents.bc import world_reference
from agents.policy import TokenPolicy, TokenTrunk, load_policy
from rewards import RewardName
from rla_gym.tasks import dream_id
from rla_gym.vector_env import RLAWMVectorEnv
from world_models.processes import choose_device

try:
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecMonitor

    from rla_gym.sb3 import DreamVecEnv
except ImportError as error:
    raise ImportError(f'SB3 PPO needs Stable-Baselines3 ({error}): pip install "rla-gym[agents]"') from error


@dataclass
class SB3PPOConfig:
    """Settings of `train_sb3_ppo`."""

    policy: Path = Path("runs/bc")
    """Cloned policy folder to start from."""
    out: Path = Path("runs/sb3_ppo")
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
    starts: Literal["mixed", "first", "everywhere"] = "mixed"
    """Episodes start at demonstrations' first frames, half of them at a random frame, or else at any first state."""
    max_chunks: int | None = None
    """Chunks per episode; None takes the task's."""
    num_envs: int = 64
    """Dreams side by side."""
    steps: int = 4
    """Chunks per dream and iteration."""
    iterations: int = 300
    """Iterations in all, warm-up included."""
    warmup_iterations: int = 10
    """First iterations, in which only the value function learns."""
    epochs: int = 4
    """Passes over an iteration's samples."""
    batch_size: int = 64
    """Samples of a minibatch."""
    gamma: float = 0.9
    """Discount per chunk."""
    gae_lambda: float = 0.95
    """Of generalised advantage estimation."""
    clip: float = 0.2
    """PPO's clipping of the probability ratio."""
    target_kl: float = 0.03
    """Updates of an iteration stop near this KL."""
    learning_rate: float = 2e-5
    """Of Adam, for policy and value function."""
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


def make_sb3_ppo(policy: TokenPolicy, envs: Any, config: SB3PPOConfig) -> PPO:
    """A Stable-Baselines3 PPO whose deterministic action is the policy's own.

    The actor's trunk, head and log std are copies of the policy's; the critic's trunk starts as a copy too.

    Args:
        policy: cloned policy, (L, C) features to (K*A,) actions.
        envs: a Stable-Baselines3 VecEnv with these spaces.
        config: PPO settings.

    Raises:
        ValueError: the environment's spaces are not those of the policy.
    """
    spaces = (envs.observation_space.shape, envs.action_space.shape)
    if spaces != ((policy.num_tokens, policy.channels), (policy.action_size,)):
        raise ValueError(
            f"the policy maps {(policy.num_tokens, policy.channels)} to {(policy.action_size,)}, the environment has "
            f"{spaces[0]} and {spaces[1]}; use the world and chunk length of the policy"
        )
    model = PPO(
        ActorCriticPolicy,
        envs,
        learning_rate=config.learning_rate,
        n_steps=config.steps,
        batch_size=config.batch_size,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip,
        target_kl=config.target_kl,
        seed=config.seed,
        device=choose_device(config.device),
        tensorboard_log=str(config.out / "tensorboard"),
        policy_kwargs={
            "features_extractor_class": TokenExtractor,
            "features_extractor_kwargs": {"width": policy.width, "queries": policy.queries},
            "share_features_extractor": False,
            "net_arch": [],
            "ortho_init": False,
        },
    )
    with torch.no_grad():
        for extractor in (model.policy.pi_features_extractor, model.policy.vf_features_extractor):
            cast(TokenExtractor, extractor).trunk.load_state_dict(policy.trunk.state_dict())
        model.policy.action_net.load_state_dict(policy.head.state_dict())
        model.policy.log_std.copy_(policy.log_std)
        torch.nn.init.zeros_(model.policy.value_net.weight)
        torch.nn.init.zeros_(model.policy.value_net.bias)
    return model


def token_policy_of(model: PPO, like: TokenPolicy) -> TokenPolicy:
    """The actor inside a Stable-Baselines3 model as a `TokenPolicy` with the sizes and facts of ``like``."""
    policy = TokenPolicy(**{name: getattr(like, name) for name in TokenPolicy.SIZES})
    policy.trunk.load_state_dict(cast(TokenExtractor, model.policy.pi_features_extractor).trunk.state_dict())
    policy.head.load_state_dict(model.policy.action_net.state_dict())
    with torch.no_grad():
        policy.log_std.copy_(model.policy.log_std)
    policy.facts = dict(like.facts)
    return policy.eval()


def train_sb3_ppo(config: SB3PPOConfig) -> Path:
    """Fine-tune a cloned policy in the dream with Stable-Baselines3; returns the policy folder ``config.out``.

    Raises:
        ValueError: the policy is not a cloned one, or does not fit the world.
        FileNotFoundError: no such policy or world.
    """
    samples = config.num_envs * config.steps
    if config.batch_size > samples or samples % config.batch_size:
        raise ValueError(f"batch_size={config.batch_size} must divide the {samples} samples of an iteration")
    clone = load_policy(config.policy)
    if not isinstance(clone, TokenPolicy):
        raise ValueError(
            f"{config.policy} is a {clone.kind!r} policy, which cannot learn; make one by `rla-gym agent bc`"
        )
    world = config.world or str(clone.facts.get("world", "lift"))
    task = str(clone.facts.get("task", "Lift"))
    dream = gym.make_vec(
        dream_id(task),
        num_envs=config.num_envs,
        world=world,
        dynamics=config.dynamics,
        device=str(choose_device(config.device)),
        reward=config.reward,
        success_bonus=config.success_bonus,
        starts=config.starts,
        chunk_length=clone.chunk_length,
        max_chunks=config.max_chunks,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    envs = VecMonitor(DreamVecEnv(cast(RLAWMVectorEnv, dream)), info_keywords=("is_success",))
    try:
        model = make_sb3_ppo(clone, envs, config)
        warm_up = _ValueWarmup(config.warmup_iterations)
        model.learn(config.iterations * samples, callback=warm_up, progress_bar=config.progress)
    finally:
        envs.close()
    config.out.mkdir(parents=True, exist_ok=True)
    temporary = config.out / ".model.tmp.zip"
    model.save(temporary)
    temporary.replace(config.out / "model.zip")
    policy = token_policy_of(model, clone)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    policy.facts = {
        "method": "sb3_ppo",
        "world": world_reference(world),
        "task": task,
        "training": {
            **{name: value for name, value in settings.items() if name not in ("out", "progress", "world")},
            "clone": clone.facts.get("training"),
        },
    }
    return policy.save(config.out)


class _ValueWarmup(BaseCallback):
    """Holds the actor still for the first iterations, so that a value function of zero cannot spoil the clone."""

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self._iterations = iterations
        self._seen = 0

    def _on_rollout_start(self) -> None:
        policy = cast(ActorCriticPolicy, self.model.policy)
        learns = self._seen >= self._iterations
        for module in (policy.pi_features_extractor, policy.action_net):
            module.requires_grad_(learns)
        policy.log_std.requires_grad_(learns)
        self._seen += 1

    def _on_step(self) -> bool:
        return True
