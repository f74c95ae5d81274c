"""`rla-gym bench transfer`: does a policy that trained only in the dream get better in the simulator?"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from agents.bc import BCConfig, train_bc
from agents.blind import BlindConfig, make_blind
from agents.evaluate import EvaluateConfig
from agents.iql import IQLConfig, train_iql
from agents.planner import PlannerConfig, make_planner
from agents.policies.io import load_policy
from agents.ppo import PPOConfig, train_ppo
from agents.sb3_sac import SB3SACConfig, train_sb3_sac
from agents.statistics import bootstrap_mean, paired_difference, seeds_and_states, wilson_interval
from benchmarks.outcomes import Outcomes, real_and_imagined, world_digest
from benchmarks.plots import plot_success
from benchmarks.results import Row, print_rows, provenance, write_rows
from rewards import RewardName
from rla_gym.ground_truth.seeds import REPORT_SEEDS
from world_models.config import DynamicsName
from world_models.data.episodes import EpisodeDataset
from world_models.devices import choose_device
from world_models.files import beside
from world_models.io import check_prediction_length, world_folder

Method = Literal[
    "blind",
    "bc",
    "bc_videos",
    "iql",
    "cem",
    "mppi",
    "cem_regression",
    "sac",
    "ppo",
    "ppo_regression",
    "ppo_simulator",
    "ppo_simulator_equal_steps",
    "iql_ppo",
]
Interval = tuple[float, float | None, float | None]
METHODS: tuple[Method, ...] = ("blind", "bc", "ppo", "ppo_regression")
"""What is compared by default: no more than the world itself is needed for."""
SIMULATORS = 4
"""Side by side, where PPO trains in the simulator; an iteration has as many env steps as in the dream."""
IN_SIMULATOR = ("ppo_simulator", "ppo_simulator_equal_steps")
"""Methods that train in the simulator itself: what a dream spares."""
IN_THE_DREAM = ("ppo", "ppo_regression", "iql_ppo")
"""Methods that train in the dream, with a reward of its own."""
BASELINES = ("bc", "iql")
"""Methods without a dream; others are compared with them, episode by episode, where they are in the table."""
ON_ALL_EPISODES = ("iql", "iql_ppo")
"""Methods that learn from the actions of every training episode, and not of the demonstrations alone."""
PLANNERS: dict[str, Literal["cem", "mppi"]] = {"cem": "cem", "mppi": "mppi", "cem_regression": "cem"}


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Settings of the transfer benchmark.

    Attributes:
        world: bundled name, path or ``hf://owner/name``.
        demonstrations: demonstrations whose actions are cloned (or averaged, by ``blind``). Initial states and rewards
            of the dream come from the frames of all demonstrations of the world.
        clone_gradient_steps: gradient steps of a clone.
        methods: rows of the table. ``bc_videos`` also learns from the frames of ``videos`` further demonstrations.
            ``ppo`` trains in ``dynamics``, so does ``sac``, which is Stable-Baselines3's; ``cem`` and ``mppi`` plan in
            it; those that end in ``_regression`` do so in ``regression``. ``ppo_simulator`` trains in the
            simulator, for as many seconds as ``ppo`` took with the same seed, always in the standard placement and with
            the simulator's true success; ``ppo_simulator_equal_steps`` for as many control steps as ``ppo``, however
            long. ``iql`` is offline reinforcement learning on all episodes of the data, without a dream; ``iql_ppo`` is
            PPO in the dream from there instead of from the clone, rewarded by success alone.
        dynamics: of the dreams; None for the world's default.
        training_seeds: one clone and one dream training each.
        videos: further demonstrations whose frames alone ``bc_videos`` learns from.
        iterations: PPO iterations in the dream.
        reward: what PPO in the dream is rewarded by, besides success; None for each method's own.
        prediction_length: actions after which dreams predict a state, in the training of PPO and where the success in
            the dream is measured; None for the world's own.
        episodes: simulator episodes a policy, on the report seeds, the same for every policy.
        placement: ``standard`` or ``wide``.
        env: the simulator; None for that of the world's task.
        device: for policies and dream.
        data: the dataset that the world was trained on, for ``iql`` and ``iql_ppo``.
        runs: folder of the trained policies; a finished one is used again, an interrupted one goes on.
        out: JSON of the result rows; the picture lies beside it.
        progress: show progress bars and tables of the parts.
    """

    world: str = "lift"
    demonstrations: int = 10
    clone_gradient_steps: int = BCConfig.gradient_steps
    methods: tuple[Method, ...] = METHODS
    dynamics: DynamicsName | None = None
    training_seeds: tuple[int, ...] = (0, 1, 2)
    videos: int = 20
    iterations: int = 100
    reward: RewardName | None = None
    prediction_length: int | None = None
    episodes: int = 100
    placement: str = "standard"
    env: str | None = None
    device: str = "auto"
    data: Path | None = None
    runs: Path = Path("runs/transfer")
    out: Path = Path("benchmarks/results/transfer.json")
    progress: bool = True


