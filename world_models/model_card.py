"""The README.md of a world folder: what the world is, how it came about, how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from world_models.world_model import WorldConfig


def write_model_card(folder: Path, config: WorldConfig, facts: dict[str, Any]) -> None:
    """Write ``README.md``.

    Args:
        folder: the world's folder.
        config: what the world is made of.
        facts: ``metrics`` of each stage, ``data`` counts and ``hardware``, as the training measured them.
    """
    data, metrics = facts["data"], facts["metrics"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in data["kinds"].items())
    rows = []
    for stage, scalars in metrics.items():
        shown = {key: value for key, value in scalars.items() if key not in {"seconds", "iterations"}}
        values = ", ".join(f"{key} {value:.3f}" for key, value in shown.items()) or "not measured"
        minutes = f"{scalars['seconds'] / 60:.1f}" if "seconds" in scalars else "-"
        rows.append(f"| {stage} | {int(scalars.get('iterations', 0))} | {minutes} | {values} |")
    card = f"""# World: {config.task}

A learned simulator of the task *{config.instruction or config.task}*, made by `rla-gym train`
(Residual Latent Actions and flow matching, arXiv 2605.07079).

- **State**: {config.encoder.backbone}, {config.encoder.image_size} px, tokens projected to
  {config.encoder.channels or "all"} channels, standardised per channel.
- **Actions**: {", ".join(config.action_names)}, each in [-1, 1]; chunks of up to {config.chunk_length} steps at
  {config.fps} Hz.
- **Data**: {data["episodes"]} episodes, {data["frames"]} frames ({kinds}), {data["successful"]} successful.
  Splits by episode: {data["splits"]}. No simulator state entered any training.
- **Hardware**: {facts["hardware"]}.

| stage | iterations | minutes | validation (held-out episodes) |
|---|---|---|---|
{chr(10).join(rows)}

`token_l1_vs_persistence` is the L1 error of predicted tokens over that of predicting no change, after one chunk.
`training.json` holds every setting; `rla-gym bench fidelity` measures the world on its report episodes.
"""
    temporary = Path(folder) / ".README.md.tmp"
    temporary.write_text(card)
    temporary.replace(Path(folder) / "README.md")
