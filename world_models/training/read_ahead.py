"""Draws the next batch while the present one is computed with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """What calls return, in their order; each is made in a thread while its predecessor's result is in use.

    Args:
        calls: made one at a time, so that they may share what only one thread may use.

    Raises:
        Exception: what a call raised, when its result is asked for.
    """
    with ThreadPoolExecutor(1, "read ahead") as thread:
        coming: Future[T] | None = None
        for call in calls:
            after = thread.submit(call)
            if coming is not None:
                yield coming.result()
            coming = after
        if coming is not None:
            yield coming.result()
