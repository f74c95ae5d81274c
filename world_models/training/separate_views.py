"""Frames of several cameras as frames of one, to train an encoder on that sees each view alone."""

from __future__ import annotations

import numpy as np


class SeparateViews:
    """Wide frames read as frames of single views: those of the first camera, then those of the second, and so on.

    Args:
        frames: ``(F, S, V*S, 3)`` uint8, memory-mapped.
        views: V.
    """

    def __init__(self, frames: np.ndarray, views: int) -> None:
        self._frames, self._views = frames, views
        self._width = frames.shape[2] // views

    def __len__(self) -> int:
        return len(self._frames) * self._views

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Frames ``(M, S, S, 3)`` of ascending or any rows ``(M,)`` int64."""
        view, row = np.divmod(rows, len(self._frames))
        picked = np.empty((len(rows), self._frames.shape[1], self._width, 3), np.uint8)
        for number in range(self._views):
            chosen = view == number
            left = number * self._width
            picked[chosen] = self._frames[row[chosen]][:, :, left : left + self._width]
        return picked

    def repeated(self, offsets: np.ndarray) -> np.ndarray:
        """First frames ``(V*N + 1,)`` of the episodes of all views, from those ``(N + 1,)`` of one."""
        starts = [offsets[:-1] + number * len(self._frames) for number in range(self._views)]
        return np.concatenate([*starts, [len(self)]]).astype(np.int64)

    def episodes(self, indices: np.ndarray, count: int) -> np.ndarray:
        """Indices of episodes, of ``count`` in all, in every view."""
        return np.concatenate([indices + number * count for number in range(self._views)])
