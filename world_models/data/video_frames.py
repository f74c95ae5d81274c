"""Pictures of a video by their times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

TOLERANCE = 0.25
"""Most that the time of a picture may be off its row's, as a share of the time from row to row or from picture to
picture, whichever is shorter. Where a picture was dropped the next one is off by a whole share or more, so it cannot
stand in for it. Containers that round times to milliseconds pass, which LeRobot's own 0.0001 seconds do not allow."""
_SAME_TIME = 1e-4
"""Seconds; two times of no larger difference are the same."""


def frames_at(path: Path, times: np.ndarray, size: tuple[int, int], step: float, what: str) -> np.ndarray:
    """The pictures of a video at given times, ``(T, H, W, 3)`` uint8 RGB.

    Args:
        path: of the video.
        times: ``(T,)`` float64 in seconds of the video, increasing; T of 1 or more.
        size: height and width that the pictures must have.
        step: seconds from row to row, where there is one alone.
        what: the words for whose pictures they are, for messages.

    Raises:
        FileNotFoundError: there is no such video.
        ValueError: a time has no picture of its own within :data:`TOLERANCE`, the video cannot be decoded, or its
            pictures have another size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fetch or collect the dataset again")
    # Only here: a machine that trains on cached features has no need of it.
    import av

    frames = np.empty((len(times), *size, 3), np.uint8)
    found, seen = np.full(len(times), np.nan), []
    row, before = 0, None
    try:
        # An absolute path: in a relative one FFmpeg takes what stands before a colon for a protocol.
        with av.open(os.path.abspath(path)) as container:
            for frame, time in _decode_from(container, path, float(times[0])):
                seen.append(time)
                while row < len(times) and time >= times[row] - _SAME_TIME:
                    if before is not None and times[row] - before[1] < abs(time - times[row]):
                        _copy(before[0], frames, row, path)
                        found[row] = before[1]
                    else:
                        _copy(frame, frames, row, path)
                        found[row] = time
                    row += 1
                if row == len(times):
                    break
                before = frame, time
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} cannot be decoded ({error}); fetch or collect it again") from error
    if row < len(times) and before is not None:
        _copy(before[0], frames, row, path)
        found[row] = before[1]
    _check_times(path, times, found, [*_steps(times), *_steps(seen)] or [step], what)
    return frames


def _copy(frame: VideoFrame, frames: np.ndarray, row: int, path: Path) -> None:
    image = frame.to_ndarray(format="rgb24")
    if image.shape != frames.shape[1:]:
        raise ValueError(f"{path} has frames of {image.shape}, meta/info.json says {frames.shape[1:]}; fix one of them")
    frames[row] = image


def _steps(times: np.ndarray | list[float]) -> list[float]:
    """The step from time to time, where there are several."""
    return [float(np.median(np.diff(times)))] if len(times) > 1 else []


def _check_times(path: Path, times: np.ndarray, found: np.ndarray, steps: list[float], what: str) -> None:
    """Raise ValueError unless every time has a picture of its own; ``found`` is NaN where the video had ended."""
    tolerance = max(TOLERANCE * min(steps), _SAME_TIME)
    off = ~(np.abs(found - times) <= tolerance)
    off[1:] |= ~(np.diff(found) > 0)
    if off.any():
        row = int(np.argmax(off))
        nearest = "the video ends before" if np.isnan(found[row]) else f"the nearest is at {found[row]:.4f} s"
        raise ValueError(
            f"{path} has no picture of its own for row {row} of {what}, at {times[row]:.4f} s: {nearest}, and "
            f"{tolerance:.4f} s off are allowed. Pictures were dropped, or video and table have other rates or "
            "beginnings: encode or fetch it again, or leave the episode out"
        )


def _decode_from(container: InputContainer, path: Path, start: float) -> Iterator[tuple[VideoFrame, float]]:
    """Pictures and their times in seconds, from one at ``start`` or before it on."""
    if not container.streams.video:
        raise ValueError(f"{path} holds no video; fetch or collect it again")
    if start > 0:
        container.seek(int((start + _SAME_TIME) * 1_000_000))  # to the key frame there or before it
        timed = _timed(container)
        first = next(timed, None)
        if first is not None and first[1] <= start + _SAME_TIME:
            yield first
            yield from timed
            return
        container.seek(0)  # key frames are not always where a container's index says
    yield from _timed(container)


def _timed(container: InputContainer) -> Iterator[tuple[VideoFrame, float]]:
    last = -np.inf
    for frame in container.decode(container.streams.video[0]):
        if frame.time is not None and frame.time > last:  # one without a time of its own is nobody's picture
            last = frame.time
            yield frame, last