def run(config: TransferConfig) -> list[Row]:
    """Train what is missing, evaluate on the report seeds, print, write JSON and picture; returns the rows.

    Raises:
        ValueError: an unknown method, clones of no gradient steps, ``bc_videos`` without videos, ``iql`` or ``iql_ppo``
            without data, or a prediction longer than the world's chunks.
    """
    unknown = sorted(set(config.methods) - set(get_args(Method)))
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}; choose from {', '.join(get_args(Method))}")
    if config.clone_gradient_steps < 1:
        raise ValueError(f"clone_gradient_steps must be at least 1, got {config.clone_gradient_steps}")
    if "bc_videos" in config.methods and config.videos < 1:
        raise ValueError(f"videos must be at least 1 for bc_videos, got {config.videos}")
    if config.data is None and (offline := [name for name in config.methods if name in ON_ALL_EPISODES]):
        raise ValueError(f"{offline[0]} learns from the world's dataset, and none was given; pass --data")
    if config.prediction_length is not None:
        check_prediction_length(world_folder(config.world), config.prediction_length)
    played: dict[str, list[Outcomes]] = {}
    efforts: dict[str, list[dict[str, float]]] = {}
    for method in config.methods:
        seeds = config.training_seeds[:1] if method == "blind" else config.training_seeds
        played[method], efforts[method] = [], []
        for seed in seeds:
            policy = train_policy(config, method, seed)
            efforts[method].append(training_effort(policy))
            played[method].append(real_and_imagined(_evaluation(config, method, policy)))
    rows = _rows(config, played, efforts)
    write_rows(config.out, rows)
    plot_success(rows, beside(config.out, ".png"))
    title = f"transfer: {config.episodes} report seeds, {config.placement} placement"
    pooled = [row for row in rows if "seed=" not in row.setting]
    print_rows([row for row in pooled if row.unit == "fraction"], title)
    print_rows([row for row in pooled if row.unit != "fraction"], "training effort and time to success")
    return rows


def _evaluation(config: TransferConfig, method: str, policy: Path) -> EvaluateConfig:
    return EvaluateConfig(
        policy,
        config.env,
        episodes=config.episodes,
        placement=config.placement,
        dynamics=_dynamics(config, method),
        prediction_length=config.prediction_length,
        device=config.device,
        progress=config.progress,
    )


def train_policy(config: TransferConfig, method: str, seed: int) -> Path:
    """The policy folder of a method and a training seed; trained unless it is there already.

    Folders are named by the world's weights, the data and what this benchmark lets vary. Agents have their defaults:
    where those have changed since, ask for another ``runs``.
    """
    runs = config.runs / f"{Path(config.world).name}-{world_digest(config.world)[:8]}"
    if method == "blind":
        blind = BlindConfig(
            world=config.world, out=runs / f"blind_{_data_name(config, method, seed)}",
            demonstrations=config.demonstrations, seed=seed,
        )  # fmt: skip
        return _finished(blind.out, lambda: make_blind(blind))
    start = _train_start(config, method, seed, runs)
    if method in (*BASELINES, "bc_videos"):
        return start
    variant = re.sub("[,=]", "_", _variant(config, method))
    name = f"{method}_{_data_name(config, method, seed)}"
    if method in PLANNERS:
        planner = PlannerConfig(
            policy=start,
            out=runs / f"{name}{variant}",
            method=PLANNERS[method],
            dynamics=_dynamics(config, method),
            seed=seed,
        )
        return _finished(planner.out, lambda: make_planner(planner))
    if method == "sac":
        sac = SB3SACConfig(
            policy=start, out=runs / f"{name}{variant}", dynamics=_dynamics(config, method), seed=seed,
            device=config.device, progress=config.progress,
        )  # fmt: skip
        return _finished(sac.out, lambda: train_sb3_sac(sac))
    folder = runs / f"{name}_{config.iterations}_iterations{variant}"
    return _finished(folder, lambda: train_ppo(_ppo(config, method, seed, start, folder)))


