"""Pictures of results, drawn from rows and frames alone."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import patheffects
from matplotlib import pyplot as plt

from benchmarks.results import Row

RATES = ("success_rate", "dream_success_rate")
COLOURS = {
    "residual_flow": "#0b6e99", "regression": "#d9730d", "score_sampler": "#0f7b6c", "rla_wm": "#6940a5",
    "persistence": "#9b9a97", "real frames": "#37352f",
}  # fmt: skip


HORIZON_METRICS = (
    "token_l1_vs_persistence", "cube_error_cm", "eef_error_cm", "gripper_error_cm", "pixel_l1_vs_persistence",
    "pixel_l1_vs_background", "ssim", "proprioception_vs_persistence",
)  # fmt: skip
"""Metrics that have a panel over the horizon, where they were measured."""
_PANELS_IN_A_ROW = 4


def plot_horizon(rows: list[Row], path: Path) -> None:
    """Curves over the horizon, one panel per metric, with 95 % bands."""
    metrics = [metric for metric in HORIZON_METRICS if any(row.metric == metric for row in rows)]
    height = -(-len(metrics) // _PANELS_IN_A_ROW)
    figure, axes = plt.subplots(
        height, _PANELS_IN_A_ROW, figsize=(4 * _PANELS_IN_A_ROW, 3.4 * height), constrained_layout=True, squeeze=False
    )
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    for axis, metric in zip(axes.flat, metrics, strict=False):
        for method, colour in COLOURS.items():
            chosen = [row for row in rows if row.metric == metric and row.method == method]
            if not chosen:
                continue
            chunks = [int(row.setting.split("=")[1]) for row in chosen]
            axis.plot(chunks, [row.value for row in chosen], color=colour, marker="o", markersize=3, label=method)
            low = [row.low if row.low is not None else row.value for row in chosen]
            high = [row.high if row.high is not None else row.value for row in chosen]
            axis.fill_between(chunks, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set(title=metric.replace("_", " "), xlabel="action chunks, open loop", ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    lines = {line.get_label(): line for axis in axes.flat for line in axis.get_lines()}  # pictures have a method more
    axes[0, 0].legend(lines.values(), lines.keys(), frameon=False)
    _save(figure, path)


def save_film_strip(
    real: list[np.ndarray], dream: list[np.ndarray], titles: list[str], times: list[float], path: Path
) -> None:
    """Real, dream and difference of a few episodes, one column per chunk.

    Args:
        real, dream: per episode ``(M + 1, H, W, 3)`` uint8.
        titles: per episode.
        times: of the columns, ``M + 1`` in seconds.
        path: PNG to write.
    """
    episodes = []
    for truth, imagined in zip(real, dream, strict=True):
        difference = 255 - np.abs(truth.astype(int) - imagined.astype(int)).astype(np.uint8)
        episodes.append({"real": truth, "dream": imagined, "difference": difference})
    save_strips(episodes, titles, times, path)


def save_strips(episodes: list[dict[str, np.ndarray]], titles: list[str], times: list[float], path: Path) -> None:
    """Strips of pictures, those of an episode below each other, with the time above each column.

    Args:
        episodes: of each one the strips ``(M + 1, H, W, 3)`` uint8 by their names, the same ones of all.
        titles: per episode.
        times: of the columns, ``M + 1`` in seconds.
        path: PNG to write.
    """
    strips = [(name if row else f"{title}\n{name}", strip) for episode, title in zip(episodes, titles, strict=True)
              for row, (name, strip) in enumerate(episode.items())]  # fmt: skip
    size = (1.3 * len(times) + 0.5, 1.3 * len(strips) + 0.3)
    figure, axes = plt.subplots(len(strips), len(times), figsize=size, squeeze=False)
    for (name, strip), row in zip(strips, axes, strict=True):
        row[0].set_ylabel(name, fontsize=7)
        for axis, picture in zip(row, strip, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
    for axis, time in zip(axes[0], times, strict=True):
        axis.set_title(f"{time:.3g} s", fontsize=8)
    edges = {"left": 0.5 / size[0], "right": 1, "top": 1 - 0.3 / size[1], "bottom": 0}
    figure.subplots_adjust(**edges, wspace=0.02, hspace=0.02)
    _save(figure, path)


def plot_accuracy_against_compute(rows: list[Row], path: Path) -> None:
    """Validation error of each world's dynamics over 1 and 6 chunks against their training arithmetic, a dot per world.

    Of several dynamics in a world the residual flow counts.
    """
    value = {(row.method, row.setting, row.metric): row.value for row in rows}
    methods = list(dict.fromkeys(row.method for row in rows))
    metrics = [metric for metric in dict.fromkeys(row.metric for row in rows) if metric.startswith("token_l1")]
    figure, axes = plt.subplots(1, len(metrics), figsize=(5.5 * len(metrics), 4), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        spent = []
        for method in methods:
            dynamics = [name for name in ("residual_flow", "regression") if (method, name, metric) in value]
            if not dynamics:
                continue
            spent.append(value[method, dynamics[0], "training_petaflop"])
            axis.plot(spent[-1], value[method, dynamics[0], metric], "o", label=textwrap.fill(method, 44))
        ticks = np.unique(np.geomspace(min(spent), max(spent), 4)) if spent else []
        axis.set(xscale="log", xlabel="training of the dynamics, 1e15 FLOP", ylabel=metric.replace("_", " "))
        axis.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, -1].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    _save(figure, path)


def plot_success(rows: list[Row], path: Path) -> None:
    """Success in the simulator per method, with 95 % intervals; dots: training seeds, diamonds: in the dream."""
    pooled = [row for row in rows if row.metric == "success_rate" and "seed=" not in row.setting]
    figure, axis = plt.subplots(figsize=(8, 0.6 * len(pooled) + 1.6), constrained_layout=True)
    for position, row in enumerate(reversed(pooled)):
        low = row.value if row.low is None else row.low
        high = row.value if row.high is None else row.high
        axis.barh(position, row.value, color="#0b6e99", alpha=0.75, height=0.6)
        axis.plot([low, high], [position, position], color="black", linewidth=1.5)
        mine = [other for other in rows if other.method == row.method]
        seeds = [other.value for other in mine if other.metric == "success_rate" and "seed=" in other.setting]
        spots = [position] * len(seeds)
        axis.plot(seeds, spots, "o", color="white", markeredgecolor="black", markersize=5, clip_on=False)
        dream = [other.value for other in mine if other.metric == "dream_success_rate" and "seed=" not in other.setting]
        axis.plot(dream, [position] * len(dream), "D", color="#d9730d", markersize=7, clip_on=False)
    axis.plot([], [], "D", color="#d9730d", label="in the dream")
    axis.plot([], [], "o", color="white", markeredgecolor="black", label="one training seed")
    axis.set_yticks(range(len(pooled)), [row.method for row in reversed(pooled)])
    axis.set(xlim=(0, 1), xlabel="success rate in the simulator, 95 % interval", title=pooled[0].setting.split(",")[0])
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)
    temporary.replace(path)


def plot_bars(rows: list[Row], path: Path) -> None:
    """One panel per metric: a bar per method and setting, with 95 % intervals."""
    metrics, methods, settings = (
        list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("metric", "method", "setting")
    )
    size = (2.4 * len(metrics) + 2.5, 0.45 * len(methods) + 1.4)
    figure, (axes,) = plt.subplots(1, len(metrics), figsize=size, constrained_layout=True, squeeze=False, sharey=True)
    for axis, metric in zip(axes, metrics, strict=True):
        measured = [each for each in settings if any((row.metric, row.setting) == (metric, each) for row in rows)]
        height = 0.8 / len(measured)
        for offset, setting in enumerate(measured):
            chosen = {row.method: row for row in rows if row.metric == metric and row.setting == setting}
            places = [methods.index(name) + height * (offset + 0.5) for name in chosen]
            values = np.array([row.value for row in chosen.values()])
            below = values - [row.value if row.low is None else row.low for row in chosen.values()]
            above = np.array([row.value if row.high is None else row.high for row in chosen.values()]) - values
            interval = np.maximum([below, above], 0)  # few resamples may miss the value itself
            colour = f"C{settings.index(setting)}"
            axis.barh(places, values, 0.95 * height, xerr=interval, color=colour, error_kw={"linewidth": 1})
        axis.set_title(metric.replace("_", " "), fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    labels = [_label(name) for name in methods]
    axes[0].set_yticks(np.arange(len(methods)) + 0.4, labels, fontsize=8)
    axes[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=f"C{place}") for place in range(len(settings))]
    axes[-1].legend(handles, settings, frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def plot_calibration(rows: list[Row], path: Path) -> None:
    """For each setting the reliability of "lifted", and the ranks of the cube's true height among the draws."""
    settings = list(dict.fromkeys(row.setting.split(",")[0] for row in rows))
    figure, axes = plt.subplots(
        2, len(settings), figsize=(4.2 * len(settings), 7), constrained_layout=True, squeeze=False
    )
    for column, setting in enumerate(settings):
        reliability, histogram = axes[:, column]
        reliability.plot([0, 1], [0, 1], color="#9b9a97", linewidth=0.8)
        chosen = [row for row in rows if row.setting.split(",")[0] == setting]
        for number, method in enumerate(dict.fromkeys(row.method for row in chosen)):
            colour = COLOURS.get(method, f"C{number}")
            bins = [row for row in chosen if row.method == method and row.metric == "lifted_frequency"]
            if not bins:  # of a floor, which has scores alone
                continue
            places = [float(row.setting.rpartition("=")[2]) for row in bins]
            sizes = [10 + 120 * row.n / max(1, sum(other.n for other in bins)) for row in bins]
            reliability.plot(places, [row.value for row in bins], color=colour, linewidth=1, label=method)
            reliability.scatter(places, [row.value for row in bins], s=sizes, color=colour)
            ranked = [
                row for row in chosen if row.method == method and row.metric == "rank_share" and "cube" in row.setting
            ]
            if ranked:
                places = [int(row.setting.rpartition("=")[2]) for row in ranked]
                histogram.step(places, [row.value for row in ranked], where="mid", color=colour, label=method)
                histogram.axhline(1 / len(ranked), color="#9b9a97", linewidth=0.8)
        reliability.set(title=setting, xlabel="probability of lifted in the dream", ylabel="share that was lifted")
        histogram.set(xlabel="rank of the true height of the cube among the draws", ylabel="share", ylim=(0, None))
        reliability.legend(frameon=False, fontsize=7)
        for axis in (reliability, histogram):
            axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _label(method: str) -> str:
    """A method's name in words, one line or more for each of its parts."""
    return "\n".join(textwrap.fill(part, 42) for part in method.replace("_", " ").replace(", ", ",\n").split("\n"))


