"""One training loop for every stage: AdamW, cosine schedule, EMA, bf16, resumable after a kill, in any processes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from world_models.devices import has_bfloat16
from world_models.distributed.processes import Processes, launched
from world_models.seeding import hashed_seed
from world_models.training.checkpoint import Progress, StageCheckpoint
from world_models.training.read_ahead import read_ahead
from world_models.training.weight_average import WeightAverage

Scalars = dict[str, float]
Draw = Callable[[torch.Generator, int], Any]
"""Draws a number of samples with a source of randomness on the CPU, in a thread of its own and a batch ahead."""
Loss = Callable[[Any, torch.Generator], Tensor]
"""The scalar mean loss of what was drawn; its own chance goes on with the generator that it was drawn with."""
FINE_TUNING = 0.3
"""Part of the learning rate that weights have which were trained before."""
LOG_EVERY = 20
"""Iterations between two losses in TensorBoard."""


@dataclass(frozen=True)
class OptimisationConfig:
    """How a stage is optimised.

    Attributes:
        iterations: optimiser steps.
        batch_size: samples in a step, over all processes.
        micro_batches: parts that a step's batch is drawn in; a process passes its parts through one after another and
            adds up their gradients, which saves memory. At least one for each process. A result depends on the number
            of parts, and not on how many processes share them.
        learning_rate: peak of the cosine schedule.
        warmup: steps of linear warm-up.
        weight_decay: AdamW's, on matrices alone.
        ema_decay: decay of the average of weights that the stage hands on.
        gradient_clip: largest norm of the gradient.
        bf16: run matrix products in bfloat16, where the device has instructions for that.
        validate_every: steps between two validations.
        checkpoint_seconds: seconds between two checkpoints.
    """

    iterations: int = 2000
    batch_size: int = 64
    micro_batches: int = 1
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.02
    ema_decay: float = 0.995
    gradient_clip: float = 1.0
    bf16: bool = True
    validate_every: int = 250
    checkpoint_seconds: float = 60.0


def learning_rate_at(config: OptimisationConfig, iteration: int) -> float:
    """Linear warm-up, then cosine to a hundredth of the peak."""
    if iteration < config.warmup:
        return config.learning_rate * (iteration + 1) / config.warmup
    progress = (iteration - config.warmup) / max(1, config.iterations - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def optimise(
    name: str,
    module: nn.Module,
    draw: Draw,
    loss: Loss,
    config: OptimisationConfig,
    folder: Path,
    *,
    key: dict[str, Any],
    validate: Callable[[], Scalars] | None = None,
    after_step: Callable[[], None] | None = None,
    fine_tuned: nn.Module | None = None,
) -> Scalars:
    """Train ``module`` in place and leave the average of its weights in it.

    Called in every process that was launched, it trains one model with all of them (the main one writes). The result is
    that of one process with as many micro-batches, up to rounding.

    Args:
        name: name of the stage: of its checkpoint, its scalars and its progress bar.
        module: what is trained; parameters that require gradients.
        draw: the samples of a micro-batch, with a generator that is keyed by iteration and micro-batch.
        loss: their mean loss.
        config: how.
        folder: holds ``<name>.safetensors`` (checkpoint, then result) and TensorBoard's files.
        key: everything the result depends on besides ``config``; a checkpoint of another key is refused. Its ``seed``,
            micro-batch and iteration key what is drawn, so that a resumed run draws the same.
        validate: called with averaged weights in place; returns scalars to log.
        after_step: called after every step of the optimiser.
        fine_tuned: part of ``module`` that was trained before, and learns at :data:`FINE_TUNING` of the rate.

    Returns:
        The last validation's scalars (empty without ``validate``), with ``seconds``, ``iterations`` and
        ``training_petaflop``, the arithmetic of all iterations in 1e15 operations, counted on one of them.

    Raises:
        ValueError: the folder holds this stage of another config or other inputs, or the batch cannot be shared evenly.
        FloatingPointError: the loss is not finite.
    """
    processes = launched(next(module.parameters()).device.type)
    gradients = _Gradients(name, module, draw, loss, config, processes, key["seed"], fine_tuned)
    processes.copy_from_main(module)
    average, identity = WeightAverage(module), {"config": _identity(config, gradients.parts), **key}
    checkpoint = StageCheckpoint(Path(folder) / f"{name}.safetensors", name, identity)
    processes.wait()
    progress = checkpoint.restore(module, average, gradients.optimiser)
    if progress.iteration >= config.iterations:
        average.hand_over()
        return progress.metrics

    log = _Log(name, config, progress, Path(folder), processes)
    began = saved = time.monotonic()
    module.train()
    for iteration in log.iterations():
        last = iteration + 1 == config.iterations
        step = gradients.step(iteration, progress.iteration)
        log.wait(step.waited)
        if after_step is not None:
            after_step()
        average.update(min(config.ema_decay, (iteration + 1) / (iteration + 10)))
        if last:
            average.share(processes)
        if iteration % LOG_EVERY == 0 or last:
            log.losses(iteration, step, progress.metrics)
        if validate is not None and (last or (iteration + 1) % config.validate_every == 0):
            with average.in_place():
                progress.metrics = validate()
            log.validation(iteration, progress.metrics)
        if not last and time.monotonic() - saved <= config.checkpoint_seconds:
            continue
        saved = time.monotonic()
        elapsed = progress.seconds + saved - began
        if last:
            progress.metrics |= _effort(elapsed, config, step)
        done = Progress(iteration + 1, elapsed, progress.metrics)
        if processes.main and math.isfinite(float(step.loss)):
            checkpoint.save(done, module, average, None if last else gradients.optimiser)
    log.close()
    average.hand_over()
    return progress.metrics


def _effort(seconds: float, config: OptimisationConfig, last: _Step) -> Scalars:
    return {"seconds": seconds, "iterations": float(config.iterations), "training_petaflop": last.petaflop}


@dataclass(frozen=True)
class _Step:
    """What one iteration gave: this process's share of the loss, the norm of the gradient, the learning rate, the
    seconds that passed in waiting for samples, and, of the last iteration, the arithmetic of all in 1e15 operations."""

    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float
    waited: float
    petaflop: float


class _Gradients:
    """Draws samples ahead, adds up the gradients of a batch's parts over all processes, and steps AdamW."""

    def __init__(
        self, name: str, module: nn.Module, draw: Draw, loss: Loss, config: OptimisationConfig, processes: Processes,
        seed: int, fine_tuned: nn.Module | None = None,
    ) -> None:  # fmt: skip
        self._module, self._draw, self._loss, self._config = module, draw, loss, config
        self._processes, self._seed = processes, seed
        self._device = next(module.parameters()).device
        self._reduced = config.bf16 and has_bfloat16(self._device)
        self.parts = max(config.micro_batches, processes.count)
        _check_shares(name, config.batch_size, self.parts, processes)
        self._process_parts = range(processes.rank, self.parts, processes.count)
        self._ahead: Iterator[tuple[Any, torch.Generator]] | None = None
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        before = set() if fine_tuned is None else set(fine_tuned.parameters())
        self._rate_factors: list[float] = []
        groups: list[dict[str, Any]] = []
        for factor, parameters in (
            (1.0, [p for p in self._parameters if p not in before]),
            (FINE_TUNING, [p for p in self._parameters if p in before]),
        ):
            for matrices, decay in ((True, config.weight_decay), (False, 0.0)):
                chosen = [p for p in parameters if (p.ndim >= 2) is matrices]
                if chosen or factor == 1.0:
                    groups.append({"params": chosen, "weight_decay": decay})
                    self._rate_factors.append(factor)
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))

    def step(self, iteration: int, first: int) -> _Step:
        """One iteration; ``first`` is the one that this run began with."""
        config = self._config
        if self._ahead is None:
            self._ahead = self._read_ahead(first)
        rate = learning_rate_at(config, iteration)
        for group, factor in zip(self.optimiser.param_groups, self._rate_factors, strict=True):
            group["lr"] = factor * rate
        self.optimiser.zero_grad(set_to_none=True)
        total, waited = torch.zeros((), device=self._device), 0.0
        last = iteration + 1 == config.iterations
        with FlopCounterMode(display=False) if last else nullcontext() as counter:
            for _ in self._process_parts:
                asked = time.monotonic()
                batch, generator = next(self._ahead)
                waited += time.monotonic() - asked
                with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._reduced):
                    share = self._loss(batch, generator) / self.parts
                share.backward()
                total += share.detach()
        self._processes.sum_gradients(self._module)
        norm = nn.utils.clip_grad_norm_(self._parameters, config.gradient_clip)
        self.optimiser.step()
        operations = 0 if counter is None else counter.get_total_flops() * self._processes.count * config.iterations
        return _Step(total, norm, rate, waited, operations / 1e15)

    def _read_ahead(self, first: int) -> Iterator[tuple[Any, torch.Generator]]:
        samples = self._config.batch_size // self.parts
        turns = itertools.product(range(first, self._config.iterations), self._process_parts)
        return read_ahead(
            partial(_drawn, self._draw, samples, (self._seed, part, iteration)) for iteration, part in turns
        )


