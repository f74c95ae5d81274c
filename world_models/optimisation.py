"""One training loop for every stage: AdamW, cosine schedule, EMA, bf16, resumable after a kill, in any processes."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from world_models.checkpoint import optimiser_tensors, restore_optimiser, save_tensors
from world_models.processes import Processes, has_bfloat16, launched
from world_models.read_ahead import read_ahead
from world_models.seeding import hashed_seed

Scalars = dict[str, float]
Draw = Callable[[torch.Generator, int], Any]
"""Draws a number of samples with a source of randomness on the CPU, in a thread of its own and a batch ahead."""
Loss = Callable[[Any, torch.Generator], Tensor]
"""The scalar mean loss of what was drawn; its own chance goes on with the generator that it was drawn with."""
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
) -> Scalars:
    """Train ``module`` in place and leave the average of its weights in it.

    Called in every process that was launched (:mod:`world_models.processes`), it trains one model with all of them;
    the main process writes. Curve and result are those of one process with as many micro-batches, up to the order of
    additions.

    Args:
        name: name of the stage: of its checkpoint, its scalars and its progress bar.
        module: what is trained; parameters that require gradients.
        draw: the samples of a micro-batch, with a generator that is keyed by iteration and micro-batch.
        loss: their mean loss.
        config: how.
        folder: holds ``<name>.safetensors`` (checkpoint, then result) and TensorBoard's files.
        key: everything the result depends on besides ``config``; a checkpoint of another key is refused. Its ``seed``,
            the micro-batch and the iteration key what is drawn, so that a resumed run draws what it would have drawn.
        validate: called with averaged weights in place; returns scalars to log.
        after_step: called after every step of the optimiser, in every process.

    Returns:
        The last validation's scalars (empty without ``validate``), with ``seconds``, ``iterations`` and
        ``training_petaflop``, the arithmetic of all iterations in 1e15 operations, counted on one of them.

    Raises:
        ValueError: the folder holds this stage trained with another config or on other inputs, or the batch cannot be
            shared out evenly.
        FloatingPointError: the loss is not finite.
    """
    path = Path(folder) / f"{name}.safetensors"
    device = next(module.parameters()).device
    processes = launched(device.type)
    parts = max(config.micro_batches, processes.count)
    _check_shares(name, config.batch_size, parts, processes)
    identity = json.dumps({"config": _identity(config, parts), **key}, sort_keys=True, default=str)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    processes.copy_from_main(module)
    average = {key_: tensor.detach().clone() for key_, tensor in module.state_dict().items()}
    start, spent = 0, 0.0
    metrics: Scalars = {}
    processes.wait()
    if path.is_file():
        start, spent, metrics = _restore(path, identity, name, module, average, optimiser)
    if start >= config.iterations:
        module.load_state_dict(average)
        return metrics

    reduced = config.bf16 and has_bfloat16(device)
    own_parts = range(processes.rank, parts, processes.count)
    writer = None
    if processes.main:
        writer = SummaryWriter(str(Path(folder) / "tensorboard" / name), purge_step=start)
    began = saved = time.monotonic()
    module.train()
    turns = itertools.product(range(start, config.iterations), own_parts)
    ahead = read_ahead(
        partial(_drawn, draw, config.batch_size // parts, (key["seed"], part, iteration)) for iteration, part in turns
    )
    waited, logged = 0.0, began
    bar = tqdm(
        range(start, config.iterations), initial=start, total=config.iterations, desc=name, unit="it",
        disable=not processes.main,
    )  # fmt: skip
    running = math.nan
    for iteration in bar:
        rate = learning_rate_at(config, iteration)
        for group in optimiser.param_groups:
            group["lr"] = rate
        last = iteration + 1 == config.iterations
        optimiser.zero_grad(set_to_none=True)
        value = torch.zeros((), device=device)
        with FlopCounterMode(display=False) if last else nullcontext() as counter:
            for _ in own_parts:
                asked = time.monotonic()
                batch, generator = next(ahead)
                waited += time.monotonic() - asked
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=reduced):
                    share = loss(batch, generator) / parts
                share.backward()
                value += share.detach()
        processes.sum_gradients(module)
        norm = nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        optimiser.step()
        if after_step is not None:
            after_step()
        decay = min(config.ema_decay, (iteration + 1) / (iteration + 10))
        with torch.no_grad():
            for key_, tensor in module.state_dict().items():
                if tensor.is_floating_point():
                    average[key_].lerp_(tensor, 1 - decay)
                else:
                    average[key_].copy_(tensor)
            if last:  # running statistics, as of a batch normalisation, are each process's own until here
                for tensor in average.values():
                    if tensor.is_floating_point():
                        tensor.copy_(processes.average(tensor))
        save = last or time.monotonic() - saved > config.checkpoint_seconds
        if iteration % LOG_EVERY == 0 or last:
            current = float(processes.sum(value))
            if not math.isfinite(current):
                raise FloatingPointError(f"{name}: loss is {current} at iteration {iteration}; lower learning_rate")
            running = current if math.isnan(running) else 0.9 * running + 0.1 * current
            bar.set_postfix(loss=f"{running:.4f}", **{k: f"{v:.3f}" for k, v in list(metrics.items())[:2]})
            if writer is not None:
                writer.add_scalar(f"losses/{name}", current, iteration)
                writer.add_scalar(f"charts/{name}/gradient_norm", float(norm.detach()), iteration)
                writer.add_scalar(f"charts/{name}/learning_rate", rate, iteration)
                now = time.monotonic()
                writer.add_scalar(f"charts/{name}/input_share", waited / (now - logged), iteration)
                waited, logged = 0.0, now
        if validate is not None and (last or (iteration + 1) % config.validate_every == 0):
            metrics = _validate_average(module, average, validate)
            if writer is not None:
                for scalar, number in metrics.items():
                    writer.add_scalar(f"validation/{name}/{scalar}", number, iteration + 1)
        if save:
            saved = time.monotonic()
            elapsed = spent + saved - began
            if last:
                assert counter is not None
                arithmetic = counter.get_total_flops() * processes.count * config.iterations / 1e15
                metrics = {**metrics, "seconds": elapsed, "iterations": float(config.iterations)}
                metrics["training_petaflop"] = arithmetic
            if processes.main and math.isfinite(float(value)):
                _save(path, identity, iteration + 1, elapsed, metrics, module, average, optimiser)
    if writer is not None:
        writer.close()
    module.load_state_dict(average)
    module.eval()
    return metrics


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


def _validate_average(module: nn.Module, average: dict[str, Tensor], validate: Callable[[], Scalars]) -> Scalars:
    trained = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
    module.load_state_dict(average)
    module.eval()
    with torch.inference_mode():
        metrics = validate()
    module.load_state_dict(trained)
    module.train()
    return metrics


def _save(path: Path, identity: str, iteration: int, seconds: float, metrics: Scalars, module, average, optimiser):
    tensors = {f"average.{key}": tensor for key, tensor in average.items()}
    if "seconds" not in metrics:
        # A finished stage keeps only its result.
        tensors |= {f"module.{key}": tensor for key, tensor in module.state_dict().items()}
        tensors |= {f"optimiser.{key}": tensor for key, tensor in optimiser_tensors(optimiser).items()}
    state = {"iteration": iteration, "seconds": seconds, "metrics": metrics}
    save_tensors(path, tensors, {"identity": identity, "state": json.dumps(state)})


def _restore(path: Path, identity: str, name: str, module, average, optimiser) -> tuple[int, float, Scalars]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["identity"] != identity:
            raise ValueError(
                f"{path} was trained with other settings or on other data than this run asks for, or with batches in "
                "another number of parts (micro_batches, or processes where these are more); choose another --out, or "
                f"delete that file to train the stage {name} anew"
            )
        state = json.loads(metadata["state"])
        groups: dict[str, dict[str, Tensor]] = {"average": {}, "module": {}, "optimiser": {}}
        for key in file.keys():
            group, rest = key.split(".", 1)
            groups[group][rest] = file.get_tensor(key)
    for key, tensor in groups["average"].items():
        average[key].copy_(tensor)
    if groups["module"]:
        module.load_state_dict(groups["module"])
        restore_optimiser(optimiser, groups["optimiser"])
    return state["iteration"], state["seconds"], state["metrics"]
