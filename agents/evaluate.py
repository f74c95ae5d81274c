"""Judge a policy: success rate on fixed seeds, in the simulator or in the dream, with interval, rows and video."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from rich import box
from rich.console import Console
from rich.table import Column, Table
from tqdm import tqdm

import rla_gym  # noqa: F401  registers the environments
from agents.policy import Policy, choose_device, load_policy
from agents.statistics import wilson_interval
from rla_gym.ground_truth.seeds import REPORT_SEEDS
from world_models.checkpoint import save_json
from world_models.world_model import read_config, world_folder


@dataclass
class EvaluateConfig:
    """Settings of `evaluate`."""

    policy: Path
    """Policy folder."""
    env: str = "Robosuite-Lift-v0"
    """Environment id: the simulator, or a dream (``RLAWM-Lift-v0``), where success is what the dream believes."""
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
    starts: Literal["demonstrations", "simulator"] = "demonstrations"
    """Where dreams begin: at demonstrations' first frames, or at the simulator's first pictures of the same seeds."""
    world: str | None = None
    """World whose encoder (and, in a dream, dynamics) is used; None takes the policy's."""
    dynamics: Literal["flow", "regression"] = "flow"
    """Dynamics of the dream, in a dream's evaluation and in the video."""
    max_chunks: int = 6
    """Chunks per episode."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``, for encoder, dream and policy."""
    out: Path | None = None
    """JSON rows to write; None: ``<policy>/evaluation/<env>-<placement or dynamics>.json``. Episodes go beside."""
    video: Path | None = None
    """mp4 to write: dream and simulator side by side, for the first ``video_episodes`` seeds. Simulator ids only."""
    video_episodes: int = 4
    """Episodes in the video."""
    progress: bool = True
    """Show a progress bar and the table."""


@dataclass(frozen=True)
class Evaluation:
    """What came out, episode by episode; all arrays (n,), in the order of the seeds.

    Attributes:
        method: of the policy.
        seeds: int64 seeds of the episodes.
        successes: bool.
        returns: float64 undiscounted returns.
        control_steps: int64 control steps until the episode ended.
        row: the result row, as written to ``out``.
    """

    method: str
    seeds: np.ndarray
    successes: np.ndarray
    returns: np.ndarray
    control_steps: np.ndarray
    row: dict[str, Any]


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Play ``config.episodes`` episodes with fixed seeds and the policy's mean action; write rows, show the table.

    In the simulator episode i is reset with seed ``seed_start + i``. In a dream it is slot i of seed ``seed_start``,
    from a demonstration's first frame, or from what the simulator's camera shows of its own episode i. Either way two
    policies meet the same episodes, whatever ``num_envs``.

    Raises:
        ValueError: unknown environment id, a setting out of range, or the policy does not fit the environment.
        FileNotFoundError: no such policy or world.
        ImportError: the simulator is not installed; ``pip install "rla-gym[robosuite]"``.
    """
    _check(config)
    device = choose_device(config.device)
    policy = load_policy(config.policy, device)
    world = config.world or str(policy.facts.get("world", "lift"))
    dreams = is_dream(config.env)
    with tqdm(total=config.episodes, desc=policy.method, unit="episode", disable=not config.progress) as bar:
        progress = _Progress(bar)
        play = _play_dream if dreams else _play_simulator
        successes, returns, control_steps = play(policy, config, world, device, progress)

    low, high = wilson_interval(int(successes.sum()), config.episodes)
    setting = f"dynamics={config.dynamics}" if dreams else f"placement={config.placement}"
    if dreams and config.starts == "simulator":
        setting += f",placement={config.placement}"
    row = {
        "bench": "evaluate",
        "task": gym.spec(config.env).kwargs["task"],
        "method": policy.method,
        "metric": "dream_success_rate" if dreams else "success_rate",
        "setting": setting,
        "value": float(successes.mean()),
        "low": low,
        "high": high,
        "n": config.episodes,
        "seeds": f"{config.seed_start}-{config.seed_start + config.episodes - 1}",
        "unit": "fraction",
        "hardware": describe_hardware(device),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": command_line(),
    }
    result = Evaluation(
        policy.method,
        config.seed_start + np.arange(config.episodes),
        successes,
        returns,
        control_steps,
        row,
    )
    variant = config.dynamics if dreams else config.placement
    out = config.out or config.policy / "evaluation" / f"{gym.spec(config.env).id}-{variant}.json"
    save_json(out, [row])
    save_json(
        out.with_suffix(".episodes.json"),
        [
            {"seed": int(seed), "success": bool(success), "return": float(total), "control_steps": int(steps)}
            for seed, success, total, steps in zip(result.seeds, successes, returns, control_steps, strict=True)
        ],
    )
    if config.progress:
        print_table([row])
    if config.video is not None:
        from agents.video import write_comparison

        write_comparison(
            config.video,
            policy,
            result.seeds[: config.video_episodes].tolist(),
            env=config.env,
            world=world,
            dynamics=config.dynamics,
            placement=config.placement,
            max_chunks=config.max_chunks,
            device=device,
        )
    return result


def print_table(rows: list[dict[str, Any]], console: Console | None = None) -> None:
    """Print result rows of success rates as a table; intervals are 95 % Wilson intervals."""
    setting = Column("setting", overflow="fold")
    table = Table("method", "task", "success", setting, "%", "95 % interval", "n", box=box.SIMPLE)
    for row in rows:
        place = "in the dream" if row["metric"].startswith("dream") else "simulator"
        interval = "" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        rate = f"{100 * row['value']:.1f}"
        table.add_row(row["method"], row["task"], place, row["setting"], rate, interval, str(row["n"]))
    (console or Console()).print(table)


def is_dream(env: str) -> bool:
    """Whether an environment id is a dream's."""
    return env.split(":")[-1].startswith("RLAWM-")


