"""Mutated files of trainings that go on: stages, interrupted and finished, and caches."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.conftest import tiny_config
from tests.fuzz.file_mutations import UnfitError
from tests.fuzz.mutation import Mutation, Observed, Places, damage, damage_metadata
from tests.fuzz.tensor_mutations import read_tensors
from tests.synthetic_dataset import write_moving_square
from world_models.training.checkpoint import StageCheckpoint
from world_models.training.feature_encoder import DistillationConfig
from world_models.training.optimisation import OptimisationConfig
from world_models.training.train import TrainConfig, train

ITERATIONS = 4
INTERRUPTED = "residual_flow"


def tiny_training(data: Path, out: Path) -> TrainConfig:
    """All stages in about a second; checkpoints after every iteration."""
    config = tiny_config()
    schedule = OptimisationConfig(
        ITERATIONS, batch_size=8, warmup=2, validate_every=100, bf16=False, checkpoint_seconds=0.0
    )
    return TrainConfig(
        data, out, demonstrations=4, device="cpu", threads=1, encoder=config.encoder,
        distillation=DistillationConfig(optimisation=schedule), residual_flow=config.dynamics["residual_flow"],
        regression=config.dynamics["regression"], rgb_decoder=config.rgb_decoder, dynamics=("residual_flow",),
        residual_flow_optimisation=schedule, regression_optimisation=schedule, rgb_optimisation=schedule,
        error_optimisation=schedule, pushed_chunks=1, proprioception=False,
    )  # fmt: skip


def build(root: Path) -> None:
    """A finished training, and one that was interrupted in the middle of a stage."""
    write_moving_square(root / "finished/data", episodes=8, length=20)
    shutil.copytree(root / "finished/data", root / "interrupted/data")
    train(tiny_training(root / "finished/data", root / "finished/out"))
    save, saved = StageCheckpoint.save, []

    def interrupted(self: StageCheckpoint, *arguments: Any) -> None:
        save(self, *arguments)
        saved.append(arguments)
        if (root / f"interrupted/out/stages/{INTERRUPTED}.safetensors").is_file() and arguments[0].iteration == 2:
            raise KeyboardInterrupt

    with mock.patch.object(StageCheckpoint, "save", interrupted):
        try:
            train(tiny_training(root / "interrupted/data", root / "interrupted/out"))
        except KeyboardInterrupt:
            return
    raise AssertionError("the training was to be interrupted")


def draw(rng: np.random.Generator, number: int, places: Places) -> Mutation:
    """One mutation of a stage's file, of a cached array, or of a file of the world as far as it has come."""
    state = "interrupted" if rng.random() < 0.5 else "finished"
    pristine, folder = places.root / state, places.work / state
    shutil.copytree(pristine, folder)
    stages = sorted((folder / "out/stages").glob("*.safetensors"))
    arrays = sorted((folder / "data/cache").glob("*.npy"))
    share = rng.random()
    names: list[list[str]] = []
    if share < 0.4:
        path = folder / f"out/stages/{INTERRUPTED}.safetensors" if rng.random() < 0.5 else stages[
            rng.integers(len(stages))
        ]  # fmt: skip
        kind, what, _ = damage(rng, path, places.elsewhere, skip=lambda name, kind: "step" in name.split(".")[-1:])
    elif share < 0.65:
        path = stages[rng.integers(len(stages))]
        entry = "state" if rng.random() < 0.7 and "state" in (read_tensors(path)[1] or {}) else "identity"
        kind, what, _ = damage_metadata(
            rng, path, entry, lambda place, value: entry == "state" and same_progress(state, place, value)
        )
    elif share < 0.8:
        path = arrays[rng.integers(len(arrays))]
        kind, what = _damage_array(rng, path, places)
    elif share < 0.85:
        path = arrays[rng.integers(len(arrays))]
        kind, what = _leftover(rng, path)
    else:
        choices = ["model.safetensors", "config.json", "demonstrations.safetensors"]
        path = folder / "out" / choices[rng.integers(len(choices))]
        kind, what, _ = damage(rng, path, places.elsewhere, valid=lambda place, value: place[0] in ("task", "fps"))
        names = [["model.safetensors"], ["config.json"]]  # two files that do not fit: either may be named
    what = f"{state} {path.relative_to(folder)}: {what}"
    return Mutation(
        kind, what, [[path.name], *names], lambda: observe(folder), "training", lambda: _expected(places),
    )  # fmt: skip


def same_progress(state: str, place: tuple[str | int, ...], value: Any) -> bool:
    """Whether a stage's progress with this value is as good as the one that was written."""
    if place[0] in ("metrics", "seconds"):
        return not isinstance(value, str | list | dict) and place[-1] != "removed"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return state == "interrupted" and place == ("iteration",) and bool(number and value in range(ITERATIONS))


def _damage_array(rng: np.random.Generator, path: Path, places: Places) -> tuple[str, str]:
    if rng.random() < 0.5:
        kind, what, _ = damage(rng, path, places.elsewhere)
        return kind, what
    content = path.read_bytes()
    kind = str(rng.choice(["array cut by rows", "array header", "other dtype", "other shape"]))
    array = np.load(path)
    if kind == "array cut by rows":
        path.write_bytes(content[: len(content) - array[0].nbytes * int(rng.integers(1, 4))])
    elif kind == "array header":
        path.write_bytes(content[:6] + bytes([9]) + content[7:])
    elif kind == "other dtype":
        np.save(path, array.astype(np.float64))
    else:
        np.save(path, array[:-1])
    return kind, ""


def _leftover(rng: np.random.Generator, path: Path) -> tuple[str, str]:
    """Leave beside a missing cache what an interrupted run of any version may have left."""
    size = path.stat().st_size
    path.unlink()
    path.with_suffix(".partial").write_bytes([b"", rng.bytes(size), bytes(size)][rng.integers(3)])
    text = ["5", "-1", "10000", "x", "", "1e9", "NaN"][rng.integers(7)]
    path.with_suffix(".progress").write_text(text)
    return "leftover of a cache", f"progress {text!r}"


def _expected(places: Places) -> Observed:
    folder = places.work / "reference"
    shutil.copytree(places.root / "finished", folder)
    return observe(folder)


def observe(folder: Path) -> Observed:
    """The weights and demonstrations of the world that the training ends in."""
    config = tiny_training(folder / "data", folder / "out")
    train(replace(config))
    seen: dict[str, Any] = {}
    for file in ("model.safetensors", "demonstrations.safetensors"):
        tensors, _ = read_tensors(folder / "out" / file)
        seen |= {f"{file}: {name}": tensor.float().numpy() for name, tensor in tensors.items()}
    if not seen:
        raise UnfitError
    return seen
