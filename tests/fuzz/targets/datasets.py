"""Mutated datasets in the LeRobotDataset v3.0 layout."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.file_mutations import UnfitError
from tests.fuzz.mutation import Mutation, Observed, Places, damage
from tests.fuzz.targets.trainings import tiny_training
from tests.fuzz.tensor_mutations import read_tensors
from tests.synthetic_dataset import write_moving_square
from world_models.data.episodes import EpisodeDataset
from world_models.training.train import train

ROW_COLUMNS = ("action", "observation.state", "next.success", "timestamp", "episode_index", "index", "frame_index")
EPISODE_COLUMNS = (
    "episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index",
    "videos/observation.images.front/chunk_index", "videos/observation.images.front/file_index",
    "videos/observation.images.front/from_timestamp", "videos/observation.images.front/to_timestamp", "success",
    "split", "kind", "seed", "tasks",
)  # fmt: skip
SHARES = {
    "meta/info.json": 8,
    "meta/episodes": 6,
    "data": 9,
    "videos": 6,
    "meta/tasks.parquet": 1,
    "meta/stats.json": 1,
}
"""Parts of a dataset, and how often each is drawn."""


def build(root: Path) -> None:
    """Eight episodes of a moving square, 32 px."""
    write_moving_square(root / "dataset", episodes=8, length=20)


def draw(rng: np.random.Generator, number: int, places: Places) -> Mutation:
    """One mutation of one file; what a dataset of others may hold besides, now and then."""
    folder, pristine = places.work / "dataset", places.root / "dataset"
    shutil.copytree(pristine, folder)
    if rng.random() < 0.05:
        return _further(rng, places)
    weights = np.array(list(SHARES.values()), float)
    part = str(rng.choice(list(SHARES), p=weights / weights.sum()))
    files = [folder / part] if "." in part else sorted(path for path in (folder / part).rglob("*") if path.is_file())
    path = files[rng.integers(len(files))]
    columns = EPISODE_COLUMNS if part == "meta/episodes" else ROW_COLUMNS
    kind, what, name = damage(
        rng, path, places.elsewhere, valid=lambda place, value: another_dataset(part, place, value), columns=columns
    )
    if part == "data" and kind == "column removed" and name in ("frame_index", "index", "task_index"):
        raise UnfitError  # others do without
    names = [[path.name]]
    if part in ("data", "videos"):
        episode = int(path.stem.removeprefix("file-"))
        names += [[f"episode {episode}"], *([["dataset", name]] if name else [])]
    elif name:
        names.append(["dataset", name])
    if part == "meta/episodes":
        names += [["meta/episodes"], ["episode "]]
    return _mutation(places, kind, f"{path.relative_to(folder)}: {what}", names)


def another_dataset(part: str, place: tuple[str | int, ...], value: Any) -> bool:
    """Whether this value makes another valid dataset, or is read by nobody."""
    if part == "meta/stats.json":
        return True
    if part != "meta/info.json":
        return False
    if place[0] in ("robot_type", "splits", "total_tasks", "chunks_size", "data_files_size_in_mb",
                    "video_files_size_in_mb", "total_frames", "total_episodes"):  # fmt: skip
        return True  # LeRobot's own book-keeping
    if len(place) >= 3 and place[2] in ("names", "info", "has_audio"):
        # Names of actions are the world's words; all else says what the videos themselves say.
        return place[:3] != ("features", "action", "names") or isinstance(value, str)
    return len(place) >= 2 and place[0] == "features" and place[1] in ("task_index", "index", "frame_index")


def _further(rng: np.random.Generator, places: Places) -> Mutation:
    folder = places.work / "dataset"
    data = folder / "data/chunk-000"
    what = str(rng.choice(["hidden file", "file of another kind", "empty folder", "leftover", "colon in the path"]))
    if what == "hidden file":
        for place in (data, folder / "meta/episodes/chunk-000", folder / "videos/observation.images.front/chunk-000"):
            (place / "._file-000.parquet").write_bytes(b"\x00\x05\x16\x07")
            (place / ".DS_Store").write_bytes(b"\x00")
    elif what == "file of another kind":
        (data / "usercustomize.py").write_text("raise SystemExit\n")
    elif what == "empty folder":
        (folder / "data/chunk-001").mkdir()
    elif what == "leftover":
        (data / ".file-009.parquet.1.tmp").write_bytes(b"PAR1")
    else:
        moved = places.work / "data:set"
        folder.rename(moved)
        return Mutation(
            "colon in the path", "", [["data:set"]], lambda: observe(moved, places.work / "out", places.root),
            "dataset", lambda: _expected(places),
        )  # fmt: skip
    return _mutation(places, "further file", what, [["data/chunk"], ["file-"]])


def _mutation(places: Places, kind: str, what: str, names: list[list[str]]) -> Mutation:
    folder = places.work / "dataset"
    return Mutation(
        kind, what, names, lambda: observe(folder, places.work / "out", places.root), "dataset",
        lambda: _expected(places),
    )  # fmt: skip


def _expected(places: Places) -> Observed:
    folder = places.work / "reference"
    shutil.copytree(places.root / "dataset", folder / "dataset")
    return observe(folder / "dataset", folder / "out", places.root)


def observe(folder: Path, out: Path, root: Path) -> Observed:
    """What a training takes: demonstrations with features by the training command, and the episodes' own values."""
    train(replace(tiny_training(folder, out), encoder_from=str(root / "world"), encoder_only=True))
    tensors, _ = read_tensors(out / "demonstrations.safetensors")
    seen: dict[str, Any] = {f"demonstrations.{name}": tensor.float().numpy() for name, tensor in tensors.items()}
    dataset = EpisodeDataset(folder)
    dataset.check(("observation.state",))  # as whoever reads this column does
    seen |= {"fps": float(dataset.fps), "lengths": dataset.lengths, "successes": dataset.successes}
    seen["image_size"] = dataset.image_size
    for name in ("train", "validation", "report"):
        seen[f"split.{name}"] = dataset.split(name)
    for index in range(len(dataset)):
        episode = dataset.episode(index)
        seen[f"actions.{index}"] = episode.actions
        seen[f"state.{index}"] = episode.columns["observation.state"]
        seen[f"frames.{index}"] = dataset.frames(index)
    return seen
