"""`rla-gym bench ablation`: what each choice of a recipe buys, from worlds that were trained with and without it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.evaluate import command_line, describe_hardware
from benchmarks.dream_errors import dream_error_rows
from benchmarks.held_out import Views
from benchmarks.plots import plot_accuracy_against_compute, plot_bars
from benchmarks.probes import ProbeConfig
from benchmarks.results import Row, print_methods, today, write_rows
from world_models.data.episodes import EpisodeDataset
from world_models.train import TrainConfig, plain_settings
from world_models.world_model import world_folder

PLACES = {"cache", "encoder_from", "device", "ray", "threads"}
"""Settings that say where things lie or what computes, and are no choice of a recipe."""


@dataclass(frozen=True)
class AblationConfig:
    """Settings of the ablation table.

    Attributes:
        worlds: trained worlds (bundled names, folders or hub ids); the first is the recipe that the others vary.
        data: a dataset to roll the flows out on, for errors in centimetres and lifts; None leaves these out.
        split: which of its episodes; recipes are chosen on ``validation``.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows; pictures of accuracy against compute and of the dreams lie beside it.
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
        ValueError: fewer than two worlds, one without training.json, two of the same settings, or data that lack
            simulator columns or long enough episodes.
    """
    if len(config.worlds) < 2:
        raise ValueError("an ablation compares worlds; name the recipe's and at least one that varies it")
    facts = [_training(name) for name in config.worlds]
    methods = [_method(training, facts[0]) for training in facts]
    if len(set(methods)) < len(methods):
        twice = next(method for method in methods if methods.count(method) > 1)
        raise ValueError(f"two of the worlds are both {twice!r}, of the same settings and data; leave one of them out")
    views = None
    if config.data is not None:
        cache = config.cache or config.data / "cache"
        views = Views(EpisodeDataset(config.data), config.split, cache, probe=config.probe)
    rows: list[Row] = []
    for name, training, method in zip(config.worlds, facts, methods, strict=True):
        settings = training["settings"]
        command = training_command(settings, name)
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
    dreamed = [row for row in rows if row.setting.startswith("chunks=")]
    # A training on other data was validated on other episodes.
    alike = {method for method, training in zip(methods, facts, strict=True) if training["data"] == facts[0]["data"]}
    validated = [row for row in rows if row not in dreamed and row.method in alike]
    shown = [row for row in validated if row.setting in ("rla", "flow", "regression")]
    print_methods(shown, f"validation ({command_line()})")
    if dreamed:
        print_methods(dreamed, f"dreams of {config.split} episodes")
        plot_bars(dreamed, config.out.with_name(f"{config.out.stem}_dreams.png"))
    plot_accuracy_against_compute(validated, config.out.with_suffix(".png"))
    return rows


def _training(name: str) -> dict[str, Any]:
    path = world_folder(name) / "training.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; train the world {name} to its end with `rla-gym train`")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _method(training: dict[str, Any], recipe: dict[str, Any]) -> str:
    """In what a training differs from the recipe's."""
    own, others = _flat(training["settings"]), _flat(recipe["settings"])
    varied = [f"{key} {value}" for key, value in own.items() if key not in PLACES and others.get(key) != value]
    if training["data"] != recipe["data"]:
        varied.append(f"{training['data']['episodes']} episodes")
    return ", ".join(varied) or "recipe"


def training_command(settings: dict[str, Any], out: str) -> str:
    """The command that trains a world with these settings, as training.json holds them; defaults are left out."""
    defaults = _flat(plain_settings(TrainConfig(Path(), Path())))
    words = ["rla-gym train DATA --out", out]
    for key, value in _flat(settings).items():
        if key not in {"cache", "device"} and defaults.get(key) != value:
            parents, dot, name = key.replace("_", "-").rpartition(".")
            if isinstance(value, bool):
                words.append(f"--{parents}{dot}{'' if value else 'no-'}{name}")
            else:
                words.append(f"--{parents}{dot}{name} {value}")
    return " ".join(words)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings with dotted names; a backbone's arguments are one of them, as they are typed."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "backbone_arguments":
            flat[prefix + key] = " ".join(f"{name} {_typed(argument)}" for name, argument in value.items())
        elif isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _typed(argument: Any) -> str:
    return " ".join(map(str, argument)) if isinstance(argument, list | tuple) else str(argument)


def _unit(metric: str) -> str:
    return {"seconds": "s", "training_petaflop": "1e15 FLOP"}.get(metric, "1")
