"""Collects episodes in the simulator: several processes, resumable, the same episodes from the same seed.

Episode i depends only on (seed, i) and on the settings it was collected with, so it does not matter how many
processes work, in which order, or how often they were interrupted.
"""

from __future__ import annotations

import math
import pickle
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rla_gym.ground_truth.behaviours import KINDS, make_behaviour
from rla_gym.ground_truth.recording import ChunkPolicy
from rla_gym.ground_truth.recording_config import RecordingConfig
from rla_gym.ground_truth.recording_workers import open_writer, record_in_processes, record_on_ray
from rla_gym.ground_truth.seeds import COLLECT_SEED_RANGE
from rla_gym.tasks import DEFAULT_TASK, TaskSpec, get_task
from world_models.data.episodes import EpisodeDataset, EpisodeWriter
from world_models.disk_space import check_writable
from world_models.files import read_json, save_json

_SETTINGS_FILE = "collect.json"


@dataclass
class CollectConfig(RecordingConfig):
    """What to collect, and by how many processes.

    Attributes:
        episodes: episodes in the folder when done; a larger number later adds to them.
        out: the dataset's folder.
        workers: processes; 0 for one per core, or with ``ray`` for one per CPU of the cluster.
        ray: record on a Ray cluster, as :func:`world_models.distributed.ray_map.ray_map` finds or starts it; the
            episodes are the same.
    """

    episodes: int = 640
    out: Path = Path("data") / DEFAULT_TASK.lower()
    workers: int = 0
    ray: bool = False


def collect(config: CollectConfig, policy: ChunkPolicy | None = None) -> EpisodeDataset:
    """Collects episodes into ``config.out``, with progress on stderr and a table at the end.

    The same call again goes on where it was interrupted; a larger ``episodes`` adds to a folder. Added episodes
    may be of other kinds and placements, once those asked for before are complete. Ctrl-C lets the episodes
    under way finish (on a Ray cluster they are dropped), leaves a valid dataset and raises KeyboardInterrupt.

    Args:
        config: what to collect.
        policy: for ``config.policy > 0``: a picklable :class:`ChunkPolicy`.

    Returns:
        The dataset.

    Raises:
        ValueError: for settings that make no sense, or that do not fit what is in the folder already.
        ImportError: without robosuite or GL.
    """
    task = _checked_task(config, policy)
    check_writable(config.out)
    writer = open_writer(config.out, task)
    _settle_settings(config, policy, writer)
    missing = [index for index in range(config.episodes) if not writer.has(index)]
    done = config.episodes - len(missing)
    if done and missing:
        print(f"{config.out}: {done} of {config.episodes} episodes are there, going on", file=sys.stderr)
    started = time.monotonic()
    try:
        if missing:
            _collect_missing(config, policy, missing)
    except KeyboardInterrupt:
        complete = sum(writer.has(index) for index in range(config.episodes))
        if complete:
            writer.finish()
        print(
            f"\ninterrupted with {complete} of {config.episodes} episodes in {config.out}; "
            "run the same command again to go on",
            file=sys.stderr,
        )
        raise
    writer.finish()
    dataset = EpisodeDataset(config.out)
    _print_table(dataset, len(missing), time.monotonic() - started)
    return dataset


def _checked_task(config: CollectConfig, policy: ChunkPolicy | None) -> TaskSpec:
    task = get_task(config.task)
    if config.placement != "mixed":
        try:
            task.placement(config.placement)
        except ValueError as error:
            raise ValueError(f"{error} or 'mixed'") from None
    if not 1 <= config.episodes <= len(COLLECT_SEED_RANGE):
        raise ValueError(f"episodes must be from 1 to {len(COLLECT_SEED_RANGE)}, got {config.episodes}")
    if config.episode_length < 2:
        raise ValueError(f"length must be at least 2 control steps, got {config.length}")
    if config.workers < 0:
        raise ValueError(f"workers must be 0 (one per core) or more, got {config.workers}")
    if config.seed < 0:
        raise ValueError(f"seed must not be negative, got {config.seed}")
    weights = {kind: getattr(config, kind) for kind in KINDS}
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or sum(weights.values()) <= 0:
        raise ValueError(f"the shares of the kinds must be numbers >= 0 and not all 0, got {weights}")
    if not 0 <= config.guessing <= 1:
        raise ValueError(f"guessing is a share of the scripted episodes, from 0 to 1, got {config.guessing}")
    for kind, weight in weights.items():
        if weight > 0 and kind != "policy":
            make_behaviour(kind, np.random.default_rng(0), task.name)
    if config.policy > 0 and policy is None:
        raise ValueError(f"policy is {config.policy}, but no policy was given: name one, or set its share to 0")
    if config.policy == 0 and policy is not None:
        raise ValueError("a policy was given, but its share of the episodes is 0: set policy to more than 0")
    try:
        pickle.dumps(policy)
    except Exception as error:
        raise ValueError(
            f"the policy cannot be pickled into the workers ({error}): make it an object of a class at the top level "
            "of a module, which loads what it needs when first called"
        ) from error
    return task


