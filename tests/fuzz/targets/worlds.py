"""Mutated world folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards import SuccessDetector
from rla_gym import RLAWMVectorEnv, load_encoder, load_world
from tests.conftest import add_detector, save_tiny_world
from tests.fuzz.file_mutations import UnfitError
from tests.fuzz.mutation import Mutation, Observed, Places, damage
from world_models.training.model_card import write_model_card

DYNAMICS = ("residual_flow", "regression")
FILES = {
    "config.json": 8, "model.safetensors": 5, "demonstrations.safetensors": 5, "success.json": 4,
    "success.safetensors": 2, "training.json": 1, "fidelity.json": 1,
}  # fmt: skip
"""Files of a world, and how often each is drawn."""


def build(root: Path) -> None:
    """A tiny world with everything that a finished training and ``bench fidelity`` leave beside it."""
    folder = root / "world"
    add_detector(save_tiny_world(folder, spread=0.4))
    detector = SuccessDetector.load(folder)
    detector.metrics = {"calibrated_on": 3, "balanced_accuracy": 0.9}
    for name in DYNAMICS:
        detector.imagined_thresholds[name] = detector.threshold
        detector.metrics[f"imagined_{name}"] = {
            "threshold": 0.5, "episodes": 3, "false_success_rate": 0.1, "missed_success_rate": 0.2,
        }  # fmt: skip
    detector.save(folder)
    facts = {
        "metrics": {"residual_flow": {"token_l1_vs_persistence": 0.5, "seconds": 3.0, "iterations": 12.0}},
        "data": {
            "episodes": 6, "frames": 150, "kinds": {"expert": 6}, "successful": 6,
            "splits": {"train": 4, "validation": 1, "report": 1},
        },
        "hardware": "a processor",
        "settings": {"seed": 0},
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(facts, indent=2))
    row = {"metric": "token_l1_vs_persistence", "command": "rla-gym bench fidelity", "date": "2026-01-01"}
    rows = [
        {**row, "method": method, "setting": f"chunks={count}", "value": 0.5}
        for method in (*DYNAMICS, "persistence")
        for count in (1, 6)
    ]
    (folder / "fidelity.json").write_text(json.dumps(rows, indent=2))


def draw(rng: np.random.Generator, number: int, places: Places) -> Mutation:
    """One mutation of one file; the first are those that aim at what timm and the hub would do."""
    folder = places.work / "world"
    shutil.copytree(places.root / "world", folder)
    hostile = hostile_configs(places)
    if number < len(hostile):
        what, change = list(hostile.items())[number]
        content = json.loads((folder / "config.json").read_text())
        change(content["encoder"])
        (folder / "config.json").write_text(json.dumps(content))
        return _mutation(places, "config.json", "hostile encoder", what, "")
    if rng.random() < 0.03:
        kind, what, file = _further_file(rng, folder)
        return _mutation(places, file, kind, what, "")
    names = list(FILES)
    weights = np.array([FILES[name] for name in names], float)
    file = str(rng.choice(names, p=weights / weights.sum()))
    kind, what, name = damage(
        rng, folder / file, places.elsewhere, valid=lambda place, value: another_world(file, place, value),
        skip=lambda tensor, kind: (tensor, kind) in (("first_states", "shape changed"), ("seed", "dtype changed")),
    )  # fmt: skip
    return _mutation(places, file, kind, what, name)


def hostile_configs(places: Places) -> dict[str, Any]:
    """Changes of a config's encoder that would read, write, download or run something, or never end, by name."""
    target = places.forbidden
    overlay = {"url": ["http://127.0.0.1:9/usercustomize.py", "usercustomize.py"], "custom_load": True}

    def arguments(**new: Any) -> Any:
        return lambda encoder: encoder["backbone_arguments"].update(new)

    def setting(**new: Any) -> Any:
        return lambda encoder: encoder.update(new)

    def bare(**new: Any) -> Any:
        return lambda encoder: encoder.update(backbone_arguments=new)

    return {
        "download to anywhere": arguments(pretrained=True, cache_dir=str(target), pretrained_cfg_overlay=overlay),
        "download alone": arguments(pretrained=True),
        "weights from a file": arguments(pretrained=True, pretrained_cfg_overlay={"file": str(target / "evil.pth")}),
        "weights from a file, custom": arguments(
            pretrained=True, pretrained_cfg_overlay={"file": str(target / "evil.npz"), "custom_load": True}
        ),
        "hub id in the overlay": arguments(pretrained=True, pretrained_cfg_overlay={"hf_hub_id": "owner/name"}),
        "state dict in the overlay": arguments(pretrained=True, pretrained_cfg_overlay={"state_dict": {}}),
        "pretrained_cfg": arguments(pretrained=True, pretrained_cfg={"url": "http://127.0.0.1:9/x.pth"}),
        "pretrained_cfg by tag": arguments(pretrained_cfg="augreg_in21k"),
        "checkpoint_path": arguments(checkpoint_path=str(target / "evil.pth")),
        "checkpoint_path of a device": arguments(checkpoint_path="/dev/zero"),
        "checkpoint_path relative": arguments(checkpoint_path="../forbidden/evil.pth"),
        "cache_dir": arguments(cache_dir=str(target)),
        "backbone of the hub": setting(backbone="hf-hub:timm/resnet18.a1_in1k"),
        "backbone of the hub, other spelling": setting(backbone="hf_hub:timm/resnet18.a1_in1k"),
        "backbone in a folder": setting(backbone=f"local-dir:{target}"),
        "backbone by URL": setting(backbone="https://127.0.0.1:9/vit_tiny_patch16_224"),
        "backbone by path": setting(backbone=f"{target}/vit_tiny_patch16_224"),
        "backbone with another source behind the name": setting(backbone="hf-hub:vit_tiny_patch16_224"),
        "checkpoint of the encoder": setting(checkpoint=str(target / "evil.pth"), pretrained=True),
        "pretrained and no structure": lambda encoder: (
            encoder.update(pretrained=True),
            encoder["backbone_arguments"].update(pretrained=True),
        ),
        "no end of blocks": arguments(depth=10**9),
        "many blocks": arguments(depth=100_000),
        "no end of channels": arguments(embed_dim=2**40),
        "many channels": arguments(embed_dim=2**20, num_heads=2),
        "wide MLPs": arguments(mlp_ratio=1e9),
        "many classes": arguments(num_classes=10**10),
        "a large picture": setting(image_size=10**6),
        "a large picture for timm": arguments(img_size=10**6),
        "many input channels": arguments(in_chans=10**9),
        "pixels for patches": arguments(patch_size=1, img_size=4096),
        "a scriptable model": arguments(scriptable=True),
        "a layer by its name": arguments(norm_layer="os.system"),
        "a block by its name": arguments(block_fn="builtins.exec"),
        "a weight initialisation by its name": arguments(weight_init="jax"),
        "positional traps": arguments(model_name="resnet18"),
        "features of another depth": arguments(features_only=True, out_indices=[0, 10**9]),
        "nested arguments": arguments(**{"kwargs": {"pretrained": True}}),
        "another family with downloads": lambda encoder: encoder.update(
            backbone="resnet18", backbone_arguments={"pretrained": True, "cache_dir": str(target)}, pretrained=True
        ),
        "a backbone that runs for ever": setting(backbone="vit_giant_patch14_dinov2"),
        "no arguments": bare(),
        "reg tokens": arguments(reg_tokens=10**8),
    }


