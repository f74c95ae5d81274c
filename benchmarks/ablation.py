"""`rla-gym bench ablation`: what each choice of a recipe buys, from worlds that were trained with and without it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.evaluate import command_line, describe_hardware
from benchmarks.dream_errors import dream_error_rows
from benchmarks.held_out import Views
from benchmarks.plots import plot_accuracy_against_compute
from benchmarks.probes import ProbeConfig
from benchmarks.results import Row, print_rows, today, write_rows
from world_models.data.episodes import EpisodeDataset
from world_models.world_model import world_folder

PLACES = {"out", "cache", "encoder_from", "device", "threads"}
"""Settings that say where things lie, and change no result."""


@dataclass(frozen=True)
class AblationConfig:
    """Settings of the ablation table.

    Attributes:
        worlds: trained worlds (bundled names, folders or hub ids); the first is the recipe that the others vary.
        data: a dataset to roll the flows out on, for errors in centimetres and lifts; None leaves these out.
        split: which of its episodes; recipes are chosen on ``validation``.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows; the picture lies beside it.
        probe: size and schedule of the probes, which are fitted on the training episodes.
    """

    worlds: tuple[str, ...]
    data: Path | None = None
    split: str = "validation"
    cache: Path | None = None
    out: Path = Path("benchmarks/results/ablation.json")
    probe: ProbeConfig = field(default_factory=ProbeConfig)


def run(config: AblationConfig) -> list[Row]:
    """Compare, print, write JSON and picture; returns the rows.

    Raises:
        ValueError: fewer than two worlds, one without training.json, or data that lack simulator columns or long
            enough episodes.
    """
    if len(config.worlds) < 2:
        raise ValueError("an ablation compares worlds; name the recipe's and at least one that varies it")
    facts = [_training(name) for name in config.worlds]
    recipe = _flat(facts[0]["settings"])
    views = None
    if config.data is not None:
        cache = config.cache or config.data / "cache"
        views = Views(EpisodeDataset(config.data), config.split, cache, probe=config.probe)
    rows: list[Row] = []
    for name, training in zip(config.worlds, facts, strict=True):
        settings = _flat(training["settings"])
        varied = {key: value for key, value in settings.items() if recipe.get(key) != value}
        method = ", ".join(f"{key} {value}" for key, value in varied.items()) or "recipe"
        arguments = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in varied.items())
        command = f"rla-gym train DATA --out {name} {arguments}".strip()
        for stage, scalars in training["metrics"].items():
            for metric, value in scalars.items():
                if metric != "iterations":
                    rows.append(
                        Row("ablation", str(settings["task"]), method, metric, stage, value, None, None,
                            int(scalars.get("iterations", 0)), str(settings["seed"]), _unit(metric),
                            training["hardware"], today(), command)
                    )  # fmt: skip
        if views is not None:
            folder = world_folder(name)
            view = views.of(folder)
            rows += dream_error_rows(
                folder, view.held_out, view.probe, bench="ablation", task=str(settings["task"]), method=method,
                seeds=str(settings["seed"]), hardware=describe_hardware(), date=today(), command=command,
            )  # fmt: skip
    write_rows(config.out, rows)
    shown = [row for row in rows if row.setting in ("rla", "flow", "regression") and row.metric != "seconds"]
    print_rows(shown, f"ablation ({command_line()})")
    dreamed = [row for row in rows if row.setting.startswith("chunks=")]
    if dreamed:
        print_rows(dreamed, f"dreams of {config.split} episodes")
    plot_accuracy_against_compute(rows, config.out.with_suffix(".png"))
    return rows


def _training(name: str) -> dict[str, Any]:
    path = world_folder(name) / "training.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; train the world {name} to its end with `rla-gym train`")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if prefix or key not in PLACES:
            flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _unit(metric: str) -> str:
    return {"seconds": "s", "training_petaflop": "1e15 FLOP"}.get(metric, "1")
