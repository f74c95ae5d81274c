"""Plays a policy's episodes with fixed seeds, in the simulator or in a dream, here or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

import rla_gym  # noqa: F401  registers the environments
from agents.policy import Policy, load_policy
from rla_gym.tasks import episode_chunks, simulator_id
from world_models.processes import choose_device
from world_models.ray_map import ray_map
from world_models.world_model import read_config, world_folder

if TYPE_CHECKING:
    from agents.evaluate import EvaluateConfig

RAY_EPISODES = 5
"""Simulated episodes that a worker of a Ray cluster is given at once: what is lost when it dies."""
DREAMS = 50
"""Dreams side by side, where nothing else is said."""

Outcomes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of n episodes: successes (n,) bool, returns (n,) float64, control steps (n,) int64."""


def play(policy: Policy, config: EvaluateConfig, env: str, world: str, progress: Callable[[bool], None]) -> Outcomes:
    """Play all episodes of an evaluation.

    Args:
        policy: as loaded, on its device.
        config: what to play.
        env: id of the environment.
        world: whose encoder and dynamics.
        progress: called with each episode's success.

    Returns:
        Outcomes of ``config.episodes`` episodes in the order of their seeds.

    Raises:
        ValueError: the policy does not fit the environment.
        ImportError: the simulator or Ray is missing.
    """
    dreams = is_dream(env)
    size = (config.num_envs or DREAMS) if dreams else RAY_EPISODES if config.ray else config.episodes
    parts = [range(first, min(first + size, config.episodes)) for first in range(0, config.episodes, size)]
    played: Iterable[Outcomes]
    if config.ray:
        device = choose_device(config.device).type
        # The workers' folder is another one than this process's.
        config = replace(config, policy=config.policy.resolve(), device=device)
        world = str(Path(world).resolve()) if Path(world).is_dir() else world
        played = _told(ray_map(partial(_RayPlayer, config, env, world), parts, gpus=device == "cuda"), progress)
    elif dreams:
        played = _told((_play_dreams(policy, config, env, world, part) for part in parts), progress)
    else:
        played = [_play_simulators(policy, config, env, world, part, progress) for part in parts]
    successes, returns, control_steps = (np.concatenate(column) for column in zip(*played, strict=True))
    return successes, returns, control_steps


def _told(played: Iterable[Outcomes], progress: Callable[[bool], None]) -> Iterator[Outcomes]:
    for part in played:
        for success in part[0].tolist():
            progress(success)
        yield part


class _RayPlayer:
    """A worker of a cluster: plays some episodes, in one simulator or in dreams side by side."""

    def __init__(self, config: EvaluateConfig, env: str, world: str) -> None:
        self._config, self._env, self._world = config, env, world
        self._policy = load_policy(config.policy, choose_device(config.device))

    def __call__(self, episodes: range) -> Outcomes:
        if is_dream(self._env):
            return _play_dreams(self._policy, self._config, self._env, self._world, episodes)
        one = replace(self._config, num_envs=1)
        return _play_simulators(self._policy, one, self._env, self._world, episodes, lambda success: None)


def is_dream(env: str) -> bool:
    """Whether an environment id is a dream's."""
    return env.split(":")[-1].startswith("RLAWM-")


def _play_simulators(
    policy: Policy, config: EvaluateConfig, env: str, world: str, episodes: range, progress: Callable[[bool], None]
) -> Outcomes:
    """Whoever ends an episode starts the next one that nobody has played: slots never wait for each other."""
    device = choose_device(config.device)
    first_seed = config.seed_start + episodes.start
    count = min(config.num_envs or min(os.cpu_count() or 1, 8), len(episodes))
    envs: Any = gym.make_vec(
        env,
        num_envs=count,
        obs="features",
        placement=config.placement,
        world=world,
        chunk_length=policy.chunk_length,
        max_chunks=config.max_chunks,
        vectorization=config.vectorization if count > 1 else "sync",
        device=str(device),
        autoreset_mode=AutoresetMode.DISABLED,
    )
    successes, returns, control_steps = _outcomes(len(episodes))
    try:
        _check_fit(policy, envs, config.policy)
        episode = np.arange(count)  # whom each slot plays; -1: nobody any more
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


def _play_dreams(policy: Policy, config: EvaluateConfig, env: str, world: str, episodes: range) -> Outcomes:
    """Side by side. Episode i is slot i of one seed, so it is the same in whatever company."""
    device = choose_device(config.device)
    count = len(episodes)
    options = None
    if config.starts == "simulator":
        task = gym.spec(env).kwargs["task"]
        options = first_pictures(task, config.placement, config.seed_start + episodes.start, count)
        if not read_config(world_folder(world)).proprioception:
            options = {"rgb": options["rgb"]}
    envs = gym.make_vec(
        env,
        num_envs=count,
        first_slot=episodes.start,
        world=world,
        dynamics=config.dynamics,
        prediction_length=config.prediction_length,
        device=str(device),
        obs="features",
        output="torch",
        starts="first",
        chunk_length=policy.chunk_length,
        max_chunks=config.max_chunks,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    _check_fit(policy, envs, config.policy)
    playing = torch.ones(count, dtype=torch.bool, device=device)
    success = torch.zeros_like(playing)
    total = torch.zeros(count, device=device)
    steps = torch.zeros(count, dtype=torch.int64, device=device)
    observations, _ = envs.reset(seed=config.seed_start, options=options)
    for chunk in range(config.max_chunks or episode_chunks(read_config(world_folder(world)).task)):
        actions = policy.act(observations, torch.full((count,), chunk, device=device))
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        total += torch.where(playing, rewards, 0.0)
        steps = torch.where(playing, infos["control_steps"], steps)
        success |= playing & infos["success"]
        playing &= ~(terminated | truncated)
    envs.close()
    return success.cpu().numpy(), total.double().cpu().numpy(), steps.cpu().numpy()


Pictures = dict[str, np.ndarray]
"""Reset options of a dream: rgb (n, H, W, 3) uint8 and proprioception (n, R) float32."""


@cache
def first_pictures(task: str, placement: str, seed_start: int, episodes: int) -> Pictures:
    """What camera and senses say at the beginning of the simulator's episodes, for a dream's reset options.

    Kept for the life of the process: every policy of a comparison dreams on from the same pictures.
    """
    env = gym.make(simulator_id(task), obs=("rgb", "proprioception"), placement=placement)
    try:
        shown = [env.reset(seed=seed_start + episode)[0] for episode in range(episodes)]
    finally:
        env.close()
    return {name: np.stack([picture[name] for picture in shown]) for name in ("rgb", "proprioception")}


def _outcomes(episodes: int) -> Outcomes:
    return np.zeros(episodes, dtype=bool), np.zeros(episodes), np.zeros(episodes, dtype=np.int64)


def _check_fit(policy: Policy, envs: VectorEnv, folder: Path) -> None:
    wanted = ((policy.num_tokens, policy.channels), (policy.action_size,))
    found = (envs.single_observation_space.shape, envs.single_action_space.shape)
    if wanted != found:
        raise ValueError(
            f"{folder} maps {wanted[0]} to {wanted[1]}, the environment has {found[0]} and {found[1]}; "
            "pass the --world that the policy was trained on"
        )
