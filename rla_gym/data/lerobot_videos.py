"""The videos of a LeRobotDataset: what their headers say, beside what `meta/info.json` says; no picture is decoded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rla_gym.data.lerobot_layout import FETCH, EpisodeEntry, Layout, leave_out
from rla_gym.data.problem_list import ProblemList

_SILENT_SECONDS = 3
_SAME_CODEC = {"avc": "h264", "avc1": "h264", "libx264": "h264", "h265": "hevc", "libx265": "hevc", "libsvtav1": "av1",
               "libaom-av1": "av1", "libdav1d": "av1", "mp4v": "mpeg4"}  # fmt: skip
"""Names of encoders and of containers, to the codecs'."""
_SAME_RATE = 0.01
"""Rates that differ by a smaller share are the same."""


@dataclass(frozen=True)
class VideoHeader:
    """What a video says of itself.

    Attributes:
        codec: such as "h264" or "av1".
        pixel_format: such as "yuv420p".
        height, width: in pixels.
        fps: pictures per second on average; None where it does not say.
        seconds: from its first picture to the end of its last; None where it does not say.
        pictures: how many; None where it does not say.
    """

    codec: str
    pixel_format: str
    height: int
    width: int
    fps: float | None
    seconds: float | None
    pictures: int | None


@dataclass(frozen=True)
class CameraFacts:
    """The videos of one camera.

    Attributes:
        key: of the camera.
        height, width: of most of its videos, in pixels; 0 where none can be opened.
        codec, pixel_format: of most of its videos, or "".
        fps: of most of its videos; None where they do not say.
        videos: files that are there and can be opened.
        missing: files that are not there.
    """

    key: str
    height: int
    width: int
    codec: str = ""
    pixel_format: str = ""
    fps: float | None = None
    videos: int = 0
    missing: int = 0


