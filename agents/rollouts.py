"""Plays a policy's episodes with fixed seeds, in the simulator or in a dream, here or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

import rla_gym  # noqa: F401  registers the environments
from agents.policies.base import Policy
from agents.policies.io import load_policy
from rla_gym.ground_truth.seeds import REPORT_SEEDS
from rla_gym.tasks import episode_chunks, simulator_id
from world_models.config import DynamicsName
from world_models.devices import choose_device
from world_models.distributed.ray_map import ray_map
from world_models.io import read_config, world_folder

RAY_EPISODES = 5
"""Simulated episodes that a worker of a Ray cluster is given at once: what is lost when it dies."""
DREAMS = 50
"""Dreams side by side, unless the config says otherwise."""

Outcomes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of n episodes: successes (n,) bool, returns (n,) float64, control steps (n,) int64."""


@dataclass
class RolloutConfig:
    """Which episodes to play, and where."""

    policy: Path
    """Policy folder."""
    env: str | None = None
    """Environment id: the simulator, or a dream (``RLAWM-Lift-v0``), where success is what the dream counts as one;
    None takes the simulator of the policy's task."""
    episodes: int = 100
    """Episodes; episode i has seed ``seed_start + i``."""
    seed_start: int = REPORT_SEEDS.start
    """First seed. From 1,000,000 on seeds are for reports; choose settings on 500,000 to 999,999."""
    num_envs: int | None = None
    """Episodes side by side; None takes 50 in a dream, one per CPU core (at most 8) in the simulator."""
    vectorization: Literal["async", "sync"] = "async"
    """Simulators in a process each or in this one (a script needs ``if __name__ == "__main__":`` for processes)."""
    placement: str = "standard"
    """Where the simulator puts the object: ``standard`` or ``wide``."""
    initial_states: Literal["demonstrations", "simulator"] = "demonstrations"
    """Where dreams begin: at demonstrations' first frames, or at the simulator's first pictures of the same seeds."""
    world: str | None = None
    """World whose encoder (and, in a dream, dynamics) is used; None takes the policy's."""
    dynamics: DynamicsName | None = None
    """Dynamics of the dream, in a dream's evaluation and in the video; None for the world's default."""
    prediction_length: int | None = None
    """Actions after which a dream predicts a state; None takes the world's."""
    max_chunks: int | None = None
    """Chunks per episode; None takes the task's."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``, for encoder, dream and policy."""
    ray: bool = False
    """Play on a Ray cluster: that of ``RAY_ADDRESS``, else one on this machine. Its machines need policy and world at
    the same place; every worker has a simulator, or ``num_envs`` dreams, of its own."""

    def env_of(self, policy: Policy) -> str:
        """Id of the environment to play a policy in, without the module that registers it."""
        return (self.env or simulator_id(policy.task)).split(":")[-1]

    def world_of(self, policy: Policy) -> str:
        """Name or folder of the world to play a policy with."""
        return self.world or policy.world


def is_dream(env: str) -> bool:
    """Whether an environment id, without a module's name, is a dream's."""
    return env.startswith("RLAWM-")


def play(policy: Policy, config: RolloutConfig, progress: Callable[[bool], None]) -> Outcomes:
    """Play all episodes of an evaluation.

    Args:
        policy: as loaded, on its device.
        config: what to play.
        progress: called with each episode's success.

    Returns:
        Outcomes of ``config.episodes`` episodes in the order of their seeds.

    Raises:
        ValueError: the policy does not fit the environment.
        ImportError: the simulator or Ray is missing.
    """
    dreams = is_dream(config.env_of(policy))
    size = (config.num_envs or DREAMS) if dreams else RAY_EPISODES if config.ray else config.episodes
    parts = [range(first, min(first + size, config.episodes)) for first in range(0, config.episodes, size)]
    played: Iterable[Outcomes]
    if config.ray:
        device = choose_device(config.device).type
        # The workers' folder is another one than this process's.
        world = config.world_of(policy)
        world = str(Path(world).resolve()) if Path(world).is_dir() else world
        config = replace(config, policy=config.policy.resolve(), world=world, device=device)
        played = _reported(ray_map(partial(_RayPlayer, config), parts, gpus=device == "cuda"), progress)
    elif dreams:
        played = _reported((_play_dreams(policy, config, part) for part in parts), progress)
    else:
        played = [_play_simulators(policy, config, part, progress) for part in parts]
    successes, returns, control_steps = (np.concatenate(column) for column in zip(*played, strict=True))
    return successes, returns, control_steps


def _reported(played: Iterable[Outcomes], progress: Callable[[bool], None]) -> Iterator[Outcomes]:
    """The same outcomes, each reported to ``progress`` on the way."""
    for part in played:
        for success in part[0].tolist():
            progress(success)
        yield part


class _RayPlayer:
    """A worker of a cluster: plays some episodes, in one simulator or in dreams side by side."""

    def __init__(self, config: RolloutConfig) -> None:
        self._config = config
        self._policy = load_policy(config.policy, choose_device(config.device))

    def __call__(self, episodes: range) -> Outcomes:
        if is_dream(self._config.env_of(self._policy)):
            return _play_dreams(self._policy, self._config, episodes)
        one = replace(self._config, num_envs=1)
        return _play_simulators(self._policy, one, episodes, lambda success: None)


