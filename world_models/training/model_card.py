"""The README.md of a world folder: what the world is, how it came about, how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from world_models.config import FIX, WorldConfig
from world_models.files import read_json, save_text
from world_models.io import default_dynamics, dynamics_in, read_config


def write_model_card(folder: Path, fidelity_metrics: Sequence[str] = ()) -> None:
    """Write ``README.md`` from what lies in a world's folder.

    ``config.json`` and ``training.json`` are needed; ``success.json`` (the detector's metrics) is described where it is
    there.

    Args:
        folder: the world's.
        fidelity_metrics: names of metrics in ``fidelity.json`` (rows of the fidelity benchmark) that the card shows,
            those of every horizon first, then rates after the last chunk; none leaves fidelity out.

    Raises:
        OSError: one of these files is missing or cannot be read.
        ValueError: one of them is damaged.
    """
    folder = Path(folder)
    try:
        text = _card(folder, fidelity_metrics)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{folder}: training.json, success.json or fidelity.json lacks what a card shows ({error!r}); {FIX}"
        ) from error
    save_text(folder / "README.md", text)


def _card(folder: Path, fidelity_metrics: Sequence[str]) -> str:
    config = read_config(folder)
    facts: dict[str, Any] = read_json(folder / "training.json", fix=FIX)
    data = facts["data"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in data["kinds"].items())
    splits = ", ".join(f"{count} {split}" for split, count in data["splits"].items())
    channels = f"projected to {config.encoder.channels} channels" if config.encoder.channels else "as they are"
    count = config.proprioception
    proprioception = f", and one token of {count} proprioceptive values and their change" if count else ""
    parts = [
        f"""# World: {config.task}

A learned simulator of the task *{config.instruction or config.task}*, made by `rla-gym train`.

- **State**: tokens of the frozen timm backbone `{config.encoder.backbone}` at {config.encoder.image_size} px,
  {channels}, standardised per channel{proprioception}.
- **Dynamics**: {", ".join(f"`{name}`" for name in config.dynamics)}; `{default_dynamics(folder)}` predicts unless
  others are asked for. `score_sampler` samples what may come: a regression and a sampler around it, trained by the
  energy score. `regression` gives one answer. `residual_flow` is a regression with a flow on what it leaves; with one
  solver step it is nearly deterministic. `rla_wm` is the paper's model.
- **Actions**: {", ".join(config.action_names)}, each in [-1, 1]; chunks of up to {config.chunk_length} steps at
  {config.fps:g} Hz.{_scale(config)}
- **Data**: {data["episodes"]} episodes, {data["frames"]} frames ({kinds}), {_outcomes(config, data)}; split by
  episode ({splits}).
- **Hardware**: {facts["hardware"]}.

| stage | iterations | minutes | validation episodes |
|---|---|---|---|
{_stages(facts["metrics"])}

`token_l1_vs_persistence` is the L1 error of predicted tokens over that of predicting no change, 8 frames ahead.
`training.json` holds every setting.
"""
    ]
    if (folder / "success.json").is_file():
        detector: dict[str, Any] = read_json(folder / "success.json", fix=FIX)
        metrics = detector["metrics"]
        parts.append(
            f"**Success detector**, from {_LABELS[metrics.get('labels', 'labels')]}, on {metrics['calibrated_on']} "
            f"episodes: balanced accuracy {metrics['balanced_accuracy']:.3f} over these frames."
            f"{_imagined_success(metrics)}{_without_policy(metrics)}\n"
        )
    if fidelity_metrics:
        rows = read_json(folder / "fidelity.json", list, fix=FIX)
        parts.append(_fidelity(rows, fidelity_metrics, (*dynamics_in(folder), "persistence")))
    return "\n".join(parts)


def _outcomes(config: WorldConfig, data: dict[str, Any]) -> str:
    if config.reading.success == "goal_frames":
        return "every one taken for a demonstration, without labels"
    return f"{data['successful']} successful by the one label of each, whether its last frame is a success"


def _scale(config: WorldConfig) -> str:
    """The robot's own actions, where a world's are others."""
    scale = config.reading.action_scale
    if scale is None:
        return ""
    ranges = ", ".join(
        f"{name} {low:.4g} to {high:.4g}"
        for name, low, high in zip(config.action_names, scale.low, scale.high, strict=True)
    )
    idle = len(scale.rest) - len(scale.dimensions)
    return (
        f" In the robot's units: {ranges}; {idle} further dimensions hardly move and rest. `world.model.to_robot` and "
        "`from_robot` convert."
    )


_LABELS = {
    "labels": "episode labels",
    "goal_frames": "goal frames (the last ones of every episode against those of its first part; no label was given)",
}


def _imagined_success(metrics: dict[str, Any]) -> str:
    """What the detector's thresholds for imagined states leave."""
    sentences = [
        f" Imagined episodes from {of['episodes']} validation episodes ({name.removeprefix('imagined_')}): "
        f"{of['false_success_rate']:.0%} false, {of['missed_success_rate']:.0%} missed successes."
        for name, of in metrics.items()
        if name.startswith("imagined_")
    ]
    return "".join(sentences)


def _without_policy(metrics: dict[str, Any]) -> str:
    """What succeeds in the dream without a policy, and whether the probability of success is calibrated."""
    sentences = [
        f" Of imagined episodes ({name}), {of['random']:.0%} succeed with random actions and {of['resting']:.0%} "
        "without motion."
        for name, of in metrics.get("untrained", {}).items()
    ]
    if not metrics.get("calibrated", True):
        sentences.append(" The probability of success is not calibrated: there are too few labels of both outcomes.")
    return "".join(sentences)


def _stages(metrics: dict[str, dict[str, float]]) -> str:
    rows = []
    for stage, scalars in metrics.items():
        effort = {"seconds", "iterations", "training_petaflop"}
        values = ", ".join(f"{key} {value:.3f}" for key, value in scalars.items() if key not in effort)
        minutes = f"{scalars['seconds'] / 60:.1f}" if "seconds" in scalars else "-"
        iterations = int(scalars["iterations"]) if "iterations" in scalars else "-"
        rows.append(f"| {stage} | {iterations} | {minutes} | {values or 'not measured'} |")
    return "\n".join(rows)


def _fidelity(rows: list[dict[str, Any]], metrics: Sequence[str], methods: Sequence[str]) -> str:
    """Open-loop errors as a table: a line per metric and method, a column per horizon."""
    value = {(row["metric"], row["method"], row["setting"]): row["value"] for row in rows}
    of_first = [setting for metric, method, setting in value if (metric, method) == (metrics[0], methods[0])]
    settings = sorted(of_first, key=lambda setting: int(setting.removeprefix("chunks=")))
    lines = [
        f"**Fidelity** on held-out report episodes (`{rows[0]['command']}`, {rows[0]['date']}):\n",
        "| metric | method | " + " | ".join(settings) + " |",
        "|---|---|" + "---|" * len(settings),
    ]
    methods = [name for name in methods if (metrics[0], name, settings[0]) in value]
    outcomes = [metric for metric in metrics if (metric, methods[0], settings[0]) not in value]
    for metric in metrics:
        for method in methods if metric not in outcomes else ():
            cells = [f"{value[metric, method, setting]:.2f}" for setting in settings]
            lines.append(f"| {metric} | {method} | " + " | ".join(cells) + " |")
    if outcomes:
        lines.append("\nOutcomes after the last chunk:\n\n| method | " + " | ".join(outcomes) + " |")
        lines.append("|---|" + "---|" * len(outcomes))
    for method in methods[:-1] if outcomes else ():
        rates = [value.get((metric, method, settings[-1])) for metric in outcomes]
        lines.append(f"| {method} | " + " | ".join("-" if rate is None else f"{rate:.0%}" for rate in rates) + " |")
    return "\n".join(lines) + "\n"
