"""`rla-gym bench speed`: control steps per second of the dream beside robosuite and video diffusion, in one run."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.contenders import (
    Contender,
    camera_robosuite,
    dream,
    matrix_product,
    prediction,
    tuned_robosuite,
    video_diffusion,
)
from benchmarks.operators import operator_shares
from benchmarks.plots import plot_operators, plot_speed
from benchmarks.results import Row, provenance, row_of, write_rows
from benchmarks.soak import memory
from rla_gym.tasks import episode_chunks, get_task
from world_models.devices import choose_device
from world_models.files import beside
from world_models.io import PRECISIONS, default_dynamics, dynamics_in, load_world, read_config, world_folder
from world_models.open_loop import open_loop

Facts = dict[str, str]
"""What :func:`benchmarks.results.provenance` gives."""
RATIOS = {
    "robosuite_camera": "control_steps_ratio_vs_robosuite",
    "robosuite_tuned": "control_steps_ratio_vs_tuned_robosuite",
}


@dataclass(frozen=True)
class SpeedConfig:
    """Settings of the speed benchmark. Leave the machine alone while it runs."""

    world: str = "lift"
    """Bundled world's name or a world folder."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``, for dreams and diffusion; robosuite runs on the CPU."""
    num_envs: int = 64
    """Dreams side by side."""
    solver_steps: tuple[int, ...] = (1, 2, 10, 30)
    """Solver steps of the residual flow that are compared."""
    growth_envs: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    """Numbers of dreams for the curve over them; on a GPU go on to 8192."""
    growth_chunk_lengths: tuple[int, ...] = (1, 2, 4, 8)
    """Chunk lengths for the curve over them."""
    growth_image_scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    """Pictures so many times as wide as the world's for the curve over their tokens; weights are random."""
    rounds: int = 5
    """Times that every contender has its turn, one after the other."""
    seconds: float = 2.0
    """Least length of a turn."""
    robosuite: bool = True
    """Compare with robosuite, which must be installed."""
    video_diffusion: bool = True
    """Compare with a video diffusion model, for which diffusers must be installed."""
    diffusion_frames: int = 2
    """Frames that it denoises side by side; more are no faster each on a CPU, on a GPU give ``num_envs``."""
    out: Path = Path("benchmarks/results/speed.json")
    """JSON of the result rows; pictures of the speeds and of where a step's time goes lie beside it."""
    progress: bool = True
    """Show a progress bar."""


def run(config: SpeedConfig) -> list[Row]:
    """Take turns, print, write JSON and picture; returns the rows.

    Raises:
        ValueError: a setting is out of range.
        ImportError: robosuite or diffusers is asked for and missing.
    """
    _check(config)
    folder = world_folder(config.world)
    default = default_dynamics(folder)
    device, cores = str(choose_device(config.device)), len(os.sched_getaffinity(0))
    size = get_task("Lift").camera.size
    facts = provenance(device)
    makers: list[Callable[[], Contender]] = []
    if config.video_diffusion:  # first: a missing extra is noticed before anything else starts
        makers.append(partial(video_diffusion, size, config.diffusion_frames, device))
    if config.robosuite:
        makers += [partial(tuned_robosuite, cores, config.world), partial(camera_robosuite, cores)]
    solved: dict[str, list[dict[str, Any]]] = {"residual_flow": [{"solver_steps": n} for n in config.solver_steps]}
    dreams = [{"dynamics": name, **more} for name in dynamics_in(folder) for more in solved.get(name, [{}])]
    for precision in PRECISIONS:
        makers.append(partial(matrix_product, device, precision))
        reduced = {} if precision == "float32" else {"precision": precision}
        makers += [partial(dream, config.num_envs, device, config.world, **one, **reduced) for one in dreams]
    with ExitStack() as stack:
        contenders = _open(makers, stack)
        arithmetic = [_flops(contender) if contender.frames else 0.0 for contender in contenders]
        speeds = take_turns(contenders, config.rounds, config.seconds, config.progress)
        profiled = _operator_rows(contenders, default, device, facts)
    rows = _rows(contenders, speeds, arithmetic, facts) + profiled
    write_rows(config.out, rows)

    makers = [partial(dream, envs, device, config.world) for envs in config.growth_envs]
    makers += [
        partial(dream, config.num_envs, device, config.world, chunk_length=length)
        for length in config.growth_chunk_lengths
    ]
    pixels = read_config(world_folder(config.world)).encoder.image_size
    makers += [
        partial(prediction, config.num_envs, device, config.world, round(scale * pixels))
        for scale in config.growth_image_scales
    ]
    with ExitStack() as stack:
        contenders = _open(makers, stack)
        speeds = take_turns(contenders, config.rounds, config.seconds / 2, config.progress)
    for contender, speed in zip(contenders, speeds, strict=True):
        rows.append(
            _row(contender.method, "control_steps_per_second", f"growth,{contender.setting}", speed, "1/s", facts)
        )
    for envs in dict.fromkeys((1, max(config.growth_envs))):
        setting = f"envs={envs},device={device}"
        rows.append(_row(default, "peak_memory_mib", setting, _memory_of(envs, device, config.world), "MiB", facts))
    difference = _reduced_precision_difference(config.world, device)
    rows.append(_row(default, "difference_vs_error", "precision=bfloat16,chunks=6", difference, "fraction", facts))
    write_rows(config.out, rows)
    plot_speed(rows, beside(config.out, ".png"))
    plot_operators(profiled, beside(config.out, "_operators.png"))
    _print(rows, device)
    return rows