def plot_speed(rows: list[Row], path: Path) -> None:
    """Control steps per second: a bar per contender, and curves over the size of what the residual flow predicts."""
    speeds = [row for row in rows if row.metric == "control_steps_per_second"]
    contenders = [row for row in speeds if not row.setting.startswith("growth")]
    contenders.sort(key=lambda row: row.value)
    grown = {name: _growth(speeds, name) for name in ("envs", "patch_tokens", "chunk_length")}
    figure = plt.figure(figsize=(15, 0.22 * len(contenders) + 1.4), constrained_layout=True)
    axis, *growths = figure.subplots(1, 1 + len(grown), width_ratios=[1.6] + [1] * len(grown))
    for place, row in enumerate(contenders):
        low, high = (row.value if end is None else end for end in (row.low, row.high))
        axis.barh(place, row.value, color=COLOURS.get(row.method, "#9b9a97"))
        axis.plot([max(low, 0.5 * row.value), high], [place, place], color="black", linewidth=1)
        axis.text(1.15 * high, place, f"{row.value:,.3g}" if row.value < 100 else f"{row.value:,.0f}",
                  va="center", fontsize=7)  # fmt: skip
    axis.set_yticks(range(len(contenders)), [_contender_name(row) for row in contenders], fontsize=8)
    axis.set(xscale="log", xlabel="control steps per second")
    axis.set_xlim(0.5 * contenders[0].value, 4 * contenders[-1].value)
    reached = [speed for points in grown.values() for speed in points.values()]
    for axis_of, (name, points) in zip(growths, grown.items(), strict=True):
        axis_of.plot(list(points), list(points.values()), "o-", color=COLOURS["residual_flow"])
        axis_of.set(xscale="log", yscale="log", xlabel=name.replace("_", " ").replace("envs", "dreams side by side"))
        axis_of.set_xticks(list(points), [str(value) for value in points], fontsize=8)
        axis_of.minorticks_off()
        for place, speed in points.items():
            axis_of.annotate(
                f"{speed:,.0f}", (place, speed), (0, 6), textcoords="offset points", ha="center", fontsize=7,
                path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
            )  # fmt: skip
        axis_of.margins(x=0.12)
        axis_of.set_ylim(0.7 * min(reached), 1.4 * max(reached))
    growths[0].set_title("residual flow, one solver step, float32: control steps per second", fontsize=8, loc="left")
    figure.suptitle(speeds[0].hardware, fontsize=9)
    for each in (axis, *growths):
        each.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _growth(speeds: list[Row], name: str) -> dict[int, float]:
    """Speeds over one of the numbers that they grow with."""
    points = {}
    for row in speeds:
        setting = _setting(row)
        varied = next((key for key in ("patch_tokens", "chunk_length") if key in setting), "envs")
        if row.setting.startswith("growth") and varied == name:
            points[int(setting[name])] = row.value
    return points