def _play_simulators(
    policy: Policy, config: RolloutConfig, episodes: range, progress: Callable[[bool], None]
) -> Outcomes:
    """A simulator whose episode ended starts the next one that nobody has played: slots never wait for each other."""
    device = choose_device(config.device)
    first_seed = config.seed_start + episodes.start
    count = min(config.num_envs or min(os.cpu_count() or 1, 8), len(episodes))
    envs = _make_envs(
        policy,
        config,
        num_envs=count,
        placement=config.placement,
        vectorization=config.vectorization if count > 1 else "sync",
    )
    successes, returns = np.zeros(len(episodes), dtype=bool), np.zeros(len(episodes))
    control_steps = np.zeros(len(episodes), dtype=np.int64)
    try:
        episode = np.arange(count)  # which episode each slot plays; -1: none any more
        waiting = count
        chunks = np.zeros(count, dtype=np.int64)
        observations, _ = envs.reset(seed=[first_seed + int(i) for i in episode])
        while (episode >= 0).any():
            actions = policy.act(torch.as_tensor(observations, device=device), torch.as_tensor(chunks, device=device))
            observations, rewards, terminated, truncated, infos = envs.step(actions.cpu().numpy())
            chunks += 1
            playing = episode >= 0
            returns[episode[playing]] += np.asarray(rewards)[playing]
            done = np.asarray(terminated) | np.asarray(truncated)
            for slot in np.flatnonzero(done):
                if playing[slot]:
                    successes[episode[slot]] = infos["success"][slot]
                    control_steps[episode[slot]] = infos["control_steps"][slot]
                    progress(bool(infos["success"][slot]))
                episode[slot] = waiting if waiting < len(episodes) else -1
                waiting += 1
            if done.any() and (episode >= 0).any():
                # slots without an episode are kept going, for the vector environment steps them all
                seeds = [first_seed + max(int(i), 0) for i in episode]
                observations, _ = envs.reset(seed=seeds, options={"reset_mask": done})
                chunks[done] = 0
    finally:
        envs.close()
    return successes, returns, control_steps


def _play_dreams(policy: Policy, config: RolloutConfig, episodes: range) -> Outcomes:
    """Side by side. Episode i is slot i of one seed, so it does not depend on which others are played with it."""
    device = choose_device(config.device)
    count = len(episodes)
    world = read_config(world_folder(config.world_of(policy)))
    options = None
    if config.initial_states == "simulator":
        task = gym.spec(config.env_of(policy)).kwargs["task"]
        options = first_pictures(task, config.placement, config.seed_start + episodes.start, count)
        if not world.proprioception:
            options = {"rgb": options["rgb"]}
    envs = _make_envs(
        policy,
        config,
        num_envs=count,
        first_slot=episodes.start,
        dynamics=config.dynamics,
        prediction_length=config.prediction_length,
        output="torch",
        initial_states="first",
    )
    playing = torch.ones(count, dtype=torch.bool, device=device)
    success = torch.zeros_like(playing)
    total = torch.zeros(count, device=device)
    steps = torch.zeros(count, dtype=torch.int64, device=device)
    observations, _ = envs.reset(seed=config.seed_start, options=options)
    for chunk in range(config.max_chunks or episode_chunks(world.task, world.max_chunks)):
        actions = policy.act(observations, torch.full((count,), chunk, device=device))
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        total += torch.where(playing, rewards, 0.0)
        steps = torch.where(playing, infos["control_steps"], steps)
        success |= playing & infos["success"]
        playing &= ~(terminated | truncated)
    envs.close()
    return success.cpu().numpy(), total.double().cpu().numpy(), steps.cpu().numpy()


def _make_envs(policy: Policy, config: RolloutConfig, **arguments: Any) -> Any:
    """The environments that a policy plays in, reset by the caller alone.

    Raises:
        ValueError: they do not fit the policy.
    """
    envs: VectorEnv = gym.make_vec(
        config.env_of(policy),
        world=config.world_of(policy),
        obs="features",
        chunk_length=policy.chunk_length,
        max_chunks=config.max_chunks,
        device=str(choose_device(config.device)),
        autoreset_mode=AutoresetMode.DISABLED,
        **arguments,
    )
    try:
        policy.check_fits(
            envs.single_observation_space.shape,
            envs.single_action_space.shape,
            f"pass the --world that {config.policy} was trained on",
        )
    except ValueError:
        envs.close()
        raise
    return envs


Pictures = dict[str, np.ndarray]
"""Reset options of a dream: rgb (n, H, W, 3) uint8 and proprioception (n, R) float32."""


@cache
def first_pictures(task: str, placement: str, seed_start: int, episodes: int) -> Pictures:
    """Frames and proprioception at the beginning of the simulator's episodes, for a dream's reset options.

    Kept for the life of the process: every policy of a comparison starts from the same pictures.

    Args:
        task: name of the task.
        placement: of the simulator's objects.
        seed_start: episode i has this seed plus i.
        episodes: how many, n.
    """
    env = gym.make(simulator_id(task), obs=("rgb", "proprioception"), placement=placement)
    try:
        observations = [env.reset(seed=seed_start + episode)[0] for episode in range(episodes)]
    finally:
        env.close()
    return {name: np.stack([picture[name] for picture in observations]) for name in ("rgb", "proprioception")}