def _open(makers: Sequence[Callable[[], Contender]], stack: ExitStack) -> list[Contender]:
    """All contenders, closed with the stack."""
    contenders = []
    for make in makers:
        contenders.append(make())
        stack.callback(contenders[-1].close)
    return contenders


def take_turns(
    contenders: Sequence[Contender], rounds: int, seconds: float, progress: bool = False
) -> list[np.ndarray]:
    """Control steps per second of each contender, one array (rounds,) float64 for each.

    All have a turn before any has its next, so that a machine that slows down slows all of them down.
    """
    for contender in contenders:
        contender.call()
    speeds = np.zeros((len(contenders), rounds))
    turns = [(turn, index) for turn in range(rounds) for index in range(len(contenders))]
    for turn, index in tqdm(turns, desc="turns", disable=not progress):
        calls, began = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - began < seconds:
            contenders[index].call()
            calls += 1
        spent = time.perf_counter() - began
        speeds[index, turn] = calls * contenders[index].control_steps / spent
    return list(speeds)


def _rows(
    contenders: Sequence[Contender], speeds: Sequence[np.ndarray], arithmetic: Sequence[float], facts: Facts
) -> list[Row]:
    """Speeds, ratios of the same rounds' speeds, and arithmetic, of each contender."""
    simulators = {
        name: speed
        for contender, speed in zip(contenders, speeds, strict=True)
        if (name := RATIOS.get(contender.method)) is not None
    }
    peaks = {
        contender.setting.rpartition("=")[2]: speed
        for contender, speed in zip(contenders, speeds, strict=True)
        if contender.method == "matrix_product"
    }
    rows = []
    for contender, speed, flops in zip(contenders, speeds, arithmetic, strict=True):
        if contender.method == "matrix_product":
            measured = {"gflops_per_second": (speed / 1e9, "GFLOP/s")}
        else:
            measured = {"control_steps_per_second": (speed, "1/s")}
        if contender.frames:
            measured |= {name: (speed / rival, "fraction") for name, rival in simulators.items()}
            each = np.array([flops / contender.frames / 1e9])
            measured["gflops_per_predicted_frame"] = (each, "GFLOP")
            share = flops * speed / contender.control_steps / peaks[contender.precision]
            measured["share_of_peak"] = (share, "fraction")
        for metric, (values, unit) in measured.items():
            rows.append(_row(contender.method, metric, contender.setting, values, unit, facts))
    return rows


def _operator_rows(contenders: Sequence[Contender], dynamics: str, device: str, facts: Facts) -> list[Row]:
    """Where the time of the dreams' steps goes, for these dynamics, with fewest solver steps, in each precision."""
    fewest = {contender.precision: contender for contender in reversed(contenders) if contender.method == dynamics}
    return [
        _row(
            dynamics,
            "share_of_step",
            f"operator={name},precision={precision}",
            np.array([share]),
            "fraction",
            facts,
        )
        for precision, contender in fewest.items()
        for name, share in operator_shares(contender.call, device).items()
    ]