def _contender_name(row: Row) -> str:
    setting = _setting(row)
    details = [setting[name] for name in ("precision",) if name in setting]
    if "solver_steps" in setting:
        details.insert(0, f"{setting['solver_steps']} solver step{'s' * (setting['solver_steps'] != '1')}")
    return ", ".join([row.method.replace("_", " "), f"{setting['envs']} envs", *details])


def plot_operators(rows: list[Row], path: Path) -> None:
    """Where the time of a step goes: one bar per precision, a part per operator."""
    precisions = sorted({_setting(row)["precision"] for row in rows}, reverse=True)
    operators = list(dict.fromkeys(_setting(row)["operator"] for row in rows))
    colours = dict(zip(operators, plt.colormaps["tab20"](np.linspace(0, 1, len(operators))), strict=True))
    figure, axis = plt.subplots(figsize=(10, 0.9 * len(precisions) + 1.2), constrained_layout=True)
    for place, precision in enumerate(reversed(precisions)):
        left = 0.0
        for row in (row for row in rows if _setting(row)["precision"] == precision):
            operator = _setting(row)["operator"]
            axis.barh(place, row.value, left=left, color=colours[operator], edgecolor="white")
            axis.text(left + row.value / 2, place, f"{row.value:.0%}", ha="center", va="center", fontsize=7)
            left += row.value
    axis.set_yticks(range(len(precisions)), precisions[::-1])
    axis.set(xlim=(0, 1), xlabel="share of the time of a step")
    axis.set_title(rows[0].hardware, fontsize=9)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[operator]) for operator in operators]
    axis.legend(handles, operators, frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _setting(row: Row) -> dict[str, str]:
    """The names and values in a row's setting."""
    return dict(part.split("=", 1) for part in row.setting.split(",") if "=" in part)


def plot_ranking(rows: list[Row], path: Path) -> None:
    """Success in the dream over success in the simulator, a point with its intervals per policy."""
    rates = {metric: {row.method: row for row in rows if row.metric == metric} for metric in RATES}
    figure, axis = plt.subplots(figsize=(8, 4.4), constrained_layout=True)
    axis.plot([0, 1], [0, 1], color="#9b9a97", linewidth=0.8, linestyle="--")
    names = sorted(rates[RATES[0]], key=lambda name: -rates[RATES[1]][name].value)
    for number, name in enumerate(names, start=1):
        real = rates[RATES[0]][name]
        dream = rates[RATES[1]][name]
        errors = [[[row.value - (row.low or 0)], [(row.high or 1) - row.value]] for row in (real, dream)]
        style: dict[str, Any] = {"fmt": "o", "markersize": 4, "linewidth": 0.8, "color": COLOURS["residual_flow"]}
        axis.errorbar(real.value, dream.value, xerr=errors[0], yerr=errors[1], **style)
        axis.annotate(str(number), (real.value, dream.value), fontsize=7, xytext=(4, 4), textcoords="offset points")
    statistics = [row for row in rows if row.metric in ("pearson", "spearman", "mmrv")]
    title = ", ".join(f"{row.metric} {row.value:.2f}" for row in statistics)
    axis.set(title=title, xlabel="success in the simulator", ylabel="success in the dream", xlim=(0, 1), ylim=(0, 1))
    listed = "\n".join(f"{number}  {name}" for number, name in enumerate(names, start=1))
    axis.text(
        1.05,
        1.0,
        listed,
        fontsize=min(8.0, 210 / (listed.count("\n") + 1)),
        verticalalignment="top",
        transform=axis.transAxes,
    )
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)
