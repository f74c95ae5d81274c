"""Collects episodes in the simulator: several processes, resumable, the same episodes from the same seed.

Episode i depends only on (seed, i) and on the settings it was collected with, so it does not matter how many
processes work, in which order, or how often they were interrupted.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rla_gym.ground_truth.behaviours import KINDS, make_behaviour
from rla_gym.ground_truth.recording import ChunkPolicy, EpisodeRecorder, RecordedEpisode, recorded_columns
from rla_gym.ground_truth.seeds import COLLECT_SEED_RANGE
from rla_gym.tasks import TaskSpec, get_task
from world_models.checkpoint import save_json
from world_models.data.episodes import EpisodeDataset, EpisodeWriter
from world_models.ray_map import ray_map

CAMERA_KEY = "observation.images.front"
"""Name of the task's camera in the dataset."""

_SETTINGS_FILE = "collect.json"
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass
class CollectConfig:
    """What to collect.

    Attributes:
        task: name of the task.
        episodes: episodes in the folder when done; a larger number later adds to them.
        out: the dataset's folder.
        seed: of all chance.
        workers: processes; 0 for one per core, or with ``ray`` for one per CPU of the cluster.
        ray: record on a Ray cluster (:func:`world_models.ray_map.ray_map` says which); the episodes are the same.
        placement: a placement of the task, or ``"mixed"``: each with equal chance.
        length: control steps and frames in an episode.
        expert: share of episodes by the scripted expert, with a little noise. The shares need not add up to 1.
        noisy: share with strong noise and pushes, from which the expert recovers.
        near_miss: share of grasps that fail or nearly fail.
        play: share of random motion around the object.
        grasp: share of grasps anywhere about the object, up to three an episode, some of which hold.
        hasty_grasp: share of the same on the straight way there, closing before the hand has arrived, as policies do.
        place: share of clean grasps after which the object is put down anywhere about its goal; for Stack.
        guessing: share of the scripted episodes, the expert's left out, whose script does not look whether the cube is
            held or stands, but goes on by a guess, so that its actions do not tell the outcome.
        policy: share of roll-outs of a policy; needs the ``policy`` argument of :func:`collect`.
        policy_noise: standard deviation of the action noise in roll-outs of the policy.
    """

    task: str = "Lift"
    episodes: int = 640
    out: Path = Path("data/lift")
    seed: int = 0
    workers: int = 0
    ray: bool = False
    placement: str = "mixed"
    length: int = 56
    expert: float = 0.35
    noisy: float = 0.15
    near_miss: float = 0.30
    play: float = 0.20
    grasp: float = 0.0
    hasty_grasp: float = 0.0
    place: float = 0.0
    guessing: float = 0.0
    policy: float = 0.0
    policy_noise: float = 0.2

    def shares(self) -> dict[str, float]:
        """Kind -> its share of the episodes; they add up to 1."""
        weights = {kind: float(getattr(self, kind)) for kind in KINDS}
        total = sum(weights.values())
        return {kind: weight / total for kind, weight in weights.items()}

    def kind(self, index: int) -> str:
        """The kind of episode ``index``. Any run of consecutive episodes has nearly the wanted shares."""
        offset = np.random.default_rng([self.seed, 1]).random()
        point = (offset + index * _GOLDEN) % 1.0
        for kind, share in self.shares().items():
            point -= share
            if point < 0:
                return kind
        return max(self.shares(), key=lambda kind: self.shares()[kind])  # rounding at the very end

    def guesses(self, index: int) -> bool:
        """Whether the script of episode ``index`` guesses what it could look at."""
        return self.kind(index) != "expert" and np.random.default_rng([self.seed, index, 1]).random() < self.guessing

    def reset_seed(self, index: int) -> int:
        """The environment's reset seed of episode ``index``; datasets of few seeds share none for 10,000 episodes."""
        first = int(self.seed * _GOLDEN % 1 * len(COLLECT_SEED_RANGE))
        return COLLECT_SEED_RANGE[(first + index) % len(COLLECT_SEED_RANGE)]


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
    writer = _open_writer(config, task)
    _settle_settings(config, policy, writer)
    missing = [index for index in range(config.episodes) if not writer.has(index)]
    done = config.episodes - len(missing)
    if done and missing:
        print(f"{config.out}: {done} of {config.episodes} episodes are there, going on", file=sys.stderr)
    started = time.monotonic()
    try:
        if missing:
            _collect_missing(config, policy, writer, missing)
    except KeyboardInterrupt:
        there = sum(writer.has(index) for index in range(config.episodes))
        if there:
            writer.finish()
        print(
            f"\ninterrupted with {there} of {config.episodes} episodes in {config.out}; "
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
    if config.length < 2:
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


def _open_writer(config: CollectConfig, task: TaskSpec) -> EpisodeWriter:
    return EpisodeWriter(
        config.out,
        fps=task.control_hz,
        instruction=task.instruction,
        camera=CAMERA_KEY,
        image_size=task.camera.size,
        action_names=task.action_names,
        columns=recorded_columns(task),
        robot_type=task.robot.lower(),
    )


def _settle_settings(config: CollectConfig, policy: ChunkPolicy | None, writer: EpisodeWriter) -> None:
    """Compares with the settings the folder was collected with; new ones count from the next episode on."""
    free = ("out", "episodes", "workers", "ray")
    settings = {name: value for name, value in asdict(config).items() if name not in free}
    if policy is not None:
        settings["policy_name"] = str(getattr(policy, "name", type(policy).__name__))
    path = Path(config.out) / _SETTINGS_FILE
    parts = json.loads(path.read_text()) if path.exists() else []
    for part in parts:  # what did not exist then had no share
        part["settings"] = {**dict.fromkeys((*KINDS, "guessing"), 0.0), **part["settings"]}
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


def _collect_missing(
    config: CollectConfig, policy: ChunkPolicy | None, writer: EpisodeWriter, missing: list[int]
) -> None:
    counts: dict[str, list[int]] = {}
    outcomes = _by_ray(config, policy, writer, missing) if config.ray else _by_processes(config, policy, missing)
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
            shown = " ".join(f"{kind} {wins}/{n}" for kind, (wins, n) in sorted(counts.items()))
            progress.set_postfix_str(shown, False)
            progress.update()


Outcomes = Generator[tuple[str, bool], None, None]
"""Kind and success of episodes, as they are written."""


def _by_ray(config: CollectConfig, policy: ChunkPolicy | None, writer: EpisodeWriter, missing: list[int]) -> Outcomes:
    """Records on a cluster; this process writes, so that the machines need not share a disk."""
    for episode in ray_map(partial(EpisodeRecorder, config, policy), missing, config.workers):
        yield _write(writer, episode)


def _by_processes(config: CollectConfig, policy: ChunkPolicy | None, missing: list[int]) -> Outcomes:
    """Records and writes in processes of this machine."""
    workers = min(config.workers or os.cpu_count() or 1, len(missing))
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # a GL context does not survive a fork
        initializer=_start_worker,
        initargs=(config, policy),
    )
    pending: set[Future[tuple[str, bool]]] = set()
    try:
        # Few at a time and in order: an interruption leaves no hole behind.
        for index in missing:
            with _sigint_ignored():  # a worker inherits this, and Ctrl-C reaches the whole process group
                pending.add(pool.submit(_collect_episode, index))
            if len(pending) < workers + 1:
                continue
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
    except KeyboardInterrupt:
        tqdm.write("interrupted: finishing the episodes under way", file=sys.stderr)
        raise
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process died (out of memory?); run the same command again to go on, with fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True)


@contextmanager
def _sigint_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may say
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


_worker: Callable[[int], tuple[str, bool]] | None = None


def _start_worker(config: CollectConfig, policy: ChunkPolicy | None) -> None:
    """Runs once in every worker process."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    writer = _open_writer(config, get_task(config.task))
    recorder = EpisodeRecorder(config, policy)

    def work(index: int) -> tuple[str, bool]:
        return _write(writer, recorder(index))

    _worker = work


def _write(writer: EpisodeWriter, episode: RecordedEpisode) -> tuple[str, bool]:
    """Adds an episode to the dataset; returns its kind and success."""
    recording = episode.recording
    writer.write(
        episode.index, recording.frames, recording.actions, recording.columns,
        kind=episode.kind, success=recording.success, seed=episode.seed,
    )  # fmt: skip
    return episode.kind, recording.success


def _exit_with_parent() -> None:
    """A killed parent would leave its workers waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _collect_episode(index: int) -> tuple[str, bool]:
    assert _worker is not None
    return _worker(index)


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
