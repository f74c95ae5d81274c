"""`rla-gym bench transfer`: does a policy that trained only in the dream get better in the simulator?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from agents.bc import BCConfig, train_bc
from agents.blind import BlindConfig, make_blind
from agents.evaluate import EvaluateConfig, command_line, describe_hardware, evaluate
from agents.ppo import PPOConfig, train_ppo
from agents.statistics import bootstrap_mean, paired_difference
from benchmarks.plots import plot_success
from benchmarks.results import Row, print_rows, today, write_rows

Method = Literal["blind", "bc", "ppo", "ppo_regression"]


@dataclass(frozen=True)
class TransferConfig:
    """Settings of the transfer benchmark.

    Attributes:
        world: bundled name, folder or hub id.
        demonstrations: demonstrations that behaviour cloning, the start of every dream training, sees.
        methods: rows of the table. ``ppo`` and ``ppo_regression`` train in the flow and in the regression world.
        training_seeds: one clone and one dream training each.
        iterations: PPO iterations in the dream.
        episodes: simulator episodes a policy, on the report seeds, the same for every policy.
        placement: ``standard`` or ``wide``.
        env: the ground truth.
        device: for policies and dream.
        runs: folder of the trained policies; a finished one is used again, an interrupted one goes on.
        out: JSON of the result rows; the picture lies beside it.
        progress: show progress bars and tables of the parts.
    """

    world: str = "lift"
    demonstrations: int = 10
    methods: tuple[Method, ...] = ("blind", "bc", "ppo", "ppo_regression")
    training_seeds: tuple[int, ...] = (0, 1, 2)
    iterations: int = 150
    episodes: int = 100
    placement: str = "standard"
    env: str = "Robosuite-Lift-v0"
    device: str = "auto"
    runs: Path = Path("runs/transfer")
    out: Path = Path("benchmarks/results/transfer.json")
    progress: bool = True


def run(config: TransferConfig) -> list[Row]:
    """Train what is missing, evaluate on the report seeds, print, write JSON and picture; returns the rows.

    Raises:
        ValueError: an unknown method, or ``bc`` is missing where a gain over it is asked for.
    """
    unknown = set(config.methods) - {"blind", "bc", "ppo", "ppo_regression"}
    if unknown:
        raise ValueError(f"unknown method {sorted(unknown)[0]!r}; choose from blind, bc, ppo, ppo_regression")
    outcomes: dict[str, np.ndarray] = {}
    dreams: dict[str, np.ndarray] = {}
    task = ""
    for method in config.methods:
        seeds = config.training_seeds[:1] if method == "blind" else config.training_seeds
        per_seed, dreamed = [], []
        for seed in seeds:
            policy = train_policy(config, method, seed)
            real = evaluate(
                EvaluateConfig(
                    policy,
                    config.env,
                    episodes=config.episodes,
                    placement=config.placement,
                    device=config.device,
                    progress=config.progress,
                )
            )
            per_seed.append(real.successes)
            task = real.row["task"]
            dream = evaluate(
                EvaluateConfig(
                    policy,
                    f"RLAWM-{task}-v0",
                    episodes=config.episodes,
                    num_envs=64,
                    device=config.device,
                    dynamics="regression" if method == "ppo_regression" else "flow",
                    progress=config.progress,
                )
            )
            dreamed.append(dream.successes)
        outcomes[method], dreams[method] = np.array(per_seed), np.array(dreamed)

    rows = _rows(config, task, outcomes, dreams)
    write_rows(config.out, rows)
    plot_success(rows, config.out.with_suffix(".png"))
    print_rows(rows, f"transfer: {config.episodes} report seeds, {config.placement} placement")
    return rows


def train_policy(config: TransferConfig, method: str, seed: int) -> Path:
    """The policy folder of a method and a training seed; trained unless it is there already."""
    demonstrations = f"{config.demonstrations}_demonstrations"
    if method == "blind":
        folder = config.runs / "blind"
        return folder if _finished(folder) else make_blind(BlindConfig(config.world, folder))
    clone = config.runs / f"bc_{demonstrations}_seed{seed}"
    if not _finished(clone):
        train_bc(
            BCConfig(config.world, clone, config.demonstrations, seed, device=config.device, progress=config.progress)
        )
    if method == "bc":
        return clone
    folder = config.runs / f"{method}_{demonstrations}_seed{seed}_{config.iterations}_iterations"
    if not _finished(folder):
        train_ppo(
            PPOConfig(
                clone,
                folder,
                dynamics="regression" if method == "ppo_regression" else "flow",
                seed=seed,
                iterations=config.iterations,
                device=config.device,
                resume=True,
                progress=config.progress,
            )
        )
    return folder


def _finished(folder: Path) -> bool:
    return (folder / "policy.safetensors").is_file() and (folder / "config.json").is_file()


def _rows(
    config: TransferConfig, task: str, outcomes: dict[str, np.ndarray], dreams: dict[str, np.ndarray]
) -> list[Row]:
    """Rows of outcomes (training seeds, episodes) in the simulator and in the dream.

    Intervals resample the initial states, each with its outcome averaged over the training seeds.
    """
    facts = (describe_hardware(), today(), command_line())
    setting = f"placement={config.placement},demonstrations={config.demonstrations}"
    rows = []

    def add(method: str, metric: str, where: str, interval: tuple[float, float, float], n: int, seeds: str) -> None:
        rows.append(Row("transfer", task, method, metric, where, *interval, n, seeds, "fraction", *facts))

    for method, successes in outcomes.items():
        seeds = config.training_seeds[: len(successes)]
        label = f"training {','.join(map(str, seeds))}; report 1000000-{1000000 + config.episodes - 1}"
        add(method, "success_rate", setting, bootstrap_mean(successes.mean(axis=0)), successes.size, label)
        add(
            method,
            "dream_success_rate",
            setting,
            bootstrap_mean(dreams[method].mean(axis=0)),
            dreams[method].size,
            label,
        )
        if method not in {"bc", "blind"} and "bc" in outcomes:
            gain = paired_difference(successes.mean(axis=0), outcomes["bc"].mean(axis=0))
            add(method, "success_gain_over_bc", setting, gain, successes.size, label)
            for seed, mine, clone in zip(seeds, successes, outcomes["bc"], strict=True):
                gain = paired_difference(mine, clone)
                add(method, "success_gain_over_bc", f"{setting},seed={seed}", gain, len(mine), f"training {seed}")
    return rows
