"""`rla-gym data convert`: data of others in other formats become a LeRobotDataset v3.0 that `rla-gym train` reads."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rla_gym.data.readers import open_source
from rla_gym.data.source import Source, SourceEpisode, SourceFacts
from world_models.data.episode_writer import EpisodeWriter
from world_models.data.episodes import STATE
from world_models.data.frame_fit import fit_array
from world_models.data.labels import LABEL
from world_models.data.reading import FitName
from world_models.disk_space import check_writable
from world_models.files import read_json, save_json

PROVENANCE_FILE = "meta/provenance.json"
_HASHED = 1 << 20


@dataclass(frozen=True)
class ConvertConfig:
    """Turn robot data in another format into a dataset that `rla-gym train` reads.

    Attributes:
        path: a file or folder in any format that `rla-gym data inspect` recognises; it is left as it is.
        out: the new dataset's folder; a run that was interrupted goes on there.
        camera: name of the camera to keep, where the source has several.
        fps: frames, and actions, per second, where the source does not say.
        task: in words, where the source does not say.
        size: side of square frames in pixels; None keeps the frames as they are.
        fit: how frames become such squares.
    """

    path: Path
    out: Path
    camera: str | None = None
    fps: int | None = None
    task: str = ""
    size: int | None = None
    fit: FitName = "letterbox"


def convert_data(config: ConvertConfig) -> Path:
    """Convert, with a progress bar; returns the dataset's folder.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: something stops a conversion (all of it is said at once, before anything is written), ``out`` holds
            another dataset, or an episode is damaged.
        OSError: ``out`` cannot be written.
    """
    source = open_source(config.path)
    facts = source.facts()
    camera, fps = _choices(config, source, facts)
    check_writable(config.out)
    first = source.episode(0)
    frames = _pictures(first, camera, config)
    writer = _writer(config, facts, first, frames.shape[1:3], camera, fps)
    # Before the first episode: another source must not go on in this folder.
    _note_provenance(config, source, camera)
    labelled = first.success is not None
    for index in tqdm(range(facts.episodes), desc=f"convert {facts.episodes} episodes", unit="episode"):
        if writer.has(index):
            continue
        episode = first if index == 0 else source.episode(index)
        if (episode.success is not None) is not labelled:
            raise ValueError(
                f"{config.path}: of {first.name} and {episode.name} one alone says whether it succeeded: label all or "
                "none"
            )
        _write(writer, index, episode, frames if index == 0 else _pictures(episode, camera, config))
    writer.finish()
    command = f"rla-gym train {shlex.quote(str(config.out))} --out worlds/{shlex.quote(config.out.resolve().name)}"
    print(f"{facts.episodes} episodes are in {config.out}. To go on:\n  {command}")
    return config.out


def _choices(config: ConvertConfig, source: Source, facts: SourceFacts) -> tuple[str, int]:
    """Camera and rate.

    Raises:
        ValueError: one of them is open, or the source has problems; the message holds all.
    """
    problems = [f"{problem.what}: {problem.fix}" for problem in source.problems() if problem.stops]
    camera = config.camera or (facts.cameras[0] if len(facts.cameras) == 1 else None)
    names = ", ".join(facts.cameras) or "none"
    if config.camera is not None and config.camera not in facts.cameras:
        problems.append(f"no camera is called {config.camera!r}: pass one of {names} by --camera")
    elif camera is None and facts.cameras:
        problems.append(f"there are {len(facts.cameras)} cameras: choose one by --camera: {names}")
    rate = config.fps or facts.fps
    if rate is None or rate <= 0:
        problems.append("the rate is not known: pass frames a second by --fps")
    if not facts.action_names:
        problems.append("there are no actions, and a world is learned from pictures with their actions: add them")
    if problems:
        raise ValueError(f"{config.path} cannot be converted yet. " + "; ".join(problems))
    assert camera is not None
    assert rate is not None
    return camera, max(1, round(rate))


def _writer(
    config: ConvertConfig, facts: SourceFacts, first: SourceEpisode, size: tuple[int, ...], camera: str, fps: int
) -> EpisodeWriter:
    columns: dict[str, tuple[int, ...]] = {}
    if first.state is not None:
        columns[STATE] = (first.state.shape[1],)
    if first.success is not None:
        columns[LABEL] = (1,)
    key = "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in camera)
    return EpisodeWriter(
        config.out, fps=fps, instruction=config.task or first.task or config.path.stem.replace("_", " "),
        camera=f"observation.images.{key}", image_size=(int(size[0]), int(size[1])),
        action_names=facts.action_names, columns=columns,
    )  # fmt: skip


def _pictures(episode: SourceEpisode, camera: str, config: ConvertConfig) -> np.ndarray:
    """All pictures of an episode ``(T, H, W, 3)`` uint8."""
    if camera not in episode.frames:
        raise ValueError(f"{config.path}: episode {episode.name} has no pictures of {camera}; leave it out")
    pictures = list(episode.frames[camera]())
    shapes = {picture.shape for picture in pictures}
    if len(shapes) != 1:
        raise ValueError(f"{config.path}: episode {episode.name} has pictures of shapes {sorted(shapes)}; fix it")
    frames = np.stack(pictures)
    return frames if config.size is None else fit_array(frames, config.fit, config.size)


def _write(writer: EpisodeWriter, index: int, episode: SourceEpisode, frames: np.ndarray) -> None:
    assert episode.actions is not None
    if len(frames) != len(episode.actions):
        raise ValueError(
            f"episode {episode.name} has {len(frames)} pictures and {len(episode.actions)} rows of actions: give one "
            "action for each picture"
        )
    columns: dict[str, np.ndarray] = {}
    if episode.state is not None:
        columns[STATE] = episode.state.astype(np.float32)
    if episode.success is not None:
        columns[LABEL] = np.arange(len(frames))[:, None] >= len(frames) - (1 if episode.success else 0)
    writer.write(
        index, frames, episode.actions.astype(np.float32), columns, kind="unknown", success=episode.success, seed=None
    )


def _note_provenance(config: ConvertConfig, source: Source, camera: str) -> None:
    """Write where the dataset comes from, or check that it comes from there.

    Raises:
        ValueError: the folder holds a dataset of another source, or of other settings.
    """
    content = {
        "source": config.path.resolve().name, "format": source.format, "camera": camera, "size": config.size,
        "fit": config.fit if config.size else None, "digest": _digest(config.path),
    }  # fmt: skip
    path = config.out / PROVENANCE_FILE
    if path.is_file():
        if read_json(path, fix="choose another --out") != content:
            raise ValueError(f"{config.out} was converted from other data, or otherwise: choose another --out")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    save_json(path, content)


def _digest(path: Path) -> str:
    """Digest of names, sizes and first bytes of the source's files."""
    digest = hashlib.blake2b(digest_size=16)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        digest.update(f"{name} {file.stat().st_size}\n".encode())
        with file.open("rb") as opened_file:
            digest.update(opened_file.read(_HASHED))
    return digest.hexdigest()
