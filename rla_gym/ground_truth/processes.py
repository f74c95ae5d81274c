"""Simulators in separate processes, which never outlive the environment that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode


def start_processes(
    make: Callable[[], gym.Env[Any, Any]], num_envs: int, autoreset_mode: AutoresetMode
) -> AsyncVectorEnv:
    """Environments in ``num_envs`` processes; if that fails or is interrupted, those that started are ended."""
    before = set(multiprocessing.active_children())
    in_child = partial(_ignore_interrupts, make, os.getpid())
    try:
        # Spawned, for a GL context does not survive a fork.
        return AsyncVectorEnv([in_child] * num_envs, context="spawn", autoreset_mode=autoreset_mode)
    except BaseException:
        _end(set(multiprocessing.active_children()) - before)
        raise


def end_processes(environments: AsyncVectorEnv) -> None:
    """Ends the processes, whatever they are doing: Gymnasium's close waits for answers that may never come."""
    _end(environments.processes)
    environments.closed = True


def _end(processes: Iterable[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _ignore_interrupts(make: Callable[[], gym.Env[Any, Any]], parent: int) -> gym.Env[Any, Any]:
    # The terminal sends Ctrl-C to the children, too. The parent alone shall answer it: by ending them.
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return make()
