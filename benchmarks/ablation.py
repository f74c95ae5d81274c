"""`rla-gym bench ablation`: what each choice of a recipe buys, from worlds that were trained with and without it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.dream_errors import dream_error_rows
from benchmarks.held_out import Views
from benchmarks.plots import plot_accuracy_against_compute, plot_bars
from benchmarks.probes import ProbeConfig
from benchmarks.results import Row, print_methods, provenance, write_rows
from world_models.data.episodes import EpisodeDataset
from world_models.files import beside
from world_models.io import world_folder
from world_models.provenance import command_line
from world_models.training.train import TrainConfig, plain_settings

PLACES = {"cache", "encoder_from", "device", "ray", "threads"}
"""Settings that say where things lie or what computes, and are no choice of a recipe."""
DYNAMICS_STAGES = ("latent_projection", "residual_flow", "regression")
"""Stages whose validation is printed."""


@dataclass(frozen=True)
class AblationConfig:
    """Settings of the ablation table.

    Attributes:
        worlds: trained worlds (names, paths or ``hf://owner/name``); the first is the recipe that the others vary.
        data: a dataset to roll the worlds out on, for errors in centimetres and lifts; None leaves these out.
        split: which of its episodes; recipes are chosen on ``validation``.
        cache: folder of the feature cache; None for ``<data>/cache``.
        out: JSON of the result rows; pictures of accuracy against compute and of the rollouts lie beside it.
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
    trainings = [_training(name) for name in config.worlds]
    methods = [_method(training, trainings[0]) for training in trainings]
    if len(set(methods)) < len(methods):
        twice = next(method for method in methods if methods.count(method) > 1)
        raise ValueError(f"two of the worlds are both {twice!r}, of the same settings and data; leave one of them out")
    views = None
    if config.data is not None:
        cache = config.cache or config.data / "cache"
        views = Views(EpisodeDataset(config.data), config.split, cache, probe=config.probe)
    rows: list[Row] = []
    for name, training, method in zip(config.worlds, trainings, methods, strict=True):
        settings = training["settings"]
        facts = {"bench": "ablation", "task": str(settings["task"]), "method": method, "seeds": str(settings["seed"])}
        facts |= provenance() | {"command": training_command(settings, name)}
        rows += _training_rows(training["metrics"], facts | {"hardware": training["hardware"]})
        if views is not None:
            folder = world_folder(name)
            view = views.of(folder)
            rows += dream_error_rows(folder, view.held_out, view.probe, **facts)
    write_rows(config.out, rows)
    rolled_out = [row for row in rows if row.setting.startswith("chunks=")]
    # A training on other data was validated on other episodes.
    comparable = {
        method for method, training in zip(methods, trainings, strict=True) if training["data"] == trainings[0]["data"]
    }
    validated = [row for row in rows if row not in rolled_out and row.method in comparable]
    print_methods([row for row in validated if row.setting in DYNAMICS_STAGES], f"validation ({command_line()})")
    if rolled_out:
        print_methods(rolled_out, f"rollouts of {config.split} episodes")
        plot_bars(rolled_out, beside(config.out, "_dreams.png"))
    plot_accuracy_against_compute(validated, beside(config.out, ".png"))
    return rows


def _training_rows(metrics: dict[str, dict[str, float]], facts: dict[str, str]) -> list[Row]:
    """What training.json says of each stage."""
    return [
        Row(metric=metric, setting=stage, value=value, low=None, high=None, n=int(scalars.get("iterations", 0)),
            unit=_unit(metric), **facts)
        for stage, scalars in metrics.items()
        for metric, value in scalars.items()
        if metric != "iterations"
    ]  # fmt: skip


def _training(name: str) -> dict[str, Any]:
    path = world_folder(name) / "training.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; train the world {name} to its end with `rla-gym train`")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _method(training: dict[str, Any], recipe: dict[str, Any]) -> str:
    """In what a training differs from the recipe's."""
    settings, of_recipe = (_defaults() | _flat(each["settings"]) for each in (training, recipe))
    varied = [f"{key} {_typed(value)}" for key, value in settings.items()
              if key not in PLACES and of_recipe.get(key) != value]  # fmt: skip
    if training["data"] != recipe["data"]:
        varied.append(f"{training['data']['episodes']} episodes")
    return ", ".join(varied) or "recipe"


def training_command(settings: dict[str, Any], out: str) -> str:
    """The command that trains a world with these settings, as training.json holds them; defaults are left out."""
    words = ["rla-gym train DATA --out", out]
    for key, value in _flat(settings).items():
        if key not in {"cache", "device"} and _defaults().get(key) != value:
            parents, dot, name = key.replace("_", "-").rpartition(".")
            if isinstance(value, bool):
                words.append(f"--{parents}{dot}{'' if value else 'no-'}{name}")
            else:
                words.append(f"--{parents}{dot}{name} {_typed(value)}")
    return " ".join(words)


def _defaults() -> dict[str, Any]:
    """The default settings, which also stand for those that an older training.json lacks."""
    return _flat(plain_settings(TrainConfig(Path(), Path())))


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
