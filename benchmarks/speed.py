"""`rla-gym bench speed`: control steps per second of the dream beside robosuite and video diffusion, in one run."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from agents.evaluate import command_line, describe_hardware
from agents.policy import choose_device
from benchmarks.contenders import (
    Contender,
    camera_robosuite,
    dream,
    matmul_rates,
    tuned_robosuite,
    video_diffusion,
)
from benchmarks.plots import plot_speed
from benchmarks.results import Row, today, write_rows
from benchmarks.soak import memory
from rla_gym.tasks import get_task
from world_models.world_model import PRECISIONS


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
    """Solver steps of the flow that are compared."""
    growth_envs: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    """Numbers of dreams for the curve over them; on a GPU go on to 8192."""
    growth_chunk_lengths: tuple[int, ...] = (1, 2, 4, 8)
    """Chunk lengths for the curve over them."""
    rounds: int = 5
    """Times that every contender has its turn, one after the other."""
    seconds: float = 2.0
    """Least length of a turn."""
    robosuite: bool = True
    """Compare with robosuite, which must be installed."""
    video_diffusion: bool = True
    """Compare with a video diffusion model, for which diffusers must be installed."""
    out: Path = field(default=Path("benchmarks/results/speed.json"))
    """JSON of the result rows; the picture lies beside it."""
    progress: bool = True
    """Show a progress bar."""


def run(config: SpeedConfig) -> list[Row]:
    """Take turns, print, write JSON and picture; returns the rows.

    Raises:
        ValueError: a setting is out of range.
        ImportError: robosuite or diffusers is asked for and missing.
    """
    if config.rounds < 1 or config.seconds <= 0 or config.num_envs < 1:
        raise ValueError("rounds and num_envs must be at least 1, and seconds positive")
    device, cores = str(choose_device(config.device)), len(os.sched_getaffinity(0))
    rates = matmul_rates(device, tuple(PRECISIONS))
    compared = [
        dream(config.num_envs, device, config.world, solver_steps=steps, precision=precision)
        for precision in PRECISIONS
        for steps in config.solver_steps
    ]
    compared += [
        dream(config.num_envs, device, config.world, dynamics="regression", precision=precision)
        for precision in PRECISIONS
    ]
    if config.robosuite:
        compared += [tuned_robosuite(cores, config.world), camera_robosuite(cores)]
    if config.video_diffusion:
        compared.append(video_diffusion(get_task("Lift").camera.size, 2, device))
    arithmetic = {id(contender): _flops(contender) for contender in compared if contender.frames}
    speeds = take_turns(compared, config.rounds, config.seconds, config.progress)

    facts = (describe_hardware(device), today(), command_line())
    rows: list[Row] = []

    def add(contender: Contender, metric: str, values: np.ndarray | float, unit: str) -> None:
        middle, *ends = np.quantile(np.atleast_1d(values), [0.5, 0.0, 1.0])
        low, high = ends if np.size(values) > 1 else (None, None)
        rows.append(
            Row("speed", "Lift", contender.method, metric, contender.setting, float(middle), low, high, np.size(values),
                "0", unit, *facts)
        )  # fmt: skip

    simulators = {
        contender.method: speed for contender, speed in zip(compared, speeds, strict=True) if not contender.frames
    }
    for contender, speed in zip(compared, speeds, strict=True):
        add(contender, "control_steps_per_second", speed, "1/s")
        if not contender.frames:
            continue
        for rival, metric in (("robosuite_camera", "robosuite"), ("robosuite_tuned", "tuned_robosuite")):
            if rival in simulators:
                add(contender, f"control_steps_ratio_vs_{metric}", speed / simulators[rival], "1")
        flops = arithmetic[id(contender)]
        add(contender, "gflops_per_predicted_frame", flops / contender.frames / 1e9, "GFLOP")
        share = flops * speed / contender.control_steps / rates[contender.precision]
        add(contender, "share_of_peak", share, "fraction of a matrix product's rate")
    for contender in compared:
        contender.close()
    compared = []

    rows += _growth(config, device, facts)
    write_rows(config.out, rows)
    plot_speed(rows, config.out.with_suffix(".png"))
    _print(rows, device, rates)
    return rows


def take_turns(
    contenders: Sequence[Contender], rounds: int, seconds: float, progress: bool = False
) -> list[np.ndarray]:
    """Control steps per second (rounds,) of each contender.

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


def _growth(config: SpeedConfig, device: str, facts: tuple[str, str, str]) -> list[Row]:
    """Rows of how speed grows with dreams and with chunk length, and of the memory that many dreams take."""
    rows = []
    for name, values in (("envs", config.growth_envs), ("chunk_length", config.growth_chunk_lengths)):
        for value in values:
            if name == "envs":
                contender = dream(value, device, config.world)
            else:
                contender = dream(config.num_envs, device, config.world, chunk_length=value)
            (speed,) = take_turns([contender], 3, config.seconds / 2)
            contender.close()
            low, middle, high = (float(found) for found in np.sort(speed))
            rows.append(
                Row("speed", "Lift", "flow", "control_steps_per_second", f"growth,{contender.setting}", middle, low,
                    high, len(speed), "0", "1/s", *facts)
            )  # fmt: skip
    most = max(config.growth_envs)
    # A process of its own: its peak is this dream's, libraries included.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        mebibytes = pool.apply(_peak_memory, (most, device, config.world))
    rows.append(
        Row("speed", "Lift", "flow", "peak_memory_mib", f"envs={most},device={device}", mebibytes, None, None, 1, "0",
            "MiB", *facts)
    )  # fmt: skip
    return rows


def _peak_memory(num_envs: int, device: str, world: str) -> float:
    """MiB at most that a process held which made this dream and stepped it: of the GPU, where the dream is there."""
    contender = dream(num_envs, device, world)
    for _ in range(2):
        contender.call()
    contender.close()
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return memory("VmHWM")


def _flops(contender: Contender) -> float:
    """Floating-point operations of one call, by torch's counter: matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        contender.call()
    return float(counter.get_total_flops())


def _print(rows: list[Row], device: str, rates: dict[str, float]) -> None:
    """One line per contender, one column per metric."""
    console = Console(width=max(170, Console().width))
    for precision, rate in rates.items():
        console.print(f"a matrix product in {precision} on {device}: {rate / 1e9:.0f} GFLOP/s")
    metrics = list(dict.fromkeys(row.metric for row in rows))
    table = Table(title="speed: median over turns")
    for name in ("method", "setting", *(metric.replace("_", " ") for metric in metrics)):
        about = name in {"method", "setting"}
        table.add_column(name, justify="left" if about else "right", no_wrap=about)
    for method, setting in dict.fromkeys((row.method, row.setting) for row in rows):
        found = {row.metric: f"{row.value:.4g}" for row in rows if (row.method, row.setting) == (method, setting)}
        table.add_row(method, setting, *(found.get(metric, "") for metric in metrics))
    console.print(table)
    if device == "cpu":
        console.print("No GPU here: rows are of the CPU alone.")
