"""`rla-gym bench interventions`: does the dream predict what *other* actions would have led to?

In recorded episodes the actions can reveal the outcome: a script goes down again where its cube fell and up where it
stands. A world that reads the outcome off them is right on every held-out episode of that script, and wrong for a
policy, which goes up in any case. So actions are exchanged: an episode is replayed in the simulator up to shortly after
the gripper closed or opened, and goes on with what *another* episode did after such a moment. The dream predicts the
same. Data that cannot be replayed have no such truth; :mod:`benchmarks.exchanged_actions` says what they tell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from agents.statistics import resampled_means, wilson_interval
from benchmarks.error_ratio import error_ratio
from benchmarks.exchanged_actions import (
    Distances,
    Futures,
    distance_rows,
    distances,
    dreams,
    find_windows,
    futures,
)
from benchmarks.moments import Moment, Replay, can_be_replayed, exchanged, find_moments, replay
from benchmarks.picture_errors import sized
from benchmarks.plots import plot_bars, save_strips
from benchmarks.results import Row, print_rows, provenance, write_rows
from rewards import SuccessDetector
from rla_gym.ground_truth.env import RobosuiteEnv
from rla_gym.tasks import get_task
from world_models.base import WorldModel
from world_models.config import WorldConfig
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features, cache_frames, episode_offsets
from world_models.data_of_world import open_data
from world_models.files import beside
from world_models.io import default_dynamics, dynamics_in, load_encoder, load_model, read_config, world_folder
from world_models.open_loop import open_loop
from world_models.training.checks import check_fits

EXAMPLES = 3
"""Windows of the film strip."""


@dataclass(frozen=True)
class InterventionsConfig:
    """Settings of the benchmark of interventions.

    Attributes:
        data: any LeRobotDataset that fits the world; replayed in the simulator if `rla-gym collect` recorded it. It
            may be one that the world was not trained on, such as rollouts of the policy that is in question.
        world: bundled name, path or ``hf://owner/name``.
        split: which episodes: train, validation, report or, of a dataset that the world was not trained on, all.
        chunks: action chunks in a dream. All are exchanged; where episodes are replayed, all but the first.
        prediction_lengths: further numbers of actions after which the world predicts a state, beside its own.
        seed: of the exchange and of the flow's noise.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows; pictures lie beside it.
        progress: show a progress bar.
    """

    data: Path
    world: str = "lift"
    split: str = "report"
    chunks: int = 3
    prediction_lengths: tuple[int, ...] = ()
    seed: int = 0
    cache: Path | None = None
    out: Path = Path("benchmarks/results/interventions.json")
    progress: bool = True


@dataclass(frozen=True)
class Branches:
    """What N moments led to, under one choice of actions.

    Attributes:
        actions: ``(N, M, K, A)`` float32.
        reached: states ``(N, L, C)`` float32 after the last chunk.
        succeeded: whether the task is achieved in them ``(N,)`` bool, by the simulator.
    """

    actions: Tensor
    reached: Tensor
    succeeded: np.ndarray


def run(config: InterventionsConfig) -> list[Row]:
    """Measure, print, write JSON and pictures; returns the rows.

    Raises:
        ValueError: too few chunks, no such split, data that do not fit the world, or too few episodes; of data that can
            be replayed also another task, or fewer than two times at which the gripper changes near the cube.
        ImportError: the data can be replayed, and robosuite is not installed.
    """
    folder = world_folder(config.world)
    world = read_config(folder)
    dataset = open_data(config.data, world)
    replayed = can_be_replayed(dataset)
    least = 2 if replayed else 1
    if config.chunks < least:
        raise ValueError(f"chunks={config.chunks} leaves no actions to exchange; give {least} or more")
    return (_against_replays if replayed else _against_recordings)(config, folder, world, dataset)


def _load_models(config: InterventionsConfig, folder: Path) -> dict[tuple[str, str], WorldModel]:
    """Every dynamics of the world with every length of prediction, by its name and the end of its settings."""
    return {
        (name, "" if length is None else f",prediction_length={length}"): load_model(
            folder, name, prediction_length=length
        )
        for name in dynamics_in(folder)
        for length in (None, *config.prediction_lengths)
    }


def _against_recordings(
    config: InterventionsConfig, folder: Path, world: WorldConfig, dataset: EpisodeDataset
) -> list[Row]:
    """Of data without a simulator: dreams under other actions against recorded futures."""
    check_fits(dataset, world)
    models, length = _load_models(config, folder), world.chunk_length
    windows = find_windows(dataset, config.split, config.chunks * length, np.random.default_rng(config.seed))
    cache = config.cache or config.data / "cache"
    features = torch.from_numpy(cache_features(dataset, load_encoder(folder), cache))
    found: dict[tuple[str, str], list[Distances]] = {key: [] for key in models}
    strips: list[dict[str, np.ndarray]] = []
    frames, shown = cache_frames(dataset, cache), default_dynamics(folder)
    for recorded in futures(dataset, features, windows, chunks=config.chunks, length=length):
        for key, model in models.items():
            imagined = dreams(model, recorded, config.seed)
            found[key].append(distances(recorded, imagined))
            if key == (shown, "") and not strips:
                strips = [_strips(model, recorded, imagined, frames, k) for k in range(len(recorded.start))[:EXAMPLES]]
    facts = {"bench": "interventions", "task": world.task, "seeds": f"exchange {config.seed}"} | provenance()
    rows: list[Row] = []
    for (name, ending), parts in found.items():
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        rows += distance_rows(joined, windows.episodes, config.seed, ending, method=name, **facts)
    write_rows(config.out, rows)
    last = [row for row in rows if f"chunks={config.chunks}" in row.setting.split(",")]
    plot_bars(
        [replace(row, setting=row.setting.replace(f",chunks={config.chunks}", "")) for row in last],
        beside(config.out, ".png"),
    )
    titles = [f"episode {windows.episodes[k]}" for k in range(len(strips))]
    times = [chunk * length / dataset.fps for chunk in range(config.chunks + 1)]
    save_strips(strips, titles, times, beside(config.out, "_film_strip.png"))
    for choice, whose in (("own", "their own actions"), ("exchanged", "another's actions"), ("zero", "zero actions")):
        part = [row for row in rows if row.setting.startswith(f"actions={choice},")]
        short = [replace(row, setting=row.setting.removeprefix(f"actions={choice},")) for row in part]
        print_rows(short, f"{len(windows.frames)} windows of {config.split} episodes, dreamed under {whose}")
    return rows


def _strips(
    model: WorldModel, recorded: Futures, imagined: dict[str, Tensor], frames: np.ndarray, window: int
) -> dict[str, np.ndarray]:
    """Pictures ``(M + 1, S, S, 3)`` uint8 of one window: both recordings, and the dream under each choice."""
    own, other = (sized(frames[rows[window]], model.frame_shape).numpy() for rows in recorded.rows)
    start = recorded.start[window : window + 1]
    dreamed = {name: model.decode(torch.cat([start, states[window]])).numpy() for name, states in imagined.items()}
    return {
        "real": own, "own actions": dreamed["own"], "another's actions": dreamed["exchanged"],
        "zero actions": dreamed["zero"], "real, the other": other,
    }  # fmt: skip


def _against_replays(
    config: InterventionsConfig, folder: Path, world: WorldConfig, dataset: EpisodeDataset
) -> list[Row]:
    """Of data from `rla-gym collect`: dreams under other actions against what the simulator makes of these."""
    moments = find_moments(dataset, config.split, config.chunks * world.chunk_length)
    if dataset.columns["simulator.state"] != (get_task(world.task).state_dim,):
        raise ValueError(
            f"{config.data} was recorded of another task than that of the world {config.world}, {world.task}"
        )
    models = _load_models(config, folder)
    detector = SuccessDetector.load(folder)
    moments, replays = _replay_all(config, dataset, moments, world.task, world.chunk_length)
    features = torch.from_numpy(cache_features(dataset, load_encoder(folder), config.cache or config.data / "cache"))
    first = episode_offsets(dataset.lengths)[[moment.episode for moment in moments]] + [m.frame for m in moments]
    start = features[first].float()
    shape = (len(moments), config.chunks, world.chunk_length, -1)
    settings = {
        "own": _recorded(dataset, moments, features, shape),
        "exchanged": _replayed(next(iter(models.values())), replays, shape),
    }
    grippers = np.array([moment.gripper for moment in moments])
    facts = {"bench": "interventions", "task": world.task, "seeds": f"exchange {config.seed}"} | provenance()
    rows: list[Row] = []
    for actions, branches in settings.items():
        outputs = {("real frames", ""): (branches.reached, detector.success(branches.reached))}
        for (name, length), model in models.items():
            imagined = open_loop(model, start, branches.actions, seed=config.seed).features[:, -1]
            outputs[name, length] = imagined, detector.imagined_success(imagined, name)
        for ((method, length), (reached, success)), gripper in itertools.product(
            outputs.items(), dict.fromkeys(grippers)
        ):
            chosen = grippers == gripper
            rest = {"method": method, "setting": f"gripper {gripper},actions={actions}{length}", **facts}
            rows += _outcome_rows(success.numpy()[chosen], branches.succeeded[chosen], config.seed, rest)
            if method != "real frames":
                rows.append(_token_row(reached[chosen], branches.reached[chosen], start[chosen], config.seed, rest))
    write_rows(config.out, rows)
    plot_bars(rows, beside(config.out, ".png"))
    for gripper in dict.fromkeys(grippers):
        part = [row for row in rows if row.setting.startswith(f"gripper {gripper}")]
        count = int((grippers == gripper).sum())
        title = f"{count} moments at which the gripper {gripper}, {config.split} episodes: success"
        by_actions = [replace(row, setting=row.setting.split("actions=")[1]) for row in part]
        print_rows(by_actions, f"{title} after {config.chunks} chunks, by whose actions")
    return rows


def _replay_all(
    config: InterventionsConfig, dataset: EpisodeDataset, moments: list[Moment], task: str, chunk_length: int
) -> tuple[list[Moment], list[Replay]]:
    """Every moment with actions exchanged; those that cannot be replayed are left out."""
    others = exchanged(moments, np.random.default_rng(config.seed))
    pairs = tqdm(zip(moments, others, strict=True), "replay", len(moments), disable=not config.progress, unit="moment")
    span = config.chunks * chunk_length
    with closing(RobosuiteEnv(task, obs="rgb", chunk_length=chunk_length)) as env:
        tried = [(moment, replay(env, dataset, moment, other, chunk_length, span)) for moment, other in pairs]
    replayed = [(moment, ended) for moment, ended in tried if ended is not None]
    left_out = len(tried) - len(replayed)
    if left_out:
        print(f"left out: {left_out} of {len(tried)} moments; their replays differ from the recordings")
    if not replayed:
        raise ValueError(f"{config.data} was recorded by another MuJoCo or robosuite: no episode can be replayed")
    return [moment for moment, _ in replayed], [ended for _, ended in replayed]


def _recorded(dataset: EpisodeDataset, moments: list[Moment], features: Tensor, shape: tuple[int, ...]) -> Branches:
    """What the episodes themselves did."""
    span, offsets = shape[1] * shape[2], episode_offsets(dataset.lengths)
    actions, rows, succeeded = [], [], []
    for moment in moments:
        episode, end = dataset.episode(moment.episode), moment.frame + span
        actions.append(episode.actions[moment.frame : end])
        rows.append(int(offsets[moment.episode]) + end)
        succeeded.append(bool(episode.columns["next.success"][end - 1]))
    return Branches(torch.from_numpy(np.stack(actions)).view(shape), features[rows].float(), np.array(succeeded))


@torch.inference_mode()
def _replayed(model: WorldModel, replays: list[Replay], shape: tuple[int, ...]) -> Branches:
    """What the replays did; their last pictures ``(size, size, 3)`` and proprioception ``(R,)`` become states."""
    proprioception = None
    if model.proprioception_dim:
        proprioception = torch.from_numpy(np.stack([ended.proprioception for ended in replays]))
    return Branches(
        torch.from_numpy(np.stack([ended.actions for ended in replays])).view(shape),
        model.encode(torch.from_numpy(np.stack([ended.frame for ended in replays])), proprioception).float(),
        np.array([ended.success for ended in replays]),
    )


def _outcome_rows(predicted: np.ndarray, happened: np.ndarray, seed: int, rest: dict[str, str]) -> Iterator[Row]:
    """False and missed successes and balanced accuracy of predictions ``(n,)`` bool, where there are such cases."""
    rates, samples = [], []
    for metric, among, wrong in (
        ("false_success_rate", ~happened, predicted),
        ("missed_success_rate", happened, ~predicted),
    ):
        if among.any():
            hits = wrong[among]
            low, high = wilson_interval(int(hits.sum()), hits.size)
            yield Row(metric=metric, value=float(hits.mean()), low=low, high=high, n=hits.size, unit="fraction", **rest)
            rates.append(float(hits.mean()))
            samples.append(resampled_means(hits[None], seed=seed))
    if len(rates) == 2:
        low, high = map(float, np.quantile(1 - np.mean(samples, axis=0), [0.025, 0.975]))
        yield Row(
            metric="success_balanced_accuracy", value=1 - sum(rates) / 2, low=low, high=high, n=len(predicted),
            unit="fraction", **rest,
        )  # fmt: skip


def _token_row(imagined: Tensor, real: Tensor, start: Tensor, seed: int, rest: dict[str, str]) -> Row:
    """Error of the states after the last chunk ``(n, L, C)`` over that of no change."""
    ours, theirs = ((part - real).abs().mean(dim=(1, 2)).numpy()[None] for part in (imagined, start))
    value, samples = error_ratio(ours, theirs, seed)
    low, high = map(float, np.quantile(samples, [0.025, 0.975]))
    return Row(metric="token_l1_vs_persistence", value=value, low=low, high=high, n=ours.size, unit="1", **rest)
