"""What an inspection has found, for a program as JSON and for a person as tables in the terminal."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rla_gym.data.dimensions import Dimension
from rla_gym.data.lerobot_videos import CameraFacts
from rla_gym.data.source import Problem, SourceFacts
from world_models.disk_space import megabytes

_NARROWEST = 110
"""Columns of a terminal that the tables take at least, as where the output goes to a file."""


@dataclass
class Report:
    """What was found.

    Attributes:
        format: name of the format.
        path: of the source.
        facts: what the source says of itself.
        cameras: one each.
        actions, state: one description per dimension.
        episodes: for each episode its name, rows (None where they are not known), success (None where nothing says),
            task, and whether it is complete: its files are there (of cameras the proposed one's), its rows can be read.
        cache_bytes: of all pictures, decoded at their size, of the camera with the largest.
        problems: those that stop a training first.
        commands: what to type next.
        files: what was written.
    """

    format: str
    path: Path
    facts: SourceFacts
    cameras: list[CameraFacts]
    actions: list[Dimension]
    state: list[Dimension]
    episodes: list[dict[str, Any]]
    cache_bytes: int
    problems: list[Problem]
    commands: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def trainable(self) -> bool:
        """Whether nothing must be fixed before a training or a conversion."""
        return not any(problem.stops for problem in self.problems)

    def content(self) -> dict[str, Any]:
        """Everything as plain content for JSON."""
        facts = self.facts
        return {
            "format": self.format,
            "path": str(self.path),
            "trainable": self.trainable,
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "commands": self.commands,
            "facts": {
                "episodes": facts.episodes, "fps": facts.fps, "cameras": list(facts.cameras),
                "action_names": list(facts.action_names), "state_names": list(facts.state_names),
                "details": dict(facts.details),
            },
            "cameras": [dataclasses.asdict(camera) for camera in self.cameras],
            "actions": [dataclasses.asdict(dimension) for dimension in self.actions],
            "state": [dataclasses.asdict(dimension) for dimension in self.state],
            "episodes": self.episodes,
            "cache_bytes": self.cache_bytes,
            "files": [str(path) for path in self.files],
        }  # fmt: skip


def print_report(report: Report) -> None:
    """Print the report: facts, cameras, actions, problems with their fixes, and what to type next."""
    console = Console(width=max(_NARROWEST, Console().width), highlight=False)
    console.print(_facts_table(report))
    if report.cameras:
        console.print(_camera_table(report.cameras))
    if report.actions:
        console.print(_dimension_table(report.actions))
    if report.problems:
        console.print(_problem_table(report.problems))
    stopping = sum(problem.stops for problem in report.problems)
    if stopping:
        console.print(f"\n[bold red]{stopping} of these must be fixed first.[/] Then:")
    else:
        console.print("\n[bold]Nothing must be fixed first.[/] To go on:")
    for command in report.commands:
        console.print(f"  {escape(command)}", soft_wrap=True)
    console.print("\nWritten:")
    for path in report.files:
        console.print(f"  {escape(str(path))}", soft_wrap=True)


def _facts_table(report: Report) -> Table:
    facts = report.facts
    table = Table(title=escape(str(report.path)), show_header=False, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    version = facts.details.get("version", "")
    table.add_row("format", escape(f"{report.format} {version}".strip()))
    complete = sum(episode["complete"] for episode in report.episodes)
    table.add_row("episodes", f"{facts.episodes}, {complete} of them complete")
    lengths = [episode["rows"] for episode in report.episodes if episode["rows"] is not None]
    if lengths:
        least, middle, most = min(lengths), float(np.median(lengths)), max(lengths)
        words = f"{sum(lengths)} in all; {least} to {most} an episode, median {middle:g}"
        if facts.fps is not None:
            words += f" ({least / facts.fps:.1f} to {most / facts.fps:.1f} s)"
        table.add_row("rows", words)
    table.add_row("rate", "not said" if facts.fps is None else f"{facts.fps:g} rows/s")
    labels = Counter(episode["success"] for episode in report.episodes)
    words = f"{labels[True]} succeeded, {labels[False]} failed, {labels[None]} not labelled"
    table.add_row("success", words if labels[True] + labels[False] else "not labelled")
    for name, value in facts.details.items():
        if name != "version":
            table.add_row(escape(name), escape(value))
    if report.state:
        table.add_row("proprioception", f"{_motion(report.state)} (ranges are in report.json)")
    if report.cache_bytes:
        words = f"{megabytes(report.cache_bytes)} for all pictures of a camera at their size"
        table.add_row("decoded", f"{words}; {megabytes(_small(report))} at 128 x 128")
    return table


def _small(report: Report) -> int:
    return sum(episode["rows"] or 0 for episode in report.episodes if episode["complete"]) * 128 * 128 * 3


def _camera_table(cameras: Sequence[CameraFacts]) -> Table:
    table = Table("camera", "size", "codec", "pixels", "pictures/s", "videos", "missing", box=box.SIMPLE_HEAD)
    for camera in cameras:
        table.add_row(
            escape(camera.key), f"{camera.width} x {camera.height}" if camera.width else "unknown", camera.codec or "-",
            camera.pixel_format or "-", "-" if camera.fps is None else f"{camera.fps:g}", str(camera.videos or "-"),
            str(camera.missing or "-"),
        )  # fmt: skip
    return table


def _motion(dimensions: Sequence[Dimension]) -> str:
    counts = Counter(dimension.motion for dimension in dimensions)
    words = f"{len(dimensions)} dimensions, {counts['moves']} move"
    words += f", {counts['hardly']} hardly move" if counts["hardly"] else ""
    return words + (f", {counts['constant']} never change" if counts["constant"] else "")


def _dimension_table(dimensions: Sequence[Dimension]) -> Table:
    """The dimensions that move, one a line; those that never change are gathered by their value."""
    table = Table(title=f"actions: {_motion(dimensions)}", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("dimension", overflow="fold")
    for name in ("least", "1 %", "99 %", "largest", "in an episode"):
        table.add_column(name, justify="right")
    table.add_column("")
    constant: dict[float, list[str]] = {}
    for dimension in dimensions:
        if dimension.motion == "constant":
            constant.setdefault(dimension.low, []).append(dimension.name)
            continue
        numbers = (dimension.low, dimension.q01, dimension.q99, dimension.high, dimension.within)
        remark = "hardly moves" if dimension.motion == "hardly" else "outliers" if dimension.has_outliers else ""
        table.add_row(escape(dimension.name), *(f"{number:.4g}" for number in numbers), remark)
    for value, names in constant.items():
        remark = "never changes" if len(names) == 1 else "never change"
        table.add_row(escape(", ".join(names)), *(f"{value:.4g}" for _ in range(4)), "0", remark)
    return table


def _problem_table(problems: Sequence[Problem]) -> Table:
    table = Table(title="what to know, and what to do about it", box=box.SIMPLE_HEAD, title_justify="left", leading=1)
    table.add_column("", no_wrap=True)
    table.add_column("found", ratio=3, overflow="fold")
    table.add_column("fix", ratio=2, overflow="fold")
    for problem in problems:
        table.add_row("[bold red]stops[/]" if problem.stops else "note", escape(problem.what), escape(problem.fix))
    return table
