"""Maps a function over items with the workers of a Ray cluster, in order; workers that die are replaced."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 3
"""How often a worker is started anew, and an item tried again, before the error is shown."""
AHEAD = 2
"""Items per worker that are handed out before the first of them is back; bounds what waits in memory."""
START_SECONDS = 600.0
"""How long the cluster may take to start a first worker."""


def ray_map(
    make_worker: Callable[[], Callable[[Item], Result]], items: Iterable[Item], workers: int = 0, *, gpus: bool = False
) -> Iterator[Result]:
    """Results of all items, in the items' order, computed on a Ray cluster.

    The cluster is the one that is connected already, that ``RAY_ADDRESS`` names or that runs on this machine, or else
    a new one on this machine alone, which ends with the last result. If a worker's process or machine dies, its items
    are given to a new one, so a result must depend on its item alone. Workers of a new cluster have the priority of
    this process; elsewhere Ray's default is a low one (niceness 15). Machines of a cluster need this package installed,
    and files that workers read in the same place.

    Args:
        make_worker: called once in each worker; what it returns maps items to results. It is pickled, like items and
            results.
        items: what to map; taken one by one, a few ahead of the results.
        workers: of one CPU each; 0 takes as many as the cluster has CPUs.
        gpus: every worker takes a GPU too; 0 workers are then as many as the cluster has GPUs.

    Yields:
        One result per item.

    Raises:
        ImportError: Ray is missing.
        ValueError: the cluster has nothing to work with.
        ConnectionError: no worker starts.
        ChildProcessError: workers die again and again over an item.
        Exception: what a worker raised.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('clusters need Ray: pip install "rla-gym[distributed]"') from error
    connected = ray.is_initialized()
    if not connected:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    pool: list[Any] = []
    try:
        count = workers or int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))
        if count == 0:
            raise ValueError(f"the Ray cluster has no {'GPU' if gpus else 'CPU'}")
        remote = ray.remote(num_cpus=1, num_gpus=int(gpus), max_restarts=RETRIES, max_task_retries=RETRIES)(_Worker)
        pool = [remote.remote(make_worker) for _ in range(count)]
        # Where other jobs hold a part of the cluster, some workers start late, or never: they join when they do.
        starting = {worker.started.remote(): worker for worker in pool}
        load: dict[Any, int] = {}
        under_way: deque[tuple[Any, Any]] = deque()
        queue = iter(items)
        while True:
            started, _ = ray.wait([*starting], timeout=0 if load else START_SECONDS) if starting else ([], [])
            load |= {starting.pop(sign): 0 for sign in started}
            if not load:
                raise ConnectionError(
                    f"the Ray cluster started no worker within {START_SECONDS:.0f} s: see `ray status`"
                )
            for item in islice(queue, AHEAD * len(load) - len(under_way)):
                free = min(load, key=lambda worker: load[worker])
                load[free] += 1
                under_way.append((free.work.remote(item), free))
            if not under_way:
                break
            # Results come back in order, whoever is done first.
            result, worker = under_way.popleft()
            yield _get(ray, result)
            load[worker] -= 1
    finally:
        for worker in pool:
            ray.kill(worker)
        if not connected:
            ray.shutdown()


class _Worker:
    """The actor: makes its worker at the first item, so that what goes wrong there is raised to the caller."""

    def __init__(self, make_worker: Callable[[], Callable[[Any], Any]]) -> None:
        self._make_worker = make_worker
        self._work: Callable[[Any], Any] | None = None

    def started(self) -> bool:
        return True

    def work(self, item: Any) -> Any:
        if self._work is None:
            self._work = self._make_worker()
        return self._work(item)


def _get(ray: Any, result: Any) -> Any:
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError as error:
        raise ChildProcessError(
            f"workers of the Ray cluster died {RETRIES + 1} times over one item (out of memory?): {error}"
        ) from error