def read_header(path: Path) -> VideoHeader:
    """What a video says of itself.

    Raises:
        ValueError: it is no video that can be decoded here.
    """
    import av

    try:
        # An absolute path: in a relative one FFmpeg takes what stands before a colon for a protocol.
        with av.open(os.path.abspath(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no video")
            stream = container.streams.video[0]
            if getattr(stream, "codec_context", None) is None:
                raise ValueError(f"{path} has a codec that cannot be decoded here")
            seconds = None
            if stream.duration is not None and stream.time_base is not None:
                seconds = float(stream.duration * stream.time_base)
            elif container.duration is not None:
                seconds = container.duration / 1e6
            return VideoHeader(
                _codec(stream.codec_context.codec.canonical_name), str(stream.codec_context.pix_fmt or "unknown"),
                stream.codec_context.height, stream.codec_context.width,
                None if stream.average_rate is None else float(stream.average_rate), seconds, stream.frames or None,
            )  # fmt: skip
    except (av.error.FFmpegError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be opened ({error})") from error


def check_camera(layout: Layout, entries: Sequence[EpisodeEntry], camera: str, found: ProblemList) -> CameraFacts:
    """Open the header of each of a camera's videos, and add to ``found`` what does not fit.

    Args:
        layout: of the dataset.
        entries: its episodes.
        camera: key of the camera.
        found: gathers the problems.
    """
    episodes: dict[Path, list[EpisodeEntry]] = {}
    for entry in entries:
        if camera in entry.videos:
            episodes.setdefault(entry.videos[camera][0], []).append(entry)
    headers: dict[Path, VideoHeader] = {}
    missing = [path for path in episodes if not path.is_file()]
    bar = tqdm(episodes.items(), desc=f"open videos of {camera}", unit="file", delay=_SILENT_SECONDS)
    for path, inside in bar:
        name = str(path.relative_to(layout.root))
        if path in missing:
            if len(missing) < len(episodes):
                for entry in inside:
                    what = f"the video of {camera} is missing"
                    found.add_episode(
                        entry.index, what, "--skip-missing leaves them out; or fetch them", first=name, stops=False
                    )
            continue
        try:
            headers[path] = read_header(path)
        except ValueError as error:
            for entry in inside:
                fix = "fetch them again, or delete these files and pass --skip-missing"
                found.add_episode(entry.index, f"the video of {camera} cannot be opened", fix, first=str(error)[:200])
            continue
        _check_lengths(layout, camera, name, headers[path], inside, leave_out(entries), found)
    if episodes and len(missing) == len(episodes):
        found.add(*_all_missing(layout, camera, missing[0]))
    facts = _facts(camera, list(headers.values()), len(missing))
    _compare(layout, camera, facts, headers, episodes, found)
    return facts


def _facts(camera: str, headers: list[VideoHeader], missing: int) -> CameraFacts:
    if not headers:
        return CameraFacts(camera, 0, 0, missing=missing)
    height, width = Counter((header.height, header.width) for header in headers).most_common(1)[0][0]
    codec, pixel_format = Counter((header.codec, header.pixel_format) for header in headers).most_common(1)[0][0]
    rate = Counter(header.fps for header in headers).most_common(1)[0][0]
    return CameraFacts(camera, height, width, codec, pixel_format, rate, len(headers), missing)


def _all_missing(layout: Layout, camera: str, wanted: Path) -> tuple[str, str]:
    """What and fix for a camera without a single video: perhaps they lie elsewhere."""
    what = f"all videos of {camera} are missing, the first is {wanted.relative_to(layout.root)}"
    others = [path for path in sorted(layout.root.rglob("*.mp4")) if camera in path.parts]
    if not others:
        return what, "fetch them, or choose another camera by --camera"
    place = others[0].relative_to(layout.root)
    return f"{what}; there is {place}", "rename the folder, or correct video_path in meta/info.json"


def _compare(
    layout: Layout, camera: str, facts: CameraFacts, headers: dict[Path, VideoHeader],
    episodes: dict[Path, list[EpisodeEntry]], found: ProblemList,
) -> None:  # fmt: skip
    """What most videos are beside what meta/info.json says, and the videos that are not like most."""
    if not facts.videos:
        return
    feature = layout.features.get(camera, {})
    said = feature.get("info") or feature.get("video_info")
    otherwise = leave_out([entry for inside in episodes.values() for entry in inside])
    said = said if isinstance(said, dict) else {}
    harmless = "nothing: videos are read as they are; correct info.json for other programs"
    for name, is_so in (("codec", facts.codec), ("pix_fmt", facts.pixel_format)):
        value = said.get(f"video.{name}", said.get(name))
        if value is not None and (_codec(value) if name == "codec" else value) != is_so:
            what = f"meta/info.json says {name} {value} of {camera}, the videos are {is_so}"
            found.add(what, harmless, stops=False)
    if said.get("video.is_depth_map") is True or said.get("is_depth_map") is True:
        found.add(f"{camera} is a depth map, no picture of colours", "choose another camera by --camera", stops=False)
    size = _size(layout.shape(camera))
    if size is not None and size != (facts.height, facts.width):
        found.add(
            f"meta/info.json says {size[1]} x {size[0]} of {camera}, the videos are {facts.width} x {facts.height}",
            f"write [{facts.height}, {facts.width}, 3] as its shape in meta/info.json",
        )
    if facts.fps is not None and layout.fps is not None and not _same_rate(facts.fps, layout.fps):
        found.add(
            f"the videos of {camera} have {facts.fps:g} pictures/s, meta/info.json says fps {layout.fps:g}",
            "rows need a picture of their own each: correct fps, or encode the videos again",
        )
    for path, header in headers.items():
        first = str(path.relative_to(layout.root))
        for entry in episodes[path]:
            if (header.height, header.width) != (facts.height, facts.width):
                what = f"the videos of {camera} are not {facts.width} x {facts.height} as most are, but {header.width} "
                what += f"x {header.height},"
                found.add_episode(entry.index, what, f"encode them alike, or {otherwise}", first=first)
            if header.codec != facts.codec:
                what = f"the videos of {camera} are {header.codec}, not {facts.codec} as most are,"
                found.add_episode(entry.index, what, harmless, first=first, stops=False)


def _check_lengths(
    layout: Layout, camera: str, name: str, header: VideoHeader, inside: list[EpisodeEntry], otherwise: str,
    found: ProblemList,
) -> None:  # fmt: skip
    """Whether a video has a picture for every row of its episodes, and no more."""
    rate = header.fps or layout.fps
    seconds = header.pictures / rate if header.pictures and rate else header.seconds
    if rate is None or seconds is None:
        return
    ends = []
    for entry in inside:
        if entry.length is None:
            continue
        ends.append(entry.videos[camera][1] + entry.length / rate)
        if ends[-1] - seconds > 0.5 / rate:
            found.add_episode(
                entry.index, f"the video of {camera} is shorter than the rows",
                f"encode or fetch them again, or {otherwise}",
                first=f"{name} ends after {seconds:.3f} s, the rows after {ends[-1]:.3f} s",
            )  # fmt: skip
    if ends and seconds - max(ends) > 1.5 / rate:
        found.add_episode(
            inside[-1].index, f"the video of {camera} is longer than the rows",
            "look at the contact sheet whether pictures and rows begin together",
            first=f"{name} ends after {seconds:.3f} s, the rows after {max(ends):.3f} s", stops=False,
        )  # fmt: skip


def check_cameras(layout: Layout, found: ProblemList) -> None:
    """Add to ``found`` what keeps a dataset without videos from a training."""
    images = [name for name, feature in layout.features.items() if feature.get("dtype") == "image"]
    if images:
        what = f"{', '.join(images)} holds single images, and videos alone are read"
        found.add(what, "record with videos, or encode the images", stops=not layout.cameras)
    elif not layout.cameras:
        found.add("meta/info.json names no camera: no feature has the dtype video", FETCH)


def _size(shape: tuple[int, ...] | None) -> tuple[int, int] | None:
    """Height and width of a shape that has the channels last or first."""
    if shape is None or len(shape) != 3:
        return None
    return shape[1:] if shape[0] in (1, 3) and shape[2] not in (1, 3) else shape[:2]


def _same_rate(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME_RATE * other


def _codec(name: Any) -> str:
    return _SAME_CODEC.get(str(name).lower(), str(name).lower())
