"""`rla-gym bench transfer`: does a policy that trained only in the dream get better in the simulator?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from agents.bc import BCConfig, train_bc
from agents.blind import BlindConfig, make_blind
from agents.evaluate import EvaluateConfig, command_line, describe_hardware
from agents.policy import choose_device
from agents.ppo import PPOConfig, train_ppo
from agents.statistics import paired_difference, seeds_and_states, wilson_interval
from benchmarks.outcomes import real_and_dreamed
from benchmarks.plots import plot_success
from benchmarks.results import Row, print_rows, today, write_rows
from rla_gym.ground_truth.seeds import REPORT_SEEDS
from world_models.world_model import world_folder

Method = Literal["blind", "bc", "ppo", "ppo_regression"]
METHODS: tuple[Method, ...] = ("blind", "bc", "ppo", "ppo_regression")


@dataclass(frozen=True)
class TransferConfig:
    """Settings of the transfer benchmark.

    Attributes:
        world: bundled name, folder or hub id.
        demonstrations: demonstrations whose actions are cloned (or averaged, by ``blind``). The dream starts from, and
            is rewarded by, the frames of all demonstrations that the world holds.
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
    methods: tuple[Method, ...] = METHODS
    training_seeds: tuple[int, ...] = (0, 1, 2)
    iterations: int = 100
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
        ValueError: an unknown method.
    """
    unknown = sorted(set(config.methods) - set(METHODS))
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}; choose from {', '.join(METHODS)}")
    real: dict[str, np.ndarray] = {}
    dream: dict[str, np.ndarray] = {}
    task = ""
    for method in config.methods:
        seeds = config.training_seeds[:1] if method == "blind" else config.training_seeds
        played = []
        for seed in seeds:
            policy = train_policy(config, method, seed)
            played.append(
                real_and_dreamed(
                    EvaluateConfig(
                        policy,
                        config.env,
                        episodes=config.episodes,
                        placement=config.placement,
                        dynamics="regression" if method == "ppo_regression" else "flow",
                        device=config.device,
                        progress=config.progress,
                    )
                )
            )
        real[method] = np.array([outcomes.real for outcomes in played])
        dream[method] = np.array([outcomes.dream for outcomes in played])
        task = played[0].task

    rows = _rows(config, task, real, dream)
    write_rows(config.out, rows)
    plot_success(rows, config.out.with_suffix(".png"))
    print_rows(rows, f"transfer: {config.episodes} report seeds, {config.placement} placement")
    return rows


def train_policy(config: TransferConfig, method: str, seed: int) -> Path:
    """The policy folder of a method and a training seed; trained unless it is there already.

    Folders are named by all that a policy depends on, the world's weights included.
    """
    weights = (world_folder(config.world) / "model.safetensors").read_bytes()
    runs = config.runs / f"{Path(config.world).name}-{hashlib.sha256(weights).hexdigest()[:8]}"
    name = f"{config.demonstrations}_demonstrations_seed{seed}"
    if method == "blind":
        folder = runs / f"blind_{name}"
        if not _finished(folder):
            make_blind(BlindConfig(config.world, folder, config.demonstrations, seed))
        return folder
    clone = runs / f"bc_{name}"
    if not _finished(clone):
        cloning = BCConfig(config.world, clone, config.demonstrations, seed, device=config.device)
        cloning.progress = config.progress
        train_bc(cloning)
    if method == "bc":
        return clone
    folder = runs / f"{method}_{name}_{config.iterations}_iterations"
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


def _rows(config: TransferConfig, task: str, real: dict[str, np.ndarray], dream: dict[str, np.ndarray]) -> list[Row]:
    """Rows of outcomes (training seeds, episodes) in the simulator and in the dream."""
    facts = (describe_hardware(choose_device(config.device)), today(), command_line())
    setting = f"placement={config.placement},demonstrations={config.demonstrations}"
    report = f"report {REPORT_SEEDS.start}-{REPORT_SEEDS.start + config.episodes - 1}"
    rows: list[Row] = []

    def add(method: str, metric: str, where: str, interval: tuple[float, float, float], n: int, seeds: str) -> None:
        rows.append(
            Row(
                "transfer", task, method, metric, where, *interval, n, f"training {seeds}; {report}", "fraction", *facts
            )
        )

    for method, successes in real.items():
        seeds = config.training_seeds[: len(successes)]
        label = ",".join(map(str, seeds))
        for metric, table in (("success_rate", successes), ("dream_success_rate", dream[method])):
            add(method, metric, setting, _rate(table), table.size, label)
            if len(seeds) > 1:
                for seed, outcomes in zip(seeds, table, strict=True):
                    add(method, metric, f"{setting},seed={seed}", _rate(outcomes[None]), len(outcomes), str(seed))
        if method.startswith("ppo") and "bc" in real:
            difference = successes.astype(float) - real["bc"]
            add(method, "success_gain_over_bc", setting, _gain(difference), successes.size, label)
            if len(seeds) > 1:
                for seed, row in zip(seeds, difference, strict=True):
                    add(method, "success_gain_over_bc", f"{setting},seed={seed}", _gain(row[None]), len(row), str(seed))
    return rows


def _rate(successes: np.ndarray) -> tuple[float, float, float]:
    """Success rate with its interval: Wilson's for one training seed, over seeds and states for several."""
    if len(successes) == 1:
        return float(successes.mean()), *wilson_interval(int(successes.sum()), successes.size)
    return seeds_and_states(successes)


def _gain(difference: np.ndarray) -> tuple[float, float, float]:
    """Paired difference with its interval over states, and over training seeds where there are several."""
    if len(difference) == 1:
        return paired_difference(difference[0], np.zeros_like(difference[0]))
    return seeds_and_states(difference)
