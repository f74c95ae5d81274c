"""`rla-gym bench interventions`: does the dream know what *other* actions would have led to?

In recorded episodes the actions can tell the outcome: a script goes down again where its cube fell and up where it
stands. A world that reads the outcome off them is right on every held-out episode of that script, and lies to a policy,
which goes up in any case. So actions are exchanged: an episode is replayed in the simulator up to shortly after the
gripper closed or opened, goes on with what *another* episode did after such a moment, and the dream is asked the same.
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

from agents.evaluate import command_line, describe_hardware
from agents.statistics import resampled_means, wilson_interval
from benchmarks.moments import Moment, Replay, exchanged, find_moments, replay
from benchmarks.plots import plot_bars
from benchmarks.results import Row, print_rows, today, write_rows
from rewards import SuccessDetector
from rla_gym.ground_truth.env import RobosuiteEnv
from rla_gym.tasks import get_task
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features, episode_offsets
from world_models.open_loop import open_loop
from world_models.world_model import WorldModel, dynamics_in, load_encoder, load_model, read_config, world_folder


@dataclass(frozen=True)
class InterventionsConfig:
    """Settings of the benchmark of interventions.

    Attributes:
        data: the dataset, as `rla-gym collect` records it; it may be one that the world never saw, such as roll-outs of
            the policy that is in question.
        world: bundled name, folder or hub id.
        split: which episodes: train, validation, report or, of a dataset that the world never saw, all.
        chunks: action chunks in a dream; all but the first are exchanged.
        prediction_lengths: further numbers of actions after which the world predicts a state, beside its own.
        seed: of the exchange and of the flow's noise.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows.
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
    """Measure, print, write JSON and picture; returns the rows.

    Raises:
        ValueError: fewer than two chunks, no such split, data of another task or that `rla-gym collect` did not
            record, or in which the gripper changes near the cube less than twice.
        ImportError: robosuite is not installed.
    """
    if config.chunks < 2:
        raise ValueError(f"chunks={config.chunks} leaves no actions to exchange after the first chunk; give 2 or more")
    folder = world_folder(config.world)
    dataset, world = EpisodeDataset(config.data), read_config(folder)
    moments = find_moments(dataset, config.split, config.chunks * world.chunk_length)
    if dataset.columns["simulator.state"] != (get_task(world.task).state_dim,):
        raise ValueError(
            f"{config.data} was recorded of another task than that of the world {config.world}, {world.task}"
        )
    models = {
        (name, "" if length is None else f",prediction_length={length}"): load_model(
            folder, name, prediction_length=length
        )
        for name in dynamics_in(folder)
        for length in (None, *config.prediction_lengths)
    }
    detector = SuccessDetector.load(folder)
    moments, replays = _replay_all(config, dataset, moments, world.task, world.chunk_length)
    features = torch.from_numpy(cache_features(dataset, load_encoder(folder), config.cache or config.data / "cache"))
    first = episode_offsets(dataset.lengths)[[moment.episode for moment in moments]] + [m.frame for m in moments]
    start = features[first].float()
    shape = (len(moments), config.chunks, world.chunk_length, -1)
    settings = {
        "own": _recorded(dataset, moments, features, shape),
        "exchanged": _seen(models["flow", ""], replays, shape),
    }
    whose = np.array([moment.gripper for moment in moments])
    facts = {"hardware": describe_hardware(), "date": today(), "command": command_line()}
    rows: list[Row] = []
    for actions, branches in settings.items():
        told = {("real frames", ""): (branches.reached, detector.success(branches.reached))}
        for (name, length), model in models.items():
            imagined = open_loop(model, start, branches.actions, seed=config.seed).features[:, -1]
            told[name, length] = imagined, detector.dreamed_success(imagined, name)
        for ((method, length), (reached, success)), gripper in itertools.product(told.items(), dict.fromkeys(whose)):
            chosen = whose == gripper
            rest = {
                "bench": "interventions", "task": world.task, "method": method,
                "setting": f"gripper {gripper},actions={actions}{length}", "seeds": f"exchange {config.seed}", **facts,
            }  # fmt: skip
            rows += _outcome_rows(success.numpy()[chosen], branches.succeeded[chosen], config.seed, rest)
            if method != "real frames":
                rows.append(_token_row(reached[chosen], branches.reached[chosen], start[chosen], config.seed, rest))
    write_rows(config.out, rows)
    plot_bars(rows, config.out.with_suffix(".png"))
    for gripper in dict.fromkeys(whose):
        part = [row for row in rows if row.setting.startswith(f"gripper {gripper}")]
        title = f"{(whose == gripper).sum()} moments at which the gripper {gripper}, {config.split} episodes: success "
        shown = [replace(row, setting=row.setting.split("actions=")[1]) for row in part]
        print_rows(shown, f"{title} after {config.chunks} chunks, by whose actions")
    return rows


def _replay_all(
    config: InterventionsConfig, dataset: EpisodeDataset, moments: list[Moment], task: str, chunk_length: int
) -> tuple[list[Moment], list[Replay]]:
    """Every moment with actions exchanged; those that cannot be replayed are left out."""
    others = exchanged(moments, np.random.default_rng(config.seed))
    pairs = tqdm(zip(moments, others, strict=True), "replay", len(moments), disable=not config.progress, unit="moment")
    span = config.chunks * chunk_length
    with closing(RobosuiteEnv(task, obs="rgb", chunk_length=chunk_length)) as env:
        found = [(moment, replay(env, dataset, moment, other, chunk_length, span)) for moment, other in pairs]
    kept = [(moment, ended) for moment, ended in found if ended is not None]
    if len(kept) < len(found):
        print(f"left out: {len(found) - len(kept)} of {len(found)} moments; their replays differ from the recordings")
    if not kept:
        raise ValueError(f"{config.data} was recorded by another MuJoCo or robosuite: no episode can be replayed")
    return [moment for moment, _ in kept], [ended for _, ended in kept]


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
def _seen(model: WorldModel, replays: list[Replay], shape: tuple[int, ...]) -> Branches:
    """What the replays did."""
    sensed = torch.from_numpy(np.stack([ended.proprioception for ended in replays])) if model.readings else None
    return Branches(
        torch.from_numpy(np.stack([ended.actions for ended in replays])).view(shape),
        model.encode(torch.from_numpy(np.stack([ended.frame for ended in replays])), sensed).float(),
        np.array([ended.success for ended in replays]),
    )


def _outcome_rows(told: np.ndarray, happened: np.ndarray, seed: int, rest: dict[str, str]) -> Iterator[Row]:
    """False and missed successes and balanced accuracy of verdicts ``(n,)`` bool, where there are such cases."""
    rates, samples = [], []
    for metric, among, wrong in (
        ("false_success_rate", ~happened, told),
        ("missed_success_rate", happened, ~told),
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
            metric="success_balanced_accuracy", value=1 - sum(rates) / 2, low=low, high=high, n=len(told),
            unit="fraction", **rest,
        )  # fmt: skip


def _token_row(imagined: Tensor, real: Tensor, start: Tensor, seed: int, rest: dict[str, str]) -> Row:
    """Error of the states after the last chunk ``(n, L, C)`` over that of no change."""
    ours, theirs = ((part - real).abs().mean(dim=(1, 2)).numpy()[None] for part in (imagined, start))
    samples = resampled_means(ours, seed=seed) / resampled_means(theirs, seed=seed)
    low, high = map(float, np.quantile(samples, [0.025, 0.975]))
    value = float(ours.mean() / theirs.mean())
    return Row(metric="token_l1_vs_persistence", value=value, low=low, high=high, n=ours.size, unit="1", **rest)
