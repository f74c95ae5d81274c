"""Does a client of the environment learn in it? One criterion for all, and the rows of the table of clients."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike
from rich import box
from rich.console import Console
from rich.table import Table

import rla_gym  # noqa: F401  registers the environments
from agents.statistics import mean_over_seeds
from benchmarks.results import Row, provenance, read_rows, write_rows
from rla_gym.ground_truth.seeds import REPORT_SEEDS
from rla_gym.tasks import TASKS
from world_models.provenance import command_line

EVALUATION_SEED = REPORT_SEEDS.start
"""Dream seed of the evaluation episodes; training seeds are small numbers, so no client has trained on these."""


class ClientArgs(Protocol):
    """What the arguments of every example have in common."""

    env_id: str
    world: str
    dynamics: Any
    chunk_length: int | None
    total_timesteps: int
    seeds: tuple[int, ...]
    out: Path | None


@dataclass(frozen=True)
class Learning:
    """Returns of policies before and after training, on the same evaluation episodes.

    Attributes:
        before: (S, N) returns by training seed and episode, of the untrained policies.
        after: (S, N) returns of the trained ones.
    """

    before: np.ndarray
    after: np.ndarray

    @property
    def gain(self) -> tuple[float, float, float]:
        """Mean rise of the return, and its 95 % Student t interval over training seeds: (mean, low, high)."""
        return mean_over_seeds((self.after - self.before).mean(axis=1))

    @property
    def learned(self) -> bool:
        """Whether the return rose beyond the noise of the seeds: the interval of the gain lies above zero."""
        return self.gain[1] > 0


def evaluate(
    policy: Callable[[np.ndarray], ArrayLike], env_id: str, *, episodes: int = 64, **arguments: Any
) -> np.ndarray:
    """Undiscounted returns (N,) of a policy on N evaluation episodes, the same ones in every call.

    Args:
        policy: observations (N, ...) -> actions (N, K*A); its deterministic ones, so that what is compared
            is what was learned and not how much exploration is left.
        env_id: a registered environment.
        episodes: N, side by side.
        arguments: of the environment.
    """
    envs = gym.make_vec(env_id, num_envs=episodes, autoreset_mode=gym.vector.AutoresetMode.DISABLED, **arguments)
    try:
        observations, _ = envs.reset(seed=EVALUATION_SEED)
        returns, running = np.zeros(episodes), np.ones(episodes, bool)
        while running.any():
            actions = np.asarray(policy(observations), np.float32)
            observations, rewards, terminated, truncated, _ = envs.step(actions)
            returns += rewards * running
            running &= ~(terminated | truncated)
    finally:
        envs.close()
    return returns


def train_seeds(train: Callable[[Any, int], tuple[np.ndarray, np.ndarray]], args: ClientArgs) -> Learning:
    """Train once per seed of ``args.seeds``: ``train(args, seed)`` gives returns (N,) before and after."""
    before, after = zip(*(train(args, seed) for seed in args.seeds), strict=True)
    return Learning(np.stack(before), np.stack(after))


def report(client: str, version: str, train: Callable[[Any, int], tuple[np.ndarray, np.ndarray]], args: Any) -> None:
    """Train with every seed of ``args``, print the returns and, where ``args.out`` is given, keep the rows.

    Args:
        client: name in the rows and the table.
        version: of the client's library.
        train: see :func:`train_seeds`.
        args: the example's arguments, see :class:`ClientArgs`.
    """
    learning = train_seeds(train, args)
    table = Table(box=box.SIMPLE, title=f"{client}: return in the dream, {learning.before.shape[1]} episodes")
    for name in ("training seed", "before", "after"):
        table.add_column(name, justify="right")
    for seed, before, after in zip(args.seeds, learning.before, learning.after, strict=True):
        table.add_row(str(seed), f"{before.mean():.2f}", f"{after.mean():.2f}")
    console = Console(width=100)
    console.print(table)
    if len(args.seeds) < 2:
        console.print("Give --seeds 0 1 2 for an interval.")
        return
    mean, low, high = learning.gain
    verdict = "learned" if learning.learned else "no gain beyond the noise of the seeds"
    console.print(f"gain {mean:+.2f} [{low:+.2f}, {high:+.2f}] (95 % t interval over seeds): {verdict}")
    if args.out is not None:
        keep_rows(args.out, _rows(client, version, learning, args))
        console.print(f"rows in {args.out}")


def keep_rows(path: Path, rows: list[Row]) -> None:
    """Put a client's rows into a file in place of its old ones; those of other clients stay."""
    methods = {row.method for row in rows}
    others = [row for row in read_rows(path) if row.method not in methods] if path.is_file() else []
    write_rows(path, sorted([*others, *rows], key=lambda row: row.method))


def _rows(client: str, version: str, learning: Learning, args: ClientArgs) -> list[Row]:
    task = next((name for name in TASKS if f"-{name}-" in args.env_id), args.env_id)
    length = "" if args.chunk_length is None else f",chunk_length={args.chunk_length}"
    setting = f"version={version},env_steps={args.total_timesteps},dynamics={args.dynamics}{length}"
    values = {
        "return_before": mean_over_seeds(learning.before.mean(axis=1)),
        "return_after": mean_over_seeds(learning.after.mean(axis=1)),
        "return_gain": learning.gain,
    }
    facts = provenance() | {"command": f"python {_started_as()}{command_line().removeprefix(Path(sys.argv[0]).name)}"}
    return [
        Row(
            bench="clients",
            task=task,
            method=client,
            metric=metric,
            setting=setting,
            value=value,
            low=low,
            high=high,
            n=learning.before.size,
            seeds=f"training {' '.join(map(str, args.seeds))}; evaluation {EVALUATION_SEED}",
            unit="return",
            **facts,
        )
        for metric, (value, low, high) in values.items()
    ]


def _started_as() -> str:
    """The running script as Python was given it: ``-m`` and its module, or its path from here."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"-m {spec.name}" if spec is not None else os.path.relpath(sys.argv[0])
