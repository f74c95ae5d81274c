"""Mutations of videos: frames, sizes, rates; encoded without loss, so that what remains are the same pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

KINDS = (
    "last frames dropped", "middle frame dropped", "other frame rate", "other frame size", "one frame", "more frames",
    "frames from later on", "no video stream",
)  # fmt: skip


def damage_video(rng: np.random.Generator, path: Path, kind: str) -> str:
    """Apply a mutation of :data:`KINDS`; returns what was done."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(frame.to_ndarray(format="yuv444p"), float(frame.time)) for frame in container.decode(stream)]
        rate = Fraction(stream.average_rate)
    planes, times = [frame for frame, _ in frames], [time for _, time in frames]
    if kind == "last frames dropped":
        count = int(rng.integers(1, len(planes)))
        _encode(path, planes[:count], times[:count], rate)
        return f"{count} of {len(planes)} left"
    if kind == "middle frame dropped":
        gone = int(rng.integers(1, len(planes) - 1))
        _encode(path, planes[:gone] + planes[gone + 1 :], times[:gone] + times[gone + 1 :], rate)
        return f"frame {gone}"
    if kind == "other frame rate":
        factor = float(rng.choice([0.5, 0.8, 0.999, 1.25, 2.0, 40.0]))
        if abs(factor - 1) < 0.01:
            factor = 0.9
        _encode(path, planes, [time * factor for time in times], rate)
        return f"times x {factor}"
    if kind == "other frame size":
        side = int(planes[0].shape[-1] * rng.choice([0.5, 2.0]))
        smaller = [np.full((3, side, side), 128, np.uint8) for _ in planes]
        _encode(path, smaller, times, rate)
        return f"{side} px"
    if kind == "one frame":
        _encode(path, planes[:1], times[:1], rate)
    elif kind == "more frames":
        _encode(path, planes + planes[:3], times + [times[-1] + (i + 1) / float(rate) for i in range(3)], rate)
    elif kind == "frames from later on":
        _encode(path, planes, [time + 3.0 for time in times], rate)
    elif kind == "no video stream":
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    else:
        raise ValueError(kind)
    return ""


def _encode(path: Path, planes: list[np.ndarray], times: list[float], rate: Fraction) -> None:
    base = Fraction(1, 90_000)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = planes[0].shape[1:]
        stream.pix_fmt = "yuv444p"
        stream.time_base = base
        stream.options = {"qp": "0", "g": "8", "preset": "ultrafast", "bf": "0"}
        for plane, time in zip(planes, times, strict=True):
            frame = av.VideoFrame.from_ndarray(plane, format="yuv444p")
            frame.time_base = base
            frame.pts = round(time / base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
