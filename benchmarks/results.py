"""Result rows: every benchmark writes a list of flat objects, and tables and plots are made from them alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agents.statistics import mean_over_seeds
from world_models.files import save_json
from world_models.provenance import command_line, describe_hardware, today


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        bench, task, method, metric: what was measured on what.
        setting: short string such as ``chunks=6``.
        value: the number; ``low`` and ``high`` are its 95 % interval, None where there is none.
        n: samples behind it.
        seeds: training or evaluation seeds, as text.
        unit: of the value.
        hardware, date, command: where, when and how to print it again.
    """

    bench: str
    task: str
    method: str
    metric: str
    setting: str
    value: float
    low: float | None
    high: float | None
    n: int
    seeds: str
    unit: str
    hardware: str
    date: str
    command: str


def provenance(device: str | torch.device = "cpu") -> dict[str, str]:
    """The attributes ``hardware``, ``date`` and ``command`` of the rows that this run measures on a device."""
    return {"hardware": describe_hardware(device), "date": today(), "command": command_line()}


def row_of(values: np.ndarray, **rest: Any) -> Row:
    """The row of some rounds or seeds ``(n,)``: their mean with its 95 % t interval, none of a single one.

    Args:
        values: what was measured.
        rest: the other attributes of :class:`Row`, but ``value``, ``low``, ``high`` and ``n``.
    """
    value, low, high = mean_over_seeds(values) if len(values) > 1 else (float(values[0]), None, None)
    return Row(value=value, low=low, high=high, n=len(values), **rest)


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows as JSON, atomically."""
    save_json(path, [asdict(row) for row in rows])


def read_rows(path: Path) -> list[Row]:
    """Read what :func:`write_rows` wrote."""
    return [Row(**row) for row in json.loads(Path(path).read_text(encoding="utf-8"))]


def print_rows(rows: list[Row], title: str) -> None:
    """Print rows as a table: one line per metric and method, one column per setting.

    Intervals are shown where there is room for them; they are always in the JSON.
    """
    settings = list(dict.fromkeys(row.setting for row in rows))
    roomy = len(settings) <= 3
    table = Table(title=title)
    for name in ("metric", "method", *settings):
        table.add_column(name, justify="left" if name in {"metric", "method"} else "right", overflow="fold")
    for metric, method in dict.fromkeys((row.metric, row.method) for row in rows):
        cells = {row.setting: _cell(row, roomy) for row in rows if (row.metric, row.method) == (metric, method)}
        table.add_row(metric, method, *(cells.get(setting, "") for setting in settings))
    Console(width=max(150, Console().width)).print(table)


def print_methods(rows: list[Row], title: str) -> None:
    """Print rows as a table: one line per method, one column per metric and setting, with intervals."""
    columns = list(dict.fromkeys((row.metric, row.setting) for row in rows))
    same_setting = len({setting for _, setting in columns}) == 1
    table = Table("method", title=title)
    for metric, setting in columns:
        name = metric.replace("_", " ")
        table.add_column(name if same_setting else f"{name}, {setting}", justify="right")
    for method in dict.fromkeys(row.method for row in rows):
        cells = {(row.metric, row.setting): row for row in rows if row.method == method}
        table.add_row(method, *(_brief(cells[column]) if column in cells else "" for column in columns))
    Console(width=max(160, Console().width)).print(table)


def _brief(row: Row) -> str:
    interval = "" if row.low is None or row.high is None else f" [{row.low:.3g}, {row.high:.3g}]"
    return f"{row.value:.4g}{interval}"


def _cell(row: Row, with_interval: bool) -> str:
    interval = "" if row.low is None or row.high is None or not with_interval else f" [{row.low:.2f}, {row.high:.2f}]"
    return f"{row.value:.3f}{interval}"