def _row(method: str, metric: str, setting: str, values: np.ndarray, unit: str, facts: Facts) -> Row:
    return row_of(
        values, bench="speed", task="Lift", method=method, metric=metric, setting=setting, seeds="0", unit=unit, **facts
    )


def _reduced_precision_difference(world: str, device: str) -> np.ndarray:
    """How far dreams of the demonstrations' actions in bfloat16 end from those in float32, in units (1,) of the error.

    Mean absolute difference of the features after as many chunks as an episode has, divided by that between the dream
    in float32 and the demonstrations' own frames.
    """
    ends = []
    for precision in PRECISIONS:
        opened = load_world(world, device=device, precision=precision)
        demonstrations, length = opened.demonstrations, opened.model.chunk_length
        chunks = min(
            episode_chunks(opened.model.config.task, opened.model.config.max_chunks),
            (demonstrations.features.shape[1] - 1) // length,
        )
        actions = demonstrations.actions[:, : chunks * length].unflatten(1, (chunks, length))
        ends.append(open_loop(opened.model, demonstrations.features[:, 0].float(), actions).features[:, -1])
    error = (ends[0] - demonstrations.features[:, chunks * length].float()).abs().mean()
    return np.array([float((ends[1] - ends[0]).abs().mean() / error)])


def _memory_of(num_envs: int, device: str, world: str) -> np.ndarray:
    """MiB (1,) at most that a process needed, a new one, to make this dream and step it twice.

    On a CPU that is all of the process, libraries included; on a GPU what torch reserved there, without CUDA itself.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return np.array([pool.submit(_peak_memory, num_envs, device, world).result()])


def _peak_memory(num_envs: int, device: str, world: str) -> float:
    contender = dream(num_envs, device, world)
    for _ in range(2):
        contender.call()
    contender.close()
    return memory("VmHWM") if device == "cpu" else torch.cuda.max_memory_reserved(device) / 2**20


def _flops(contender: Contender) -> float:
    """Floating-point operations of one call, by torch's counter: matrix products, convolutions and attention.

    Recurrences, about 2 % of the arithmetic here, are not counted. What a dream in bfloat16 still does in float32
    counts like the rest.
    """
    with FlopCounterMode(display=False) as counter:
        contender.call()
    return float(counter.get_total_flops())


def _print(rows: list[Row], device: str) -> None:
    """One line per contender, one column per metric."""
    rows = [row for row in rows if row.metric != "share_of_step"]  # the picture shows these
    metrics = list(dict.fromkeys(row.metric for row in rows))
    table = Table(title="speed: mean over turns")
    for name in ("method", "setting", *(metric.replace("_", " ") for metric in metrics)):
        about = name in {"method", "setting"}
        table.add_column(name, justify="left" if about else "right", no_wrap=about)
    for method, setting in dict.fromkeys((row.method, row.setting) for row in rows):
        values = {row.metric: f"{row.value:.4g}" for row in rows if (row.method, row.setting) == (method, setting)}
        table.add_row(method, setting, *(values.get(metric, "") for metric in metrics))
    console = Console(width=max(190, Console().width))
    console.print(table)
    if device == "cpu":
        console.print("No GPU here: rows are of the CPU alone.")


def _check(config: SpeedConfig) -> None:
    if not 2 <= config.rounds <= 10:
        raise ValueError(f"rounds={config.rounds}: give 2 to 10, for an interval over them")
    if not config.seconds > 0:
        raise ValueError(f"seconds must be positive, got {config.seconds}")
    numbers = {"num_envs": (config.num_envs,), "diffusion_frames": (config.diffusion_frames,)}
    for name in ("solver_steps", "growth_envs", "growth_chunk_lengths"):
        numbers[name] = getattr(config, name)
    for name, values in numbers.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name} must be at least 1, got {' '.join(map(str, values)) or 'nothing'}")
    if not config.growth_image_scales or min(config.growth_image_scales) < 0.25:
        raise ValueError(
            f"growth_image_scales={config.growth_image_scales} must be at least 0.25, so that tokens remain"
        )
    longest = read_config(world_folder(config.world)).chunk_length
    if max(config.growth_chunk_lengths) > longest:
        raise ValueError(f"growth_chunk_lengths: the world's longest chunk is {longest}")
