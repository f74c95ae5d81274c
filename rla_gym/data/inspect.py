"""`rla-gym data inspect`: everything that stands between a folder of robot data and a training, at once."""

from __future__ import annotations

import re
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rla_gym.data.dimensions import (
    Dimension,
    check_dimensions,
    check_duplicates,
    check_finite,
    check_lengths,
    describe,
    scale_for,
)
from rla_gym.data.inspect_pictures import SheetRow, contact_sheet, histograms
from rla_gym.data.inspect_report import Report, print_report
from rla_gym.data.lerobot_folder import GOAL_FRAMES, LeRobotFolder
from rla_gym.data.lerobot_videos import CameraFacts
from rla_gym.data.problem_list import ProblemList
from rla_gym.data.readers import open_source
from rla_gym.data.source import Source, SourceEpisode, SourceFacts
from world_models.data.column_names import ACTION_COLUMNS, STATE_COLUMNS
from world_models.disk_space import check_writable, megabytes, nearest_folder
from world_models.files import save_json

_MOST_CAMERAS = 4
_SILENT_SECONDS = 3


@dataclass(frozen=True)
class InspectConfig:
    """Look at a dataset of one's own: what it holds, everything that is wrong with it, and how to train on it.

    Attributes:
        path: a LeRobotDataset folder (v2.0, v2.1 or v3.0), or a file or folder of another format that `rla-gym data
            convert` reads. It is left as it is.
        out: folder of report.json, contact_sheet.png and action_histograms.png; None for ``runs/inspect_<name>``.
        episodes: on the contact sheet, spread over the dataset.
        times: pictures of each of them, from its first to its last.
    """

    path: Path
    out: Path | None = None
    episodes: int = 4
    times: int = 6

    def __post_init__(self) -> None:
        for name in ("episodes", "times"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; 1 or more is needed")


def inspect_data(config: InspectConfig) -> Report:
    """Inspect a source, print the report, and write it with its pictures.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is of no format that is known, or too damaged to be opened.
        OSError: ``out`` cannot be written.
    """
    whole = Path(config.path).resolve()
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", whole.stem if whole.is_file() else whole.name) or "data"
    out = config.out or Path("runs") / f"inspect_{name}"
    source = open_source(config.path)
    check_writable(out)
    facts = source.facts()
    found = ProblemList()
    episodes = _read_episodes(source, facts, found)
    problems = source.problems()
    facts = source.facts()  # by now the rows have been read
    actions = describe(facts.action_names, [item.actions for item in episodes.values() if item.actions is not None])
    state = describe(facts.state_names, [item.state for item in episodes.values() if item.state is not None])
    if not isinstance(source, LeRobotFolder):
        _check_numbers(facts, episodes, actions, state, found)
    rows, cameras = _pictures(source, facts, episodes, config, found)
    cache_bytes = _cache_bytes(cameras, episodes)
    free = shutil.disk_usage(nearest_folder(out)).free
    if cache_bytes > free:
        what = (
            f"all pictures, decoded at their size, take {megabytes(cache_bytes)}, and {megabytes(free)} are free here"
        )
        found.add(what, "--fit makes them small; --cache FOLDER puts them on another disk", stops=False)
    problems = sorted([*problems, *found.problems()], key=lambda problem: not problem.stops)
    report = Report(
        source.format, config.path, facts, cameras, actions, state, _list_episodes(source, facts, episodes),
        cache_bytes, problems,
    )  # fmt: skip
    report.commands = _commands(source, report, name)
    _write_files(out, name, report, rows, episodes)
    print_report(report)
    return report


def _read_episodes(source: Source, facts: SourceFacts, found: ProblemList) -> dict[int, SourceEpisode]:
    """The episodes that can be read, by position; no picture is decoded."""
    episodes = {}
    for index in tqdm(range(facts.episodes), desc="read episodes", unit="episode", delay=_SILENT_SECONDS):
        try:
            episodes[index] = source.episode(index)
        except (OSError, ValueError) as error:
            if not isinstance(source, LeRobotFolder):  # which says so itself
                found.add_episode(index, "the numbers cannot be read", "fetch or record them again", first=str(error))
    return episodes


def _check_numbers(
    facts: SourceFacts, episodes: dict[int, SourceEpisode], actions: list[Dimension], state: list[Dimension],
    found: ProblemList,
) -> None:  # fmt: skip
    """What is looked at in every format alike; a LeRobotDataset is looked at more closely."""
    fix = "correct them, or leave the episodes out"
    for index, episode in episodes.items():
        columns = (("actions", facts.action_names, episode.actions), ("state", facts.state_names, episode.state))
        for column, names, values in columns:
            if values is not None:
                check_finite(index, column, names, values, found, stops=True, fix=fix)
    check_dimensions("action", actions, found)
    check_dimensions("state", state, found)
    lengths = {index: length for index, item in episodes.items() if (length := _length(item)) is not None}
    if lengths:
        check_lengths(lengths, found)
        check_duplicates({index: (episodes[index].actions, episodes[index].state) for index in lengths}, found)


def _pictures(
    source: Source, facts: SourceFacts, episodes: dict[int, SourceEpisode], config: InspectConfig, found: ProblemList
) -> tuple[list[SheetRow], list[CameraFacts]]:
    """Rows of the contact sheet, and the cameras, by their pictures where no header was read."""
    cameras = list(source.cameras) if isinstance(source, LeRobotFolder) else []
    sizes: dict[str, tuple[int, int]] = {}
    rows = []
    for camera in facts.cameras[:_MOST_CAMERAS]:
        complete = [index for index, episode in episodes.items() if camera in episode.frames]
        chosen = {complete[place] for place in _spread(len(complete), config.episodes)}
        for index in tqdm(sorted(chosen), desc=f"pictures of {camera}", unit="episode", delay=_SILENT_SECONDS):
            try:
                row = _sheet_row(source, episodes[index], index, camera, config.times, facts.fps)
            except (OSError, ValueError) as error:
                fix = "encode or fetch them again, or leave the episodes out"
                found.add_episode(index, f"pictures of {camera} cannot be decoded", fix, first=str(error)[:200])
                continue
            rows.append(row)
            picture = next((picture for picture in row.pictures if picture is not None), None)
            if picture is not None:
                sizes[camera] = (picture.shape[0], picture.shape[1])
    known = {camera.key for camera in cameras}
    cameras += [CameraFacts(key, *sizes.get(key, (0, 0)), fps=facts.fps) for key in facts.cameras if key not in known]
    return rows, cameras


def _sheet_row(
    source: Source, episode: SourceEpisode, index: int, camera: str, times: int, fps: float | None
) -> SheetRow:
    length = _length(episode)
    pictures: list[np.ndarray | None]
    if length is not None and isinstance(source, LeRobotFolder):
        places = _spread(length, times)
        pictures = [source.picture(index, camera, place) for place in places]
    else:
        places, pictures, length = _decode_some(episode, camera, length, times)
    seconds = episode.times if episode.times is not None else np.arange(length) / (fps or 1)
    unit = "s" if episode.times is not None or fps else ""
    captions = [f"{seconds[place] - seconds[0]:.1f} {unit}, row {place}" for place in places]
    if not unit:
        captions = [f"row {place}" for place in places]
    success = {True: "success", False: "no success", None: "success unknown"}[episode.success]
    title = f"{episode.name} · {camera} · {length} rows · {success}" + (f" · {episode.task}" if episode.task else "")
    return SheetRow(title, pictures, captions)


def _decode_some(
    episode: SourceEpisode, camera: str, length: int | None, times: int
) -> tuple[list[int], list[np.ndarray | None], int]:
    """Places of a few pictures, the pictures, and how many there are, of a source that gives them in order alone."""
    if length is None:
        length = sum(1 for _ in episode.frames[camera]())
    places = _spread(length, times)
    found: dict[int, np.ndarray] = {}
    for place, picture in enumerate(episode.frames[camera]()):
        if place in places:
            found[place] = picture
        if not places or place >= places[-1]:
            break
    return places, [found.get(place) for place in places], length


def _spread(count: int, chosen: int) -> list[int]:
    """Places of at most so many of ``count``, from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, chosen))}) if count else []


def _length(episode: SourceEpisode) -> int | None:
    arrays = (episode.actions, episode.state, episode.times)
    return next((len(array) for array in arrays if array is not None), None)


def _cache_bytes(cameras: Sequence[CameraFacts], episodes: dict[int, SourceEpisode]) -> int:
    rows = sum(_length(episode) or 0 for episode in episodes.values() if episode.frames)
    return max((3 * camera.height * camera.width * rows for camera in cameras), default=0)


def _list_episodes(source: Source, facts: SourceFacts, episodes: dict[int, SourceEpisode]) -> list[dict[str, Any]]:
    missing = source.missing(source.best_camera) if isinstance(source, LeRobotFolder) else set()
    rows = []
    for index in range(facts.episodes):
        episode = episodes.get(index)
        row: dict[str, Any] = {"name": f"episode {index}", "rows": None, "success": None, "task": ""}
        if episode is not None:
            row = {
                "name": episode.name, "rows": _length(episode), "success": episode.success, "task": episode.task
            }  # fmt: skip
        rows.append({**row, "complete": episode is not None and index not in missing})
    return rows


def _commands(source: Source, report: Report, name: str) -> list[str]:
    """What to type next: convert where that is needed, and train with the flags that these data need."""
    path, commands, flags = shlex.quote(str(report.path)), [], []
    if isinstance(source, LeRobotFolder):
        if len(report.cameras) > 1 and source.best_camera is not None:
            flags.append(f"--camera {shlex.quote(source.best_camera)}")
        for option, column, known in (
            ("--action-column", source.action_column, ACTION_COLUMNS),
            ("--state-column", source.state_column, STATE_COLUMNS),
        ):
            if column is not None and column not in known:
                flags.append(f"{option} {shlex.quote(column)}")
        if source.missing(source.best_camera):
            flags.append("--skip-missing")
    else:
        data = shlex.quote(f"data/{name}")
        commands.append(f"rla-gym data convert {path} --out {data}")
        path = data
    best = source.best_camera if isinstance(source, LeRobotFolder) else None
    if any(camera.height != camera.width for camera in report.cameras if best in (None, camera.key)):
        flags.append("--fit letterbox")
    scale = scale_for(report.actions)
    if scale is not None:
        flags.append(f"--action-scale {scale}")
    if not any(episode["success"] for episode in report.episodes):
        flags.append(GOAL_FRAMES)
    world = shlex.quote(f"worlds/{name}")
    return [*commands, " ".join([f"rla-gym train {path} --out {world}", *flags])]


def _write_files(
    out: Path, name: str, report: Report, rows: list[SheetRow], episodes: dict[int, SourceEpisode]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    lengths = Counter(episode["rows"] is not None for episode in report.episodes)
    if rows:
        report.files.append(out / "contact_sheet.png")
        title = f"{name}: pictures of {report.format}, {len(report.episodes)} episodes"
        contact_sheet(report.files[-1], title, rows)
    values = [episode.actions for episode in episodes.values() if episode.actions is not None]
    if report.actions and values:
        report.files.append(out / "action_histograms.png")
        title = f"{name}: actions, {len(report.actions)} dimensions, {lengths[True]} episodes, as stored"
        histograms(report.files[-1], title, report.actions, np.concatenate(values))
    report.files.append(out / "report.json")
    save_json(report.files[-1], report.content())
