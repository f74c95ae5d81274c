"""The README.md of a world folder: what the world is, how it came about, how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from world_models.world_model import read_config

FIDELITY_METRICS = ("token_l1_vs_persistence", "cube_error_cm", "eef_error_cm", "gripper_error_cm")


def write_model_card(folder: Path) -> None:
    """Write ``README.md`` from what lies in a world's folder.

    ``config.json`` and ``training.json`` are needed; ``success.json`` (the detector's metrics) and ``fidelity.json``
    (rows of the fidelity benchmark) are told of where they are there.
    """
    folder = Path(folder)
    config = read_config(folder)
    facts = json.loads((folder / "training.json").read_text())
    data = facts["data"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in data["kinds"].items())
    splits = ", ".join(f"{count} {split}" for split, count in data["splits"].items())
    channels = f"projected to {config.encoder.channels} channels" if config.encoder.channels else "as they are"
    count = config.proprioception
    sensed = f", and one token of {count} proprioceptive readings and their change" if count else ""
    parts = [
        f"""# World: {config.task}

A learned simulator of the task *{config.instruction or config.task}*, made by `rla-gym train`
(Residual Latent Actions and flow matching, arXiv 2605.07079).

- **State**: tokens of the frozen timm backbone `{config.encoder.backbone}` at {config.encoder.image_size} px,
  {channels}, standardised per channel{sensed}.
- **Actions**: {", ".join(config.action_names)}, each in [-1, 1]; chunks of up to {config.chunk_length} steps at
  {config.fps} Hz.
- **Data**: {data["episodes"]} episodes, {data["frames"]} frames ({kinds}), {data["successful"]} successful; split by
  episode ({splits}). No simulator state entered any training.
- **Hardware**: {facts["hardware"]}.

| stage | iterations | minutes | validation episodes |
|---|---|---|---|
{_stages(facts["metrics"])}

`token_l1_vs_persistence` is the L1 error of predicted tokens over that of predicting no change, 8 frames ahead.
`training.json` holds every setting.
"""
    ]
    if (folder / "success.json").is_file():
        metrics = json.loads((folder / "success.json").read_text())["metrics"]
        parts.append(
            f"**Success detector**, from episode labels, on {metrics['calibrated_on']} episodes: balanced accuracy "
            f"{metrics['balanced_accuracy']:.3f} over labelled frames.{_dreamed_success(metrics)}\n"
        )
    if (folder / "fidelity.json").is_file():
        parts.append(_fidelity(json.loads((folder / "fidelity.json").read_text())))
    temporary = folder / ".README.md.tmp"
    temporary.write_text("\n".join(parts))
    temporary.replace(folder / "README.md")


def _dreamed_success(metrics: dict[str, Any]) -> str:
    """What the detector's thresholds for imagined states leave."""
    said = [
        f" Dreams of {found['episodes']} validation episodes ({name.removeprefix('dreams_')}): "
        f"{found['false_success_rate']:.0%} false, {found['missed_success_rate']:.0%} missed successes."
        for name, found in metrics.items()
        if name.startswith("dreams_")
    ]
    return "".join(said)


def _stages(metrics: dict[str, dict[str, float]]) -> str:
    rows = []
    for stage, scalars in metrics.items():
        shown = {
            key: value for key, value in scalars.items() if key not in {"seconds", "iterations", "training_petaflop"}
        }
        values = ", ".join(f"{key} {value:.3f}" for key, value in shown.items()) or "not measured"
        minutes = f"{scalars['seconds'] / 60:.1f}" if "seconds" in scalars else "-"
        rows.append(f"| {stage} | {int(scalars.get('iterations', 0))} | {minutes} | {values} |")
    return "\n".join(rows)


def _fidelity(rows: list[dict[str, Any]]) -> str:
    """Open-loop errors as a table: a line per metric and method, a column per horizon."""
    value = {(row["metric"], row["method"], row["setting"]): row["value"] for row in rows}
    settings = sorted(setting for metric, method, setting in value if (metric, method) == (FIDELITY_METRICS[0], "flow"))
    lines = [
        f"**Fidelity** on held-out report episodes (`{rows[0]['command']}`, {rows[0]['date']}):\n",
        "| metric | method | " + " | ".join(settings) + " |",
        "|---|---|" + "---|" * len(settings),
    ]
    methods = [
        name for name in ("flow", "regression", "persistence") if (FIDELITY_METRICS[0], name, settings[0]) in value
    ]
    for metric in FIDELITY_METRICS:
        for method in methods:
            cells = [f"{value[metric, method, setting]:.2f}" for setting in settings]
            lines.append(f"| {metric} | {method} | " + " | ".join(cells) + " |")
    lines.append(
        "\nWhat became of the grasp after the last chunk:\n\n| method | false lifts | missed lifts |\n|---|---|---|"
    )
    for method in methods[:-1]:
        rates = [value.get((metric, method, settings[-1])) for metric in ("false_lift_rate", "missed_lift_rate")]
        lines.append(f"| {method} | " + " | ".join("-" if rate is None else f"{rate:.0%}" for rate in rates) + " |")
    return "\n".join(lines) + "\n"
