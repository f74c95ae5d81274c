"""`rla-gym bench hidden-truth`: what the simulator does from one state under the same actions, many times.

Friction, mass, actuation noise and an offset of the object that the pixels do not show are drawn anew for each replay
(:class:`rla_gym.ground_truth.hidden_causes.HiddenCauses`), so that the same state and actions have several futures.
`rla-gym bench calibration --truth` scores dreams against them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.moments import Moment, find_moments, reset_as_recorded
from rla_gym.ground_truth.env import RobosuiteEnv
from rla_gym.ground_truth.hidden_causes import HiddenCauses
from world_models.data.episodes import EpisodeDataset
from world_models.data_of_world import open_data
from world_models.encoders.state import StateEncoder
from world_models.files import read_json, save_json
from world_models.io import load_encoder, read_config, world_folder

SETTINGS_FILE = "truth.json"


@dataclass(frozen=True)
class HiddenTruthConfig:
    """Settings of the replays.

    Attributes:
        data: the dataset, of `rla-gym collect`.
        out: folder to write, one file per moment; a run resumes there.
        world: name, path or ``hf://owner/name`` of the world whose encoder sees the pictures.
        split: which episodes the moments are from.
        moments: how many, at most. Dreams begin shortly before a gripper closes near the cube, and a chunk before that.
        replays: K, of each moment.
        chunks: M, action chunks after the moment. Episodes of Lift close the gripper in their first half; four chunks
            after that hold grasp and lift.
        causes: what is hidden.
        hidden: hide them; without, every replay is the same, and one is made.
        workers: processes.
        seed: of the draws; together with the episode, the frame and the replay it decides each.
    """

    data: Path
    out: Path
    world: str = "lift"
    split: str = "report"
    moments: int = 200
    replays: int = 32
    chunks: int = 4
    causes: HiddenCauses = field(default_factory=HiddenCauses)
    hidden: bool = True
    workers: int = 2
    seed: int = 0


class Truth(NamedTuple):
    """What happened R times after each of N states.

    Attributes:
        start: first states ``(N, L, C)``.
        actions: ``(N, M, K, A)``.
        states: states after each chunk ``(N, R, M, L, C)``.
        read: simulator states after each chunk ``(N, R, M, 7)``, metres: cube, end-effector, gripper opening.
        first: simulator states at the beginning ``(N, 7)``.
        episode: which episode each state is from ``(N,)``; one episode gives two moments at most.
    """

    start: Tensor
    actions: Tensor
    states: Tensor
    read: Tensor
    first: Tensor
    episode: Tensor


def run(config: HiddenTruthConfig) -> int:
    """Replay and write; returns how many moments are there in the end.

    Raises:
        ValueError: the folder holds replays of other settings, or the data lack what replays need.
    """
    folder = world_folder(config.world)
    world = read_config(folder)
    dataset = open_data(config.data, world)
    moments = _moments(dataset, config, config.chunks * world.chunk_length, world.chunk_length)
    settings = {
        "data": dataset.fingerprint(), "encoder": load_encoder(folder).fingerprint(), "chunks": config.chunks,
        "replays": config.replays if config.hidden else 1, "seed": config.seed, "task": world.task,
        "causes": asdict(config.causes) if config.hidden else None, "chunk_length": world.chunk_length,
    }  # fmt: skip
    settings = json.loads(json.dumps(settings))
    path = config.out / SETTINGS_FILE
    if path.is_file() and read_json(path, fix="delete the folder") != settings:
        raise ValueError(f"{path} is of other settings or data: choose another --out, or delete that folder")
    save_json(path, settings)
    missing = [moment for moment in moments if not _file(config.out, moment).is_file()]
    context = get_context("spawn")
    with ProcessPoolExecutor(config.workers, context, _begin, (config, settings)) as pool:
        for moment, truth in zip(
            missing, tqdm(pool.map(_replayed, missing), total=len(missing), unit="moment"), strict=True
        ):
            if truth is not None:
                _write(_file(config.out, moment), truth)
    return sum(_file(config.out, moment).is_file() for moment in moments)


def read_truth(folder: Path) -> dict[str, Truth]:
    """What :func:`run` wrote into a folder or its sub-folders: truths by ``hidden`` or ``deterministic``.

    Raises:
        FileNotFoundError: there is none.
    """
    truths = {}
    for path in sorted(Path(folder).rglob(SETTINGS_FILE)):
        settings: dict[str, Any] = read_json(path, fix="write it anew by `rla-gym bench hidden-truth`")
        moments = []
        for file in sorted(path.parent.glob("*.npz")):
            with np.load(file) as arrays:  # without pickle, as by default
                moments.append({name: torch.from_numpy(arrays[name]).float() for name in Truth._fields})
        if moments:
            name = "deterministic" if settings["causes"] is None else "hidden"
            truths[name] = Truth(*(torch.stack([moment[field] for moment in moments]) for field in Truth._fields))
    if not truths:
        raise FileNotFoundError(f"{folder} has no replays: write them by `rla-gym bench hidden-truth`")
    return truths


@torch.inference_mode()
def replays_of(
    env: RobosuiteEnv, encoder: StateEncoder, dataset: EpisodeDataset, moment: Moment, settings: dict[str, Any]
) -> dict[str, np.ndarray] | None:
    """Replay an episode to a moment, then the chunks that follow, as often as asked, each under causes of its own.

    Args:
        env: the simulator of the dataset's task.
        encoder: of the states.
        dataset: the episodes.
        moment: where replays begin.
        settings: ``chunk_length``, ``chunks``, ``replays``, ``seed`` and ``causes`` (None for none).

    Returns:
        Arrays as :class:`Truth` names them, of one moment, states in float16; None where the simulator does not begin
        as recorded.
    """
    episode, length = dataset.episode(moment.episode), settings["chunk_length"]
    if not reset_as_recorded(env, dataset.seeds[moment.episode], episode.columns["simulator.state"][0]):
        return None
    for action in episode.actions[: moment.frame]:
        env.control_step(action)
    snapshot, first = env.snapshot(), _values(env)
    actions = episode.actions[moment.frame : moment.frame + settings["chunks"] * length]
    start = _encoded(encoder, [env.render_frame()], [env.proprioception()])[0]
    causes = None if settings["causes"] is None else HiddenCauses(**settings["causes"])
    states, read = [], []
    for number in range(settings["replays"]):
        env.restore(snapshot)
        if causes is None:
            reached = list(_played(env, actions, length))
        else:
            rng = np.random.default_rng([settings["seed"], moment.episode, moment.frame, number])
            with env.hidden(causes.draw(rng, len(env.task.objects))):
                reached = list(_played(env, actions, length))
        frames, proprioception, values = zip(*reached, strict=True)
        states.append(_encoded(encoder, frames, proprioception))
        read.append(np.stack(values))
    chunked = actions.reshape(settings["chunks"], length, -1)
    return {
        "start": start, "actions": chunked, "states": np.stack(states), "read": np.stack(read), "first": first,
        "episode": np.array(moment.episode),
    }  # fmt: skip


def _moments(dataset: EpisodeDataset, config: HiddenTruthConfig, span: int, length: int) -> list[Moment]:
    closing_moments = [moment for moment in find_moments(dataset, config.split, span) if moment.gripper == "closes"]
    earlier = [replace(moment, frame=moment.frame - length) for moment in closing_moments if moment.frame >= length]
    both = sorted([*closing_moments, *earlier], key=lambda moment: (moment.episode, moment.frame))
    return both[:: max(1, len(both) // config.moments)][: config.moments]


def _played(env: RobosuiteEnv, actions: np.ndarray, length: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Picture, proprioception and simulator state after each chunk of actions ``(M K, A)``."""
    for step, action in enumerate(actions, 1):
        env.control_step(action)
        if step % length == 0:
            yield env.render_frame(), env.proprioception(), _values(env)


