"""Judge a policy: success rate on fixed seeds, in the simulator or in the dream, with interval, rows and video."""

from __future__ import annotations

import platform
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Column, Table
from tqdm import tqdm

import rla_gym  # noqa: F401  registers the environments
from agents.policy import load_policy
from agents.rollouts import is_dream, play
from agents.statistics import wilson_interval
from rla_gym.ground_truth.seeds import REPORT_SEEDS
from rla_gym.tasks import dream_id, simulator_id
from world_models.checkpoint import save_json
from world_models.processes import choose_device


@dataclass
class EvaluateConfig:
    """Settings of `evaluate`."""

    policy: Path
    """Policy folder."""
    env: str | None = None
    """Environment id: the simulator, or a dream (``RLAWM-Lift-v0``), where success is what the dream believes; None
    takes the simulator of the policy's task."""
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
    prediction_length: int | None = None
    """Actions after which a dream predicts a state; None takes the world's."""
    max_chunks: int | None = None
    """Chunks per episode; None takes the task's."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``, for encoder, dream and policy."""
    ray: bool = False
    """Play on a Ray cluster: that of ``RAY_ADDRESS``, else one on this machine. Its machines need policy and world at
    the same place; every worker has a simulator, or ``num_envs`` dreams, of its own."""
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
    device = choose_device(config.device)
    policy = load_policy(config.policy, device)
    task = str(policy.facts.get("task", "Lift"))
    env = (config.env or simulator_id(task)).split(":")[-1]
    _check(config, env, task)
    world = config.world or str(policy.facts.get("world", "lift"))
    dreams = is_dream(env)
    with tqdm(total=config.episodes, desc=policy.method, unit="episode", disable=not config.progress) as bar:
        progress = _Progress(bar)
        successes, returns, control_steps = play(policy, config, env, world, progress)

    low, high = wilson_interval(int(successes.sum()), config.episodes)
    setting = f"dynamics={config.dynamics}" if dreams else f"placement={config.placement}"
    if dreams and config.prediction_length:
        setting += f",prediction_length={config.prediction_length}"
    if dreams and config.starts == "simulator":
        setting += f",placement={config.placement}"
    row = {
        "bench": "evaluate",
        "task": task,
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
    if dreams and config.prediction_length:
        variant += f"-parts-of-{config.prediction_length}"
    out = config.out or config.policy / "evaluation" / f"{gym.spec(env).id}-{variant}.json"
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
    shown = result.seeds if config.video_of == "first" else result.seeds[~result.successes]
    if config.video is not None and not len(shown):
        print(f"no episode failed, so there is no {config.video}", file=sys.stderr)
    elif config.video is not None:
        from agents.video import write_comparison

        write_comparison(
            config.video,
            policy,
            shown[: config.video_episodes].tolist(),
            env=env,
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


def _check(config: EvaluateConfig, env: str, task: str) -> None:
    if env not in gym.registry:
        known = sorted(name for name in gym.registry if name.startswith(("RLAWM-", "Robosuite-")))
        raise ValueError(f"unknown environment {env!r}; choose one of {', '.join(known)}")
    shown = gym.spec(env).kwargs.get("task") or task
    if shown != task:
        fitting = dream_id(task) if is_dream(env) else simulator_id(task)
        raise ValueError(f"{config.policy} is a policy for {task}, but {env} shows {shown}: choose {fitting}")
    for name in ("episodes", "num_envs", "max_chunks", "video_episodes"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if config.seed_start < 0:
        raise ValueError(f"seed_start must not be negative, got {config.seed_start}")
    if config.video is not None and is_dream(env):
        raise ValueError(f"the video sets dream and simulator side by side, but {env} is a dream; use a Robosuite id")