def describe_hardware(device: str | torch.device = "cpu") -> str:
    """The machine in words, for result rows: the GPU's name, or the CPU's with torch's thread count."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {torch.get_num_threads()} threads"


def command_line() -> str:
    """The command that runs, for result rows, with the program's name instead of its path."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


class _Progress:
    """Counts episodes and successes into a progress bar."""

    def __init__(self, bar: tqdm) -> None:
        self._bar, self._successes = bar, 0

    def __call__(self, success: bool) -> None:
        self._successes += success
        self._bar.update()
        self._bar.set_postfix(success=f"{self._successes}/{self._bar.n}")


Outcomes = tuple[np.ndarray, np.ndarray, np.ndarray]


def _play_simulator(
    policy: Policy, config: EvaluateConfig, world: str, device: torch.device, progress: Callable[[bool], None]
) -> Outcomes:
    """Whoever ends an episode starts the next one that nobody has played: slots never wait for each other."""
    count = min(config.num_envs or min(os.cpu_count() or 1, 8), config.episodes)
    envs: Any = gym.make_vec(
        config.env,
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
    successes, returns, control_steps = _outcomes(config.episodes)
    try:
        _check_fit(policy, envs, config)
        episode = np.arange(count)  # whom each slot plays; -1: nobody any more
        waiting = count
        chunks = np.zeros(count, dtype=np.int64)
        observations, _ = envs.reset(seed=[config.seed_start + int(i) for i in episode])
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
                episode[slot] = waiting if waiting < config.episodes else -1
                waiting += 1
            if done.any() and (episode >= 0).any():
                # slots without an episode are kept going, for the vector environment steps them all
                seeds = [config.seed_start + max(int(i), 0) for i in episode]
                observations, _ = envs.reset(seed=seeds, options={"reset_mask": done})
                chunks[done] = 0
    finally:
        envs.close()
    return successes, returns, control_steps


def _play_dream(
    policy: Policy, config: EvaluateConfig, world: str, device: torch.device, progress: Callable[[bool], None]
) -> Outcomes:
    """Episode i is slot i of one seed: batches of slots, each of its own number, are the same for any num_envs."""
    successes, returns, control_steps = _outcomes(config.episodes)
    side_by_side = config.num_envs or 50
    pictures: Pictures | None = None
    if config.starts == "simulator":
        task = gym.spec(config.env).kwargs["task"]
        pictures = first_pictures(task, config.placement, config.seed_start, config.episodes)
        if not read_config(world_folder(world)).proprioception:
            pictures = {"rgb": pictures["rgb"]}
    for first in range(0, config.episodes, side_by_side):
        count = min(side_by_side, config.episodes - first)
        envs = gym.make_vec(
            config.env,
            num_envs=count,
            first_slot=first,
            world=world,
            dynamics=config.dynamics,
            device=str(device),
            obs="features",
            output="torch",
            starts="first",
            chunk_length=policy.chunk_length,
            max_chunks=config.max_chunks,
            autoreset_mode=AutoresetMode.DISABLED,
        )
        _check_fit(policy, envs, config)
        playing = torch.ones(count, dtype=torch.bool, device=device)
        success = torch.zeros_like(playing)
        total = torch.zeros(count, device=device)
        steps = torch.zeros(count, dtype=torch.int64, device=device)
        options = None if pictures is None else {name: of[first : first + count] for name, of in pictures.items()}
        observations, _ = envs.reset(seed=config.seed_start, options=options)
        for chunk in range(config.max_chunks):
            actions = policy.act(observations, torch.full((count,), chunk, device=device))
            observations, rewards, terminated, truncated, infos = envs.step(actions)
            total += torch.where(playing, rewards, 0.0)
            steps = torch.where(playing, infos["control_steps"], steps)
            success |= playing & infos["success"]
            playing &= ~(terminated | truncated)
        envs.close()
        last = first + count
        successes[first:last], returns[first:last] = success.cpu().numpy(), total.cpu().numpy()
        control_steps[first:last] = steps.cpu().numpy()
        for good in success.tolist():
            progress(good)
    return successes, returns, control_steps


Pictures = dict[str, np.ndarray]
"""Reset options of a dream: rgb (n, H, W, 3) uint8 and proprioception (n, R) float32."""


@cache
def first_pictures(task: str, placement: str, seed_start: int, episodes: int) -> Pictures:
    """What camera and senses say at the beginning of the simulator's episodes, for a dream's reset options.

    Kept for the life of the process: every policy of a comparison dreams on from the same pictures.
    """
    env = gym.make(f"Robosuite-{task}-v0", obs=("rgb", "proprioception"), placement=placement)
    try:
        shown = [env.reset(seed=seed_start + episode)[0] for episode in range(episodes)]
    finally:
        env.close()
    return {name: np.stack([picture[name] for picture in shown]) for name in ("rgb", "proprioception")}


def _outcomes(episodes: int) -> Outcomes:
    return np.zeros(episodes, dtype=bool), np.zeros(episodes), np.zeros(episodes, dtype=np.int64)


def _check_fit(policy: Policy, envs: VectorEnv, config: EvaluateConfig) -> None:
    wanted = ((policy.num_tokens, policy.channels), (policy.action_size,))
    found = (envs.single_observation_space.shape, envs.single_action_space.shape)
    if wanted != found:
        raise ValueError(
            f"{config.policy} maps {wanted[0]} to {wanted[1]}, {config.env} has {found[0]} and {found[1]}; "
            "pass the --world that the policy was trained on"
        )


def _check(config: EvaluateConfig) -> None:
    if config.env.split(":")[-1] not in gym.registry:
        known = sorted(name for name in gym.registry if name.startswith(("RLAWM-", "Robosuite-")))
        raise ValueError(f"unknown environment {config.env!r}; choose one of {', '.join(known)}")
    for name in ("episodes", "num_envs", "max_chunks", "video_episodes"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if config.seed_start < 0:
        raise ValueError(f"seed_start must not be negative, got {config.seed_start}")
    if config.video is not None and is_dream(config.env):
        raise ValueError(
            f"the video sets dream and simulator side by side, but {config.env} is a dream; use a Robosuite id"
        )