def _values(env: RobosuiteEnv) -> np.ndarray:
    state = env.simulator_state()
    names = ("cube_position", "eef_position", "gripper_opening")
    return np.concatenate([state[name] for name in names]).astype(np.float32)


def _encoded(encoder: StateEncoder, frames: Any, proprioception: Any) -> np.ndarray:
    values = torch.from_numpy(np.stack(proprioception)) if encoder.proprioception_dim else None
    return encoder(torch.from_numpy(np.stack(frames)), values).half().numpy()


def _file(folder: Path, moment: Moment) -> Path:
    return folder / f"{moment.episode:06d}_{moment.frame:04d}.npz"


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)  # a file of this name is whole, whatever stops the process


_WORKER: dict[str, Any] = {}
"""Simulator, encoder, dataset and settings of this process."""


def _begin(config: HiddenTruthConfig, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    try:
        env = RobosuiteEnv(settings["task"], obs="rgb")
    except ImportError as error:
        _WORKER["error"] = error  # raised by the first moment, in the parent
        return
    folder = world_folder(config.world)
    _WORKER.update(env=env, encoder=load_encoder(folder), dataset=open_data(config.data, read_config(folder)))
    _WORKER.update(settings=settings)


def _replayed(moment: Moment) -> dict[str, np.ndarray] | None:
    if "error" in _WORKER:
        raise _WORKER["error"]
    return replays_of(_WORKER["env"], _WORKER["encoder"], _WORKER["dataset"], moment, _WORKER["settings"])