def _settle_settings(config: CollectConfig, policy: ChunkPolicy | None, writer: EpisodeWriter) -> None:
    """Compares with the settings the folder was collected with; new ones count from the next episode on."""
    settings = config.settings()
    if policy is not None:
        settings["policy_name"] = str(getattr(policy, "name", type(policy).__name__))
    path = Path(config.out) / _SETTINGS_FILE
    parts = read_json(path, list, fix="collect into another folder") if path.exists() else []
    for part in parts:  # kinds that did not exist then had no share
        part["settings"] = {**dict.fromkeys((*KINDS, "guessing"), 0.0), "hidden": False, **part["settings"]}
    if not parts:
        if any(writer.has(index) for index in range(config.episodes)):
            raise ValueError(f"{config.out} holds episodes but no {_SETTINGS_FILE}: collect into another folder")
        parts = [{"first": 0, "episodes": config.episodes, "settings": settings}]
    elif parts[-1]["settings"] == settings:
        parts[-1]["episodes"] = max(parts[-1]["episodes"], config.episodes)
    elif any(part["settings"] == settings and part["episodes"] >= config.episodes for part in parts):
        return  # an earlier part of the folder, complete since it was added to
    else:
        last = parts[-1]
        changed = [
            f"{name}={last['settings'].get(name)!r} there, {value!r} asked for"
            for name, value in settings.items()
            if last["settings"].get(name) != value
        ]
        if not all(writer.has(index) for index in range(last["episodes"])):
            raise ValueError(
                f"{config.out} is being collected with other settings ({'; '.join(changed)}) and is not complete: "
                f"first collect its {last['episodes']} episodes with those, or choose another folder"
            )
        if config.episodes <= last["episodes"]:
            raise ValueError(
                f"{config.out} has {last['episodes']} episodes with other settings ({'; '.join(changed)}): "
                "ask for more episodes to add to them, or choose another folder"
            )
        parts.append({"first": last["episodes"], "episodes": config.episodes, "settings": settings})
    save_json(path, parts)


def _collect_missing(config: CollectConfig, policy: ChunkPolicy | None, missing: list[int]) -> None:
    counts: dict[str, list[int]] = {}
    record = record_on_ray if config.ray else record_in_processes
    outcomes = record(config, policy, config.out, missing, config.workers)
    with closing(outcomes), tqdm(
        total=config.episodes,
        initial=config.episodes - len(missing),
        desc=f"collect {config.task}",
        unit="episode",
        smoothing=0.05,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
    ) as progress:  # fmt: skip
        for kind, success in outcomes:
            count = counts.setdefault(kind, [0, 0])
            count[0] += success
            count[1] += 1
            summary = " ".join(f"{kind} {wins}/{n}" for kind, (wins, n) in sorted(counts.items()))
            progress.set_postfix_str(summary, False)
            progress.update()


def _print_table(dataset: EpisodeDataset, new: int, seconds: float) -> None:
    kinds = np.asarray(dataset.kinds)
    rows = [(kind, kinds == kind) for kind in KINDS if (kinds == kind).any()]
    rows.append(("all", np.ones(len(dataset), bool)))
    print(f"{'kind':<11} {'episodes':>8} {'frames':>8} {'success':>8}")
    for name, chosen in rows:
        success = dataset.successes[chosen].mean()
        print(f"{name:<11} {chosen.sum():>8} {dataset.lengths[chosen].sum():>8} {success:>8.1%}")
    if new:
        print(f"{new} new episodes in {seconds:.0f} s, {60 * new / seconds:.0f} a minute")
    print(f"dataset: {dataset.root}")
