"""Folders as rla-gym 0.1 wrote them, made from those of today: the names of that version, and what only it kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from world_models.data.demonstrations import Demonstrations
from world_models.files import save_json, save_tensors

WORLD_WEIGHTS = {
    # part of a weight's name today: the same in rla-gym 0.1; applied in this order
    "latent_projection.": "rla.",
    "residual_flow.base.": "flow.stage1.",
    "residual_flow.flow.": "flow.stage2.",
    "residual_flow.": "flow.",
    ".chunk_encoder.initial.": ".chunk_encoder.begin.",
    ".chunk_encoder.free_change.": ".chunk_encoder.fore" + "tell.",
    ".chunk_encoder.contact_change.": ".chunk_encoder.feel.",
    ".chunk_encoder.hand_attention.embed.": ".chunk_encoder.look.",
    ".chunk_encoder.hand_attention.pool.": ".chunk_encoder.look.",
    ".chunk_encoder.hand_attention.": ".chunk_encoder.look.",
    ".expected_error.hidden.": ".error_in.",
    ".expected_error.out.": ".error_out.",
    ".expected_error.calibration": ".error_calibration",
}
DETECTOR_WEIGHTS = {"pool.queries": "query", "pool.position_bias": "place"}
POLICY_WEIGHTS = {"trunk.embed.": "trunk.", "trunk.pool.": "trunk."}


def save_old_world(world: Path, out: Path) -> Path:
    """Writes a world folder of today, with its detector, as one of format 5 into a new folder."""
    config = json.loads((world / "config.json").read_text())
    dynamics = config.pop("dynamics")
    flow = dynamics["residual_flow"]
    rla = {"width": 16, "depth": 1, "mixing": "positions"}
    rla |= {name: flow.pop(name) for name in ("latents", "latent_dim", "horizon")}
    flow["condition_depth"] = flow.pop("base_depth")
    old = {"format": 5, "rla": rla, "flow": flow, "regression": dynamics["regression"]}
    save_json(out / "config.json", config | old)
    weights = _renamed(load_file(world / "model.safetensors"), WORLD_WEIGHTS)
    unused = {"rla.decoder.norm.weight": torch.ones(3), "rla.detail_out.weight": torch.ones(3)}
    save_tensors(out / "model.safetensors", weights | unused)
    demonstrations = {name: tensor for name, tensor in vars(Demonstrations.load(world)).items() if tensor is not None}
    save_tensors(out / "starts.safetensors", demonstrations)
    detector = json.loads((world / "success.json").read_text())
    thresholds = detector.pop("imagined_thresholds")
    detector["dream_thresholds"] = {_old_dynamics(name): threshold for name, threshold in thresholds.items()}
    detector["metrics"] = {
        f"dreams_{_old_dynamics(name.removeprefix('imagined_'))}" if name.startswith("imagined_") else name: value
        for name, value in detector["metrics"].items()
    }
    save_json(out / "success.json", detector)
    save_tensors(out / "success.safetensors", _renamed(load_file(world / "success.safetensors"), DETECTOR_WEIGHTS))
    return out


def save_old_policy(policy: Path, out: Path) -> Path:
    """Writes a policy folder of today as rla-gym 0.1 wrote it into a new folder."""
    config = json.loads((policy / "config.json").read_text())
    del config["format"]
    save_json(out / "config.json", config)
    save_tensors(out / "policy.safetensors", _renamed(load_file(policy / "policy.safetensors"), POLICY_WEIGHTS))
    return out


def _renamed(tensors: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    renamed = {}
    for name, tensor in tensors.items():
        for today, old in names.items():
            name = name.replace(today, old)
        renamed[name] = tensor
    assert len(renamed) == len(tensors)
    return renamed


def _old_dynamics(name: str) -> str:
    return "flow" if name == "residual_flow" else name