def another_world(file: str, place: tuple[str | int, ...], value: Any) -> bool:
    """Whether this value makes another valid world, which no loader can tell from this one."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and float(value) == int(value) if number and np.isfinite(value) else False
    last = place[-1]
    if file == "config.json":
        if place[:1] in (("instruction",), ("task",)) and len(place) == 1:
            return isinstance(value, str)
        if place == ("fps",):
            return bool(number and 0 < value <= 1000)
        if place in (("chunk_length",), ("prediction_length",)):
            return bool(whole and 1 <= value <= 64)
        if place == ("frame_size",):
            return bool(whole and 4 <= value <= 1024)
        if place[:2] == ("action_names",) or place[0] == "action_names":
            return len(place) == 2 and isinstance(value, str)
        if last == "solver_steps":
            return bool(whole and 1 <= value <= 10_000)
        return False
    if file == "success.json":
        if last == "threshold" or place[0] == "imagined_thresholds":
            return bool(number and 0 < value < 1) or (len(place) == 3 and place[-1] == "removed")
        return place[0] == "metrics"
    return False


def _mutation(places: Places, file: str, kind: str, what: str, name: str) -> Mutation:
    folder, pristine = places.work / "world", places.root / "world"
    names = [[file], *([["world", name]] if len(name) > 3 and "." in name else [])]
    card = file in ("training.json", "fidelity.json")
    return Mutation(
        kind, f"{file}: {what}", names, lambda: observe(folder, card=card), f"world, card={card}",
        lambda: observe(pristine, card=False),
    )  # fmt: skip


def _further_file(rng: np.random.Generator, folder: Path) -> tuple[str, str, str]:
    code = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n"
    name = str(
        rng.choice(["__init__.py", "usercustomize.py", "modeling.py", ".DS_Store", "._config.json", "x.safetensors"])
    )
    if (folder / name).exists():
        raise UnfitError
    (folder / name).write_text(code)
    return "further file", name, name


def observe(folder: Path, *, card: bool) -> Observed:
    """Everything of a world that anybody uses."""
    generator = torch.Generator().manual_seed(0)
    seen: dict[str, Any] = {}
    for name in DYNAMICS:
        world = load_world(folder, dynamics=name)
        model = world.model
        states = torch.randn(2, model.num_tokens, model.channels, generator=generator)
        actions = torch.rand(2, model.chunk_length, model.action_dim, generator=generator) * 2 - 1
        noise = None if model.noise_shape is None else torch.randn(2, *model.noise_shape, generator=generator)
        prediction = model.predict(states, actions, noise)
        seen |= {f"{name}.{part}": value.numpy() for part, value in prediction._asdict().items()}
        seen[f"{name}.decoded"] = model.decode(states).numpy()
        seen[f"{name}.sizes"] = [model.chunk_length, model.prediction_length, model.image_size, model.action_dim]
        seen[f"{name}.fps"] = float(model.config.fps)
        seen[f"{name}.action_names"] = list(model.config.action_names)
    for part, tensor in vars(world.demonstrations).items():
        seen[f"demonstrations.{part}"] = None if tensor is None else tensor.float().numpy()
    pictures = torch.randint(0, 256, (2, 32, 32, 3), generator=generator, dtype=torch.uint8)
    seen["encoded"] = load_encoder(folder)(pictures).numpy()
    detector = SuccessDetector.load(folder)
    seen["probability"] = detector.probability(states).numpy()
    seen["thresholds"] = [detector.threshold, *(detector.imagined_threshold(name) for name in DYNAMICS)]
    env = RLAWMVectorEnv(2, task=None, world=str(folder), obs=("features", "rgb"), initial_states="mixed")
    try:
        seen["render_fps"] = env.metadata["render_fps"]
        observation, _ = env.reset(seed=0)
        for step in range(3):
            seen |= {f"env.{step}.{key}": value for key, value in observation.items()}
            action = np.full(env.action_space.shape, 0.25 * step, np.float32)
            observation, reward, terminated, truncated, info = env.step(action)
            seen[f"env.{step}"] = np.stack([reward, terminated, truncated, info["success"], info["uncertainty"]])
    finally:
        env.close()
    if card:
        write_model_card(folder, ("token_l1_vs_persistence",))
    return seen
