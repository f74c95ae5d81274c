"""`rla-gym bench encoders`: what can be read off the tokens of different encoders, and off what is imagined over them.

Token errors of two encoders have different units. What a probe reads off their tokens is in centimetres for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.dream_errors import dream_error_rows
from benchmarks.held_out import Views, probe_errors, training_rows
from benchmarks.plots import plot_bars
from benchmarks.probes import ProbeConfig, fit_probe
from benchmarks.results import Row, print_methods, provenance, write_rows
from benchmarks.rollout_errors import QUANTITIES
from world_models.data.episodes import EpisodeDataset
from world_models.files import beside
from world_models.io import dynamics_in, read_config, world_folder


@dataclass(frozen=True)
class EncodersConfig:
    """Settings of the comparison of encoders.

    Attributes:
        data: the dataset; probes are fitted on its training episodes and judged on its report episodes.
        worlds: names, paths or ``hf://owner/name``, one per encoder; an encoder is called by its world's folder.
        chunks: action chunks in a rollout; None for as many as an episode of the task has.
        split: which episodes are held out.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows; the picture lies beside it.
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
    """Measure, print, write JSON and picture; returns the rows.

    Raises:
        ValueError: no world is named, the data lack simulator columns, or no episode is long enough.
    """
    if not config.worlds:
        raise ValueError("no world is named; give at least one with --worlds")
    dataset = EpisodeDataset(config.data)
    cache = config.cache or config.data / "cache"
    views = Views(dataset, config.split, cache, chunks=config.chunks, probe=config.probe)
    rows: list[Row] = []
    for name in config.worlds:
        folder = world_folder(name)
        world, view = read_config(folder), views.of(folder)
        method = f"{folder.resolve().name} ({world.encoder.backbone})"
        # The picture alone: a token of proprioception says where the hand is, whatever the encoder does.
        picture = view.features[:, : view.patch_tokens]
        probe = fit_probe(*training_rows(dataset, picture, view.states), config.probe)
        read = probe_errors(dataset, config.split, probe, picture, view.states)
        facts = {"bench": "encoders", "task": world.task, "method": method, "seeds": "1 world"} | provenance()
        rows += [
            Row(metric=f"{name}_error_cm", setting="real frames", value=read[name][0], low=None, high=None,
                n=len(view.held_out.kinds), unit="cm", **facts)
            for name in QUANTITIES
        ]  # fmt: skip
        if dynamics_in(folder):
            rows += dream_error_rows(folder, view.held_out, view.probe, **facts)
    write_rows(config.out, rows)
    print_methods(rows, f"encoders on {rows[0].n} {config.split} episodes")
    plot_bars(rows, beside(config.out, ".png"))
    return rows
