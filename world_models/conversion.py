"""Worlds of format 5 (rla-gym 0.1) to the present format: other names, no weights that nothing uses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world_models.config import FORMAT
from world_models.data.demonstrations import Demonstrations
from world_models.dataclass_reader import read_dataclass
from world_models.encoders.features import EncoderConfig, FeatureEncoder
from world_models.files import read_json, read_tensors, save_json, save_tensors

SOURCE_FORMAT = 5
FIX = "fetch the world again, or train it anew"
RENAMED_WEIGHTS = (
    (r"^rla\.components$", "latent_projection.components"),
    (r"^flow\.stage1\.", "residual_flow.base."),
    (r"^flow\.stage2\.", "residual_flow.flow."),
    (r"^flow\.", "residual_flow."),
    (r"\.chunk_encoder\.begin\.", ".chunk_encoder.initial."),
    (r"\.chunk_encoder\.fore[a-z]+\.", ".chunk_encoder.free_change."),
    (r"\.chunk_encoder\.feel\.", ".chunk_encoder.contact_change."),
    (r"\.chunk_encoder\.look\.(project|norm)\.", r".chunk_encoder.hand_attention.embed.\1."),
    (r"\.chunk_encoder\.look\.position$", ".chunk_encoder.hand_attention.embed.position"),
    (r"\.chunk_encoder\.look\.queries$", ".chunk_encoder.hand_attention.pool.queries"),
    (r"\.chunk_encoder\.look\.", ".chunk_encoder.hand_attention."),
    (r"\.error_in\.", ".expected_error.hidden."),
    (r"\.error_out\.", ".expected_error.out."),
    (r"\.error_calibration$", ".expected_error.calibration"),
)
"""Patterns in names of weights, and what takes their place; applied in this order."""
RENAMED_DETECTOR_WEIGHTS = {"query": "pool.queries", "place": "pool.position_bias"}
RENAMED_DYNAMICS = {"flow": "residual_flow"}


def convert_world(source: Path, out: Path) -> None:
    """Write a world folder of format 5 as one of the present format, which predicts the same.

    The decoder of the latent projection and the backbone's blocks behind the last map are left out: no prediction uses
    them. Demonstrations are rounded to eight bits. The model card is not copied: it names commands of its own version.

    Args:
        source: a world's folder, complete or with an encoder alone.
        out: the new folder.

    Raises:
        FileNotFoundError: ``source`` is no world folder.
        FileExistsError: ``out`` exists.
        ValueError: ``source`` is of another format, or damaged.
    """
    source, out = Path(source), Path(out)
    path = source / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the folder of a world that rla-gym 0.1 trained")
    config: dict[str, Any] = read_json(path, fix=FIX)
    if config.get("format") != SOURCE_FORMAT:
        present = "the present format" if config.get("format") == FORMAT else "format"
        raise ValueError(f"{path} is of {present} {config.get('format')!r}; only format {SOURCE_FORMAT} is converted")
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder by --out")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(source, partial, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source} is no whole world of format {SOURCE_FORMAT} ({error!r}); {FIX}") from error
    else:
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(source: Path, partial: Path, config: dict[str, Any]) -> None:
    """The new folder under another name, from a folder and its config."""
    tensors = read_tensors(source / "model.safetensors", fix=FIX)
    parts = {name.split(".")[0] for name in tensors}
    save_tensors(partial / "model.safetensors", _weights(tensors, config["encoder"], source / "config.json"))
    save_json(partial / "config.json", _config(config, parts))
    if (source / "starts.safetensors").is_file():
        Demonstrations(**read_tensors(source / "starts.safetensors", fix=FIX)).save(partial)
    if (source / "success.json").is_file():
        detector = read_tensors(source / "success.safetensors", fix=FIX)
        renamed = {RENAMED_DETECTOR_WEIGHTS.get(name, name): tensor for name, tensor in detector.items()}
        save_tensors(partial / "success.safetensors", renamed)
        save_json(partial / "success.json", _detector(read_json(source / "success.json", fix=FIX)))
    if (source / "training.json").is_file():
        save_json(partial / "training.json", _training(read_json(source / "training.json", fix=FIX)))
    if (source / "fidelity.json").is_file():
        rows = read_json(source / "fidelity.json", list, fix=FIX)
        save_json(partial / "fidelity.json", [convert_row(row) for row in rows])


def convert_row(row: dict[str, Any]) -> dict[str, Any]:
    """A result row with today's names of dynamics; its command stays as it was run."""
    if row["method"] == "autoencoder":
        return {**row, "method": "autoencoder (0.1)"}
    method, comma, rest = row["method"].partition(",")
    setting = re.sub(r"\bdynamics=flow\b", "dynamics=residual_flow", row["setting"])
    return {**row, "method": RENAMED_DYNAMICS.get(method, method) + comma + rest, "setting": setting}


def _weights(tensors: dict[str, Tensor], encoder: dict[str, Any], path: Path) -> dict[str, Tensor]:
    config = read_dataclass(EncoderConfig, encoder, source=f"{path}: encoder", fix=FIX)
    with torch.device("meta"):
        structure = FeatureEncoder(config, load_weights=False)
    used = {f"encoder.visual.{name}" for name in structure.state_dict()}
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith(("rla.decoder.", "rla.detail_out.")):
            continue
        if name.startswith("encoder.visual.") and name not in used:
            continue
        for pattern, replacement in RENAMED_WEIGHTS:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _config(config: dict[str, Any], parts: set[str]) -> dict[str, Any]:
    flow, rla, regression = (config.pop(name) for name in ("flow", "rla", "regression"))
    dynamics: dict[str, Any] = {}
    if "flow" in parts:
        dynamics["residual_flow"] = _residual_flow(flow, rla)
    if "regression" in parts:
        dynamics["regression"] = regression
    return {**config, "format": FORMAT, "dynamics": dynamics}


def _residual_flow(flow: dict[str, Any], rla: dict[str, Any]) -> dict[str, Any]:
    sizes = {("base_depth" if name == "condition_depth" else name): value for name, value in flow.items()}
    return sizes | {name: rla[name] for name in ("latents", "latent_dim", "horizon")}


def _detector(config: dict[str, Any]) -> dict[str, Any]:
    thresholds = {RENAMED_DYNAMICS.get(name, name): value for name, value in config["dream_thresholds"].items()}
    metrics = {}
    for name, value in config["metrics"].items():
        if name.startswith("dreams_"):
            dynamics = name.removeprefix("dreams_")
            name = f"imagined_{RENAMED_DYNAMICS.get(dynamics, dynamics)}"
        metrics[name] = value
    renamed = {"imagined_thresholds" if name == "dream_thresholds" else name: value for name, value in config.items()}
    return renamed | {"imagined_thresholds": thresholds, "metrics": metrics}


def _training(facts: dict[str, Any]) -> dict[str, Any]:
    stages = {"flow": "residual_flow", "flow_errors": "residual_flow_errors"}
    metrics = {stages.get(name, name): value for name, value in facts["metrics"].items() if name != "rla"}
    settings = dict(facts["settings"])
    flow, rla = settings.pop("flow"), settings.pop("rla")
    del settings["rla_optimisation"]
    settings["residual_flow"] = _residual_flow(flow, rla)
    settings["residual_flow_optimisation"] = settings.pop("flow_optimisation")
    settings["dynamics"] = ["residual_flow", "regression"] if settings.pop("baseline") else ["residual_flow"]
    return {**facts, "metrics": metrics, "settings": settings}