class _Log:
    """Progress bar and TensorBoard of a stage; silent but in the main process."""

    def __init__(
        self, name: str, config: OptimisationConfig, progress: Progress, folder: Path, processes: Processes
    ) -> None:
        self._name, self._processes = name, processes
        self._writer = None
        if processes.main:
            self._writer = SummaryWriter(str(folder / "tensorboard" / name), purge_step=progress.iteration)
        self._bar = tqdm(
            range(progress.iteration, config.iterations), initial=progress.iteration, total=config.iterations,
            desc=name, unit="it", disable=not processes.main,
        )  # fmt: skip
        self._waited, self._logged, self._running = 0.0, time.monotonic(), math.nan

    def iterations(self) -> Iterator[int]:
        """The iterations that are left, shown as they pass."""
        return iter(self._bar)

    def losses(self, iteration: int, step: _Step, metrics: Scalars) -> None:
        """Log a step; raises FloatingPointError where the loss of all processes is not finite."""
        loss = float(self._processes.sum(step.loss))
        if not math.isfinite(loss):
            raise FloatingPointError(f"{self._name}: loss is {loss} at iteration {iteration}; lower learning_rate")
        self._running = loss if math.isnan(self._running) else 0.9 * self._running + 0.1 * loss
        newest = {key: f"{value:.3f}" for key, value in list(metrics.items())[:2]}
        self._bar.set_postfix(loss=f"{self._running:.4f}", **newest)
        if self._writer is not None:
            self._writer.add_scalar(f"losses/{self._name}", loss, iteration)
            self._writer.add_scalar(f"charts/{self._name}/gradient_norm", float(step.gradient_norm.detach()), iteration)
            self._writer.add_scalar(f"charts/{self._name}/learning_rate", step.learning_rate, iteration)
            now = time.monotonic()
            self._writer.add_scalar(f"charts/{self._name}/input_share", self._waited / (now - self._logged), iteration)
            self._waited, self._logged = 0.0, now

    def wait(self, seconds: float) -> None:
        """Count seconds that passed in waiting for samples."""
        self._waited += seconds

    def validation(self, iteration: int, metrics: Scalars) -> None:
        """Log scalars of a validation."""
        if self._writer is not None:
            for scalar, number in metrics.items():
                self._writer.add_scalar(f"validation/{self._name}/{scalar}", number, iteration + 1)

    def close(self) -> None:
        """End bar and files."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()


def _drawn(draw: Draw, samples: int, entropy: tuple[int, int, int]) -> tuple[Any, torch.Generator]:
    generator = torch.Generator().manual_seed(hashed_seed(*entropy))
    return draw(generator, samples), generator


def _identity(config: OptimisationConfig, parts: int) -> dict[str, Any]:
    identity = {k: v for k, v in vars(config).items() if k not in {"checkpoint_seconds", "validate_every"}}
    del identity["micro_batches"]
    # Stages of one part are those from before there were several.
    return identity | ({"micro_batches": parts} if parts > 1 else {})


def _check_shares(name: str, batch_size: int, parts: int, processes: Processes) -> None:
    if batch_size % parts or parts % processes.count:
        raise ValueError(
            f"{name}: a batch of {batch_size} in micro_batches={parts} cannot be shared evenly by {processes.count} "
            "processes; make batch_size a multiple of micro_batches, and that one of the number of processes"
        )
