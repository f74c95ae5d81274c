"""Judge a policy: success rate on fixed seeds, in the simulator or in the dream, with interval, rows and video."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Column, Table
from tqdm import tqdm

import rla_gym  # noqa: F401  registers the environments
from agents.policies.base import Policy
from agents.policies.io import load_policy
from agents.rollouts import Outcomes, RolloutConfig, is_dream, play
from agents.settings import check_at_least_one
from agents.statistics import wilson_interval
from rla_gym.tasks import dream_id, simulator_id
from world_models.devices import choose_device
from world_models.disk_space import check_file_writable
from world_models.files import beside, save_json
from world_models.io import default_dynamics
from world_models.provenance import command_line, describe_hardware, today


@dataclass
class EvaluateConfig(RolloutConfig):
    """Settings of `evaluate`."""

    out: Path | None = None
    """JSON rows to write; None: ``<policy>/evaluation/<env>-<placement or dynamics>.json``, the dynamics with
    ``prediction_length`` where that is given. Episodes go beside."""
    video: Path | None = None
    """mp4 to write: dream and simulator side by side. Simulator ids only."""
    video_of: Literal["first", "failures"] = "first"
    """Whether it shows the first episodes, or the first of those in which the policy failed."""
    video_episodes: int = 4
    """Episodes in the video, at most."""
    progress: bool = True
    """Show a progress bar and the table."""


@dataclass(frozen=True)
class Evaluation:
    """Results, episode by episode; all arrays (n,), in the order of the seeds.

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
    from a demonstration's first frame, or from the first frame of the simulator's episode i. Either way two policies
    meet the same episodes, whatever ``num_envs``.

    Raises:
        ValueError: unknown environment id, a setting out of range, or the policy does not fit the environment.
        FileNotFoundError: no such policy or world.
        OSError: ``out`` or ``video`` cannot be written.
        ImportError: the simulator is not installed; ``pip install "rla-gym[robosuite]"``.
    """
    policy = load_policy(config.policy, choose_device(config.device))
    if is_dream(config.env_of(policy)):
        # results name them
        config = replace(config, dynamics=default_dynamics(config.world_of(policy), config.dynamics))
    _check(config, policy)
    check_file_writable(_out(config, policy))
    if config.video is not None:
        check_file_writable(config.video, "--video")
    with tqdm(total=config.episodes, desc=policy.method, unit="episode", disable=not config.progress) as bar:
        outcomes = play(policy, config, _Progress(bar))
    seeds = config.seed_start + np.arange(config.episodes)
    result = Evaluation(policy.method, seeds, *outcomes, _row(config, policy, outcomes))
    _write(config, policy, result)
    if config.progress:
        print_table([result.row])
    if config.video is not None:
        _write_video(config, config.video, policy, result)
    return result


def _row(config: EvaluateConfig, policy: Policy, outcomes: Outcomes) -> dict[str, Any]:
    """The result row: success rate with its Wilson interval, and where it comes from."""
    dreams = is_dream(config.env_of(policy))
    successes, _, _ = outcomes
    low, high = wilson_interval(int(successes.sum()), config.episodes)
    setting = f"dynamics={config.dynamics}" if dreams else f"placement={config.placement}"
    if dreams and config.prediction_length:
        setting += f",prediction_length={config.prediction_length}"
    if dreams and config.initial_states == "simulator":
        setting += f",placement={config.placement}"
    return {
        "bench": "evaluate",
        "task": policy.task,
        "method": policy.method,
        "metric": "dream_success_rate" if dreams else "success_rate",
        "setting": setting,
        "value": float(successes.mean()),
        "low": low,
        "high": high,
        "n": config.episodes,
        "seeds": f"{config.seed_start}-{config.seed_start + config.episodes - 1}",
        "unit": "fraction",
        "hardware": describe_hardware(choose_device(config.device)),
        "date": today(),
        "command": command_line(),
    }


def _out(config: EvaluateConfig, policy: Policy) -> Path:
    """The file of the row."""
    env = config.env_of(policy)
    variant = str(config.dynamics) if is_dream(env) else config.placement
    if is_dream(env) and config.prediction_length:
        variant += f"-prediction_length-{config.prediction_length}"
    return config.out or config.policy / "evaluation" / f"{gym.spec(env).id}-{variant}.json"


def _write(config: EvaluateConfig, policy: Policy, result: Evaluation) -> None:
    """Write the row, and the episodes beside it."""
    out = _out(config, policy)
    columns = zip(result.seeds, result.successes, result.returns, result.control_steps, strict=True)
    episodes = [
        {"seed": int(seed), "success": bool(success), "return": float(total), "control_steps": int(steps)}
        for seed, success, total, steps in columns
    ]
    save_json(out, [result.row])
    save_json(beside(out, ".episodes.json"), episodes)


def _write_video(config: EvaluateConfig, path: Path, policy: Policy, result: Evaluation) -> None:
    """Write the comparison of dream and simulator on the first episodes, or on the first that failed."""
    seeds = result.seeds if config.video_of == "first" else result.seeds[~result.successes]
    if not len(seeds):
        print(f"no episode failed, so there is no {path}", file=sys.stderr)
        return
    from agents.video import write_comparison  # which needs PyAV

    write_comparison(
        path,
        policy,
        seeds[: config.video_episodes].tolist(),
        env=config.env_of(policy),
        world=config.world_of(policy),
        dynamics=config.dynamics,
        placement=config.placement,
        max_chunks=config.max_chunks,
        device=choose_device(config.device),
    )


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


class _Progress:
    """Counts episodes and successes into a progress bar."""

    def __init__(self, bar: tqdm) -> None:
        self._bar, self._successes = bar, 0

    def __call__(self, success: bool) -> None:
        self._successes += success
        self._bar.update()
        self._bar.set_postfix(success=f"{self._successes}/{self._bar.n}")


def _check(config: EvaluateConfig, policy: Policy) -> None:
    env, task = config.env_of(policy), policy.task
    if env not in gym.registry:
        known = sorted(name for name in gym.registry if name.startswith(("RLAWM-", "Robosuite-")))
        raise ValueError(f"unknown environment {env!r}; choose one of {', '.join(known)}")
    env_task = gym.spec(env).kwargs.get("task") or task
    if env_task != task:
        fitting = dream_id(task) if is_dream(env) else simulator_id(task)
        raise ValueError(f"{config.policy} is a policy for {task}, but {env} shows {env_task}: choose {fitting}")
    check_at_least_one(config, "episodes", "num_envs", "max_chunks", "video_episodes")
    if config.seed_start < 0:
        raise ValueError(f"seed_start must not be negative, got {config.seed_start}")
    if config.video is not None and is_dream(env):
        raise ValueError(f"the video sets dream and simulator side by side, but {env} is a dream; use a Robosuite id")