def _train_start(config: TransferConfig, method: str, seed: int, runs: Path) -> Path:
    """The policy that a method is, or goes on from: a clone, or what is learned offline from all episodes."""
    name = _data_name(config, method, seed)
    if method in ON_ALL_EPISODES:
        assert config.data is not None
        offline = IQLConfig(
            data=config.data, world=config.world, out=runs / f"iql_{name}", seed=seed, device=config.device
        )
        return _finished(offline.out, lambda: train_iql(offline))
    videos = config.videos if method == "bc_videos" else 0
    cloning = BCConfig(
        world=config.world,
        out=runs / (f"bc_{videos}_videos_{name}" if videos else f"bc_{name}"),
        demonstrations=config.demonstrations,
        videos=videos,
        gradient_steps=config.clone_gradient_steps,
        seed=seed,
        device=config.device,
        progress=config.progress,
    )
    return _finished(cloning.out, lambda: train_bc(cloning))


def _ppo(config: TransferConfig, method: str, seed: int, start: Path, folder: Path) -> PPOConfig:
    """The settings of a method that fine-tunes the policy ``start`` into ``folder``."""
    training = PPOConfig(
        policy=start,
        out=folder,
        dynamics=_dynamics(config, method),
        seed=seed,
        iterations=config.iterations,
        device=config.device,
        resume=True,
        progress=config.progress,
    )
    if method == "iql_ppo":
        # A policy that nearly always succeeds has little to learn from a clock.
        training.reward = "sparse"
    if method in IN_THE_DREAM:
        training.reward = config.reward or training.reward
        training.prediction_length = config.prediction_length
    if method in IN_SIMULATOR:
        training.train_in, training.num_envs, training.num_steps = "simulator", SIMULATORS, 256 // SIMULATORS
    if method == "ppo_simulator":
        training.iterations, training.warmup_iterations = 1_000_000, 3  # time is what ends it
        training.seconds = load_policy(train_policy(config, "ppo", seed)).facts["training"]["trained_seconds"]
    return training


def _data_name(config: TransferConfig, method: str, seed: int) -> str:
    """What a method's policy learns from, in the name of its folder."""
    if method in ON_ALL_EPISODES:
        assert config.data is not None
        return f"{EpisodeDataset(config.data).fingerprint()[:8]}_seed{seed}"
    return f"{config.demonstrations}_demonstrations_seed{seed}{re.sub('[,=]', '_', _cloning(config, method))}"


def _finished(folder: Path, train: Callable[[], object]) -> Path:
    """A policy folder, after ``train`` where it holds no finished policy."""
    if not all((folder / name).is_file() for name in ("policy.safetensors", "config.json")):
        train()
    return folder


def training_effort(policy: Path) -> dict[str, float]:
    """What a policy's own training took, as far as its folder says: seconds, and control steps of experience.

    The world's own training, and for a fine-tuned policy its clone's, come on top.
    """
    loaded = load_policy(policy)
    training, effort = loaded.facts.get("training", {}), {}
    if "trained_seconds" in training:
        effort["training_seconds"] = training["trained_seconds"]
    if "env_steps" in training:
        simulator = training["train_in"] == "simulator"
        metric = "simulator_control_steps" if simulator else "dream_control_steps"
        effort[metric] = training["env_steps"] * loaded.chunk_length
    return effort


