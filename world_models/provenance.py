"""Where a number comes from: the command line, the machine and the date that result rows and model cards name."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from pathlib import Path

import torch


def command_line() -> str:
    """The command that runs, with the program's name instead of its path."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe_hardware(device: str | torch.device = "cpu", processes: int = 1) -> str:
    """The machine in words: the GPU's name, or the CPU's with torch's thread count.

    Args:
        device: where the work was done.
        processes: how many did it, each on a device of this kind.
    """
    one = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else _describe_cpu()
    return one if processes == 1 else f"{processes} x {one}"


def today() -> str:
    """The date in ISO form, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def _describe_cpu() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {torch.get_num_threads()} threads"
