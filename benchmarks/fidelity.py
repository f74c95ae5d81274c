"""`rla-gym bench fidelity`: open-loop roll-outs against held-out episodes, in tokens and in centimetres."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agents.evaluate import command_line, describe_hardware
from agents.statistics import wilson_interval
from benchmarks.plots import plot_horizon, save_film_strip
from benchmarks.probes import ProbeConfig, fit_probe
from benchmarks.results import Row, print_rows, today, write_rows
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features, cache_frames, episode_offsets
from world_models.model_card import write_model_card
from world_models.open_loop import open_loop
from world_models.world_model import load_encoder, load_model, world_folder

QUANTITIES = {"cube": slice(0, 3), "eef": slice(3, 6), "gripper": slice(6, 7)}
COLUMNS = ("simulator.cube_position", "simulator.eef_position", "simulator.gripper_opening")
LIFTED_METRES = 0.02  # success in robosuite: the centre 4 cm above the table, and a cube at rest has it at 2 cm


@dataclass(frozen=True)
class FidelityConfig:
    """Settings of the fidelity benchmark.

    Attributes:
        data: the dataset; its report episodes are rolled out, its training episodes fit the probes.
        world: bundled name, folder or hub id.
        chunks: action chunks in a roll-out.
        split: which episodes are rolled out; ``report`` for numbers that are published.
        solver_steps: Euler steps of the flow; None for the world's own number.
        seed: of the flow's noise and of the bootstrap.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows; pictures lie beside it. Written to ``<world>/fidelity.json``, they also go into
            the world's model card.
        probe: size and schedule of the probes.
    """

    data: Path
    world: str = "lift"
    chunks: int = 6
    split: str = "report"
    solver_steps: int | None = None
    seed: int = 0
    cache: Path | None = None
    out: Path = Path("benchmarks/results/fidelity.json")
    probe: ProbeConfig = field(default_factory=ProbeConfig)


def run(config: FidelityConfig) -> list[Row]:
    """Measure, print, write JSON and pictures; returns the rows.

    Raises:
        ValueError: the data lack simulator columns, or no episode is long enough.
    """
    dataset = EpisodeDataset(config.data)
    folder = world_folder(config.world)
    encoder = load_encoder(folder)
    cache = config.cache or config.data / "cache"
    features = torch.from_numpy(cache_features(dataset, encoder, cache))
    offsets = episode_offsets(dataset.lengths)
    states = _simulator_states(dataset)
    models = {name: load_model(folder, name) for name in ("flow", "regression")}
    length = models["flow"].chunk_length
    span = config.chunks * length
    episodes = [int(i) for i in dataset.split(config.split) if dataset.lengths[i] > span]
    if not episodes:
        raise ValueError(
            f"no {config.split} episode of {config.data} is longer than {span} frames; lower --chunks or collect "
            "longer episodes"
        )

    train_rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in dataset.split("train")])
    probe = fit_probe(features[train_rows], states[train_rows], config.probe)

    first = torch.tensor([int(offsets[i]) for i in episodes])
    times = first[:, None] + torch.arange(length, span + 1, length)
    actions = torch.stack([torch.from_numpy(dataset.episode(i).actions[:span]) for i in episodes])
    actions = actions.view(len(episodes), config.chunks, length, -1)
    start, real = features[first].float(), features[times].float()
    imagined = {name: open_loop(model, start, actions, seed=config.seed, solver_steps=config.solver_steps)
                for name, model in models.items()}  # fmt: skip
    imagined["persistence"] = start[:, None].expand_as(real)

    bench = _Bench(config, models["flow"].config.task)
    bench.add_probe_rows(probe, features, states, dataset, offsets)
    lifted = (states[times[:, -1], 2] - states[first, 2]) > LIFTED_METRES
    kinds = np.array([dataset.kinds[i] for i in episodes])
    for name, prediction in imagined.items():
        bench.add_horizon_rows(name, prediction, real, start, probe, states[times])
        rise = probe(prediction[:, -1])[:, 2] - probe(start)[:, 2]
        bench.add_grasp_rows(name, rise > LIFTED_METRES, lifted, kinds)
    rise = probe(real[:, -1])[:, 2] - probe(start)[:, 2]
    bench.add_grasp_rows("real frames", rise > LIFTED_METRES, lifted, kinds)

    write_rows(config.out, bench.rows)
    if config.out == folder / "fidelity.json":
        write_model_card(folder)
    headline = [row for row in bench.rows if row.setting.startswith("chunks=") and "," not in row.setting]
    print_rows(headline, f"fidelity of {config.world} on {len(episodes)} {config.split} episodes")
    print_rows([row for row in bench.rows if row.setting == "real frames"], "probes on real frames of those episodes")
    by_kind = [replace(row, setting=row.setting.split("=")[-1]) for row in bench.rows if ",kind=" in row.setting]
    print_rows(by_kind, "grasp outcomes by kind of episode")
    plot_horizon(headline, config.out.with_suffix(".png"))
    frames = cache_frames(dataset, cache)
    shown = [k for kind in dict.fromkeys(kinds) for k in np.flatnonzero(kinds == kind)[:1]][:4]
    save_film_strip(
        [np.stack([frames[int(first[k])], *(frames[int(t)] for t in times[k])]) for k in shown],
        [models["flow"].decode(torch.cat([start[k : k + 1], imagined["flow"][k]])).numpy() for k in shown],
        [kinds[k] for k in shown],
        config.out.with_name("fidelity_film_strip.png"),
    )
    return bench.rows


class _Bench:
    """Collects the rows of one run."""

    def __init__(self, config: FidelityConfig, task: str) -> None:
        self.config, self.task = config, task
        self.rows: list[Row] = []
        self.facts = {"hardware": describe_hardware(), "date": today(), "command": command_line()}

    def add(self, method: str, metric: str, setting: str, value: float, low, high, n: int, unit: str) -> None:
        self.rows.append(
            Row(
                "fidelity",
                self.task,
                method,
                metric,
                setting,
                value,
                low,
                high,
                n,
                f"noise {self.config.seed}",
                unit,
                **self.facts,
            )
        )

    def add_probe_rows(self, probe, features: Tensor, states: Tensor, dataset: EpisodeDataset, offsets) -> None:
        """What the probe reads off real report frames: the floor under every error of a roll-out."""
        rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in dataset.split(self.config.split)])
        predicted = torch.cat([probe(batch.float()) for batch in features[rows].split(512)])
        for name, part in QUANTITIES.items():
            error = (predicted[:, part] - states[rows, part]).norm(dim=1) * 100
            self.add("encoder", f"{name}_error_cm", "real frames", float(error.mean()), None, None, len(rows), "cm")
            variance = (states[rows, part] - states[rows, part].mean(dim=0)).square().sum()
            r2 = 1 - float((predicted[:, part] - states[rows, part]).square().sum() / variance)
            self.add("encoder", f"{name}_r2", "real frames", r2, None, None, len(rows), "1")

    def add_horizon_rows(self, method: str, imagined: Tensor, real: Tensor, start: Tensor, probe, states: Tensor):
        """Token and state errors after each chunk, with bootstrap intervals over episodes."""
        generator = torch.Generator().manual_seed(self.config.seed)
        n = len(real)
        resample = torch.randint(n, (1000, n), generator=generator)
        for chunk in range(real.shape[1]):
            setting = f"chunks={chunk + 1}"
            error = (imagined[:, chunk] - real[:, chunk]).abs().mean(dim=(1, 2))
            still = (start - real[:, chunk]).abs().mean(dim=(1, 2))
            ratios = error[resample].mean(dim=1) / still[resample].mean(dim=1)
            self.add(method, "token_l1_vs_persistence", setting, float(error.mean() / still.mean()),
                     *_interval(ratios), n, "1")  # fmt: skip
            predicted = probe(imagined[:, chunk])
            for name, part in QUANTITIES.items():
                distance = (predicted[:, part] - states[:, chunk, part]).norm(dim=1) * 100
                self.add(method, f"{name}_error_cm", setting, float(distance.mean()),
                         *_interval(distance[resample].mean(dim=1)), n, "cm")  # fmt: skip
            if n > 1:
                spread = float(imagined[:, chunk].std(dim=0).mean() / real[:, chunk].std(dim=0).mean())
                self.add(method, "feature_spread_ratio", setting, spread, None, None, n, "1")

    def add_grasp_rows(self, method: str, dreamed: Tensor, lifted: Tensor, kinds: np.ndarray) -> None:
        """Is the cube lifted at the end? Overall and per kind of episode."""
        setting = f"chunks={self.config.chunks}"
        for kind in ("", *sorted(set(kinds))):
            chosen = torch.from_numpy(kinds == kind) if kind else torch.ones(len(kinds), dtype=torch.bool)
            rates = {}
            for metric, outcome, wrong in (
                ("false_lift_rate", ~lifted, dreamed),
                ("missed_lift_rate", lifted, ~dreamed),
            ):
                among = chosen & outcome
                n, hits = int(among.sum()), int((among & wrong).sum())
                if n:
                    rates[metric] = hits / n
                    label = f"{setting},kind={kind}" if kind else setting
                    self.add(method, metric, label, hits / n, *wilson_interval(hits, n), n, "fraction")
            if not kind and len(rates) == 2:
                self.add(method, "grasp_balanced_accuracy", setting, 1 - sum(rates.values()) / 2, None, None,
                         len(kinds), "fraction")  # fmt: skip


def _interval(samples: Tensor) -> tuple[float, float]:
    return float(samples.quantile(0.025)), float(samples.quantile(0.975))


def _simulator_states(dataset: EpisodeDataset) -> Tensor:
    """Cube xyz, end-effector xyz and gripper opening of every frame, ``(F, 7)`` in metres."""
    parts = []
    for index in range(len(dataset)):
        columns = dataset.episode(index).columns
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise ValueError(
                f"{dataset.root} has no column {missing[0]}; fidelity in centimetres needs data from `rla-gym collect`"
            )
        parts.append(np.concatenate([columns[name].reshape(len(columns[name]), -1) for name in COLUMNS], axis=1))
    return torch.from_numpy(np.concatenate(parts)).float()
