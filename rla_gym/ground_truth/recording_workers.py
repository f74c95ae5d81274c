"""Recording of many episodes at once into one dataset: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tqdm import tqdm

from rla_gym.ground_truth.recording import ChunkPolicy, EpisodeRecorder, RecordedEpisode, recorded_columns
from rla_gym.ground_truth.recording_config import RecordingConfig
from rla_gym.tasks import TaskSpec, get_task
from world_models.data.episodes import EpisodeWriter
from world_models.distributed.ray_map import ray_map

CAMERA_KEY = "observation.images.front"
"""Name of the task's camera in the dataset."""

Outcomes = Generator[tuple[str, bool], None, None]
"""Kind and success of episodes, as they are written."""


def open_writer(out: Path, task: TaskSpec) -> EpisodeWriter:
    """The writer of a dataset of a task in the folder ``out``."""
    return EpisodeWriter(
        out,
        fps=task.control_hz,
        instruction=task.instruction,
        camera=CAMERA_KEY,
        image_size=task.camera.size,
        action_names=task.action_names,
        columns=recorded_columns(task),
        robot_type=task.robot.lower(),
    )


def record_on_ray(
    config: RecordingConfig, policy: ChunkPolicy | None, out: Path, indices: list[int], workers: int
) -> Outcomes:
    """Records on a cluster; this process writes, so that the machines need not share a disk.

    Args:
        config: how.
        policy: for episodes of the kind ``policy``.
        out: the dataset's folder.
        indices: which episodes.
        workers: 0 for one per CPU of the cluster.
    """
    writer = open_writer(out, get_task(config.task))
    for episode in ray_map(partial(EpisodeRecorder, config, policy), indices, workers):
        yield _write(writer, episode)


def record_in_processes(
    config: RecordingConfig, policy: ChunkPolicy | None, out: Path, indices: list[int], workers: int
) -> Outcomes:
    """Records and writes in processes of this machine.

    Args:
        config, policy, out, indices: as of :func:`record_on_ray`.
        workers: processes; 0 for one per core.

    Raises:
        ChildProcessError: a process died.
    """
    workers = min(workers or os.cpu_count() or 1, len(indices))
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # a GL context does not survive a fork
        initializer=_start_worker,
        initargs=(config, policy, out),
    )
    pending: set[Future[tuple[str, bool]]] = set()
    try:
        # Few at a time and in order: an interruption leaves no hole behind.
        for index in indices:
            with _sigint_ignored():  # a worker inherits this, and Ctrl-C reaches the whole process group
                pending.add(pool.submit(_record, index))
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
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


_worker: Callable[[int], tuple[str, bool]] | None = None


def _start_worker(config: RecordingConfig, policy: ChunkPolicy | None, out: Path) -> None:
    """Runs once in every worker process."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        writer, recorder = open_writer(out, get_task(config.task)), EpisodeRecorder(config, policy)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        # Raised by the first episode, in the parent: what stops a worker at its start reaches nobody.
        _worker = partial(_fail, error)
        return

    def work(index: int) -> tuple[str, bool]:
        return _write(writer, recorder(index))

    _worker = work


def _fail(error: Exception, index: int) -> tuple[str, bool]:
    raise error


def _record(index: int) -> tuple[str, bool]:
    assert _worker is not None
    return _worker(index)


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