def _cloning(config: TransferConfig, method: str) -> str:
    """How a method's clone is trained, where otherwise than by default, for settings of rows; empty without a clone."""
    steps = config.clone_gradient_steps
    cloned = method not in ("blind", *ON_ALL_EPISODES)
    return f",clone_gradient_steps={steps}" if cloned and steps != BCConfig.gradient_steps else ""


def _variant(config: TransferConfig, method: str) -> str:
    """What is set otherwise than PPO in the dream has it, for settings of rows; empty for other methods."""
    named: dict[str, Any] = {}
    if method in IN_THE_DREAM:
        named = {"reward": config.reward, "prediction_length": config.prediction_length}
    if method in (*IN_THE_DREAM, *PLANNERS, "sac") and not method.endswith("_regression"):
        named["dynamics"] = config.dynamics
    return "".join(f",{name}={value}" for name, value in named.items() if value is not None)


def _dynamics(config: TransferConfig, method: str) -> DynamicsName | None:
    """Dynamics of a method's dreams: the regression where its name says so; None for the world's default."""
    return "regression" if method.endswith("_regression") else config.dynamics


def _rows(
    config: TransferConfig, played: dict[str, list[Outcomes]], efforts: dict[str, list[dict[str, float]]]
) -> list[Row]:
    """Rows of every method: success and gain over its training seeds, and what the training took."""
    real = {method: np.array([each.real for each in outcomes]) for method, outcomes in played.items()}
    task = next(iter(played.values()))[0].task
    facts = provenance(choose_device(config.device))
    report = f"report {REPORT_SEEDS.start}-{REPORT_SEEDS.start + config.episodes - 1}"
    rows: list[Row] = []

    def add(
        method: str, metric: str, where: str, interval: Interval, n: int, seeds: str, unit: str = "fraction"
    ) -> None:
        value, low, high = interval
        all_seeds = f"training {seeds}; {report}"
        rows.append(Row("transfer", task, method, metric, where, value, low, high, n, all_seeds, unit, **facts))

    for method, successes in real.items():
        demonstrations = "all" if method in ON_ALL_EPISODES else config.demonstrations
        setting = f"placement={config.placement},demonstrations={demonstrations}"
        setting += f",videos={config.videos}" if method == "bc_videos" else ""
        setting += _cloning(config, method) + _variant(config, method)
        seeds = config.training_seeds[: len(successes)]
        label = ",".join(map(str, seeds))
        imagined = np.array([outcomes.dream for outcomes in played[method]])
        # Also policies that did not train in the dream are judged in one of this prediction length.
        in_dream = setting
        if config.prediction_length is not None and method not in IN_THE_DREAM:
            in_dream += f",prediction_length={config.prediction_length}"
        for metric, where, table in (
            ("success_rate", setting, successes), ("dream_success_rate", in_dream, imagined),
        ):  # fmt: skip
            add(method, metric, where, _rate(table), table.size, label)
            if len(seeds) > 1:
                for seed, outcomes in zip(seeds, table, strict=True):
                    add(method, metric, f"{where},seed={seed}", _rate(outcomes[None]), len(outcomes), str(seed))
        for baseline in BASELINES if method != "blind" else ():
            if baseline == method or baseline not in real:
                continue
            difference, metric = successes.astype(float) - real[baseline], f"success_gain_over_{baseline}"
            add(method, metric, setting, _gain(difference), successes.size, label)
            if len(seeds) > 1:
                for seed, row in zip(seeds, difference, strict=True):
                    add(method, metric, f"{setting},seed={seed}", _gain(row[None]), len(row), str(seed))
        steps = np.array([outcomes.control_steps for outcomes in played[method]])[successes]
        if len(steps):
            add(method, "time_to_success", setting, bootstrap_mean(steps), len(steps), label, "control steps")
        for metric in efforts[method][0]:
            spent = [effort[metric] for effort in efforts[method]]
            unit = "s" if metric.endswith("seconds") else "control steps"
            add(method, metric, setting, (float(np.mean(spent)), None, None), len(spent), label, unit)
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
