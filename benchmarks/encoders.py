"""`rla-gym bench encoders`: what different encoders see, and how far the dreams over them hold, in centimetres.

Token errors of two encoders have different units; what a probe reads off their tokens has not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from agents.evaluate import command_line, describe_hardware
from benchmarks.dream_errors import dream_error_rows
from benchmarks.held_out import held_out_episodes, probe_floor, training_rows
from benchmarks.probes import ProbeConfig, fit_probe
from benchmarks.results import Row, print_rows, today, write_rows
from benchmarks.rollout_errors import QUANTITIES, simulator_states
from rla_gym.tasks import episode_chunks
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import cache_features
from world_models.world_model import dynamics_in, load_encoder, read_config, world_folder


@dataclass(frozen=True)
class EncodersConfig:
    """Settings of the comparison of encoders.

    Attributes:
        data: the dataset; probes are fitted on its training episodes and judged on its report episodes.
        worlds: bundled names, folders or hub ids, one per encoder; an encoder is called by its world's folder.
        chunks: action chunks in a roll-out of the flow; None for as many as an episode of the task has.
        split: which episodes are held out.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows.
        probe: size and schedule of the probes.
    """

    data: Path
    worlds: tuple[str, ...]
    chunks: int | None = None
    split: str = "report"
    cache: Path | None = None
    out: Path = Path("benchmarks/results/encoders.json")
    probe: ProbeConfig = field(default_factory=ProbeConfig)


def run(config: EncodersConfig) -> list[Row]:
    """Measure, print, write JSON; returns the rows.

    Raises:
        ValueError: no world is named, the data lack simulator columns, or no episode is long enough.
    """
    if not config.worlds:
        raise ValueError("no world is named; give at least one with --worlds")
    dataset = EpisodeDataset(config.data)
    states = simulator_states(dataset)
    rows: list[Row] = []
    for name in config.worlds:
        folder = world_folder(name)
        world, encoder = read_config(folder), load_encoder(folder)
        features = torch.from_numpy(cache_features(dataset, encoder, config.cache or config.data / "cache"))
        chunks = config.chunks or episode_chunks(world.task)
        held_out = held_out_episodes(dataset, config.split, features, states, chunks=chunks, length=world.chunk_length)
        method = f"{folder.resolve().name} ({world.encoder.backbone})"
        # The picture alone: a token of proprioception would tell where the hand is, whatever the encoder sees.
        picture = features[:, : encoder.patch_tokens]
        floor = probe_floor(
            dataset, config.split, fit_probe(*training_rows(dataset, picture, states), config.probe), picture, states
        )
        facts = {"bench": "encoders", "task": world.task, "method": method, "seeds": "1 world"}
        facts |= {"hardware": describe_hardware(), "date": today(), "command": command_line()}
        rows += [
            Row(metric=f"{name}_error_cm", setting="real frames", value=floor[name][0], low=None, high=None,
                n=len(held_out.kinds), unit="cm", **facts)
            for name in QUANTITIES
        ]  # fmt: skip
        if "flow" in dynamics_in(folder):
            probe = fit_probe(*training_rows(dataset, features, states), config.probe)
            rows += dream_error_rows(folder, held_out, probe, **facts)
    write_rows(config.out, rows)
    print_rows(rows, f"encoders on {rows[0].n} {config.split} episodes")
    return rows
