"""A training loop for what takes seconds; :mod:`world_models.training.optimisation` has the one with checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

SHOW_EVERY = 50
"""Steps between two losses in the progress bar."""


def fit(
    optimiser: torch.optim.Optimizer,
    schedule: LRScheduler,
    loss: Callable[[], Tensor],
    steps: int,
    *,
    title: str,
    clipped: Iterable[nn.Parameter] = (),
    largest_norm: float = 1.0,
    progress: bool = True,
) -> Tensor:
    """Take gradient steps; returns the losses ``(steps,)``, on their device.

    Args:
        optimiser: of the parameters that are trained.
        schedule: of its learning rate, stepped after every step.
        loss: draws a batch and returns its scalar loss.
        steps: gradient steps.
        title: of the progress bar.
        clipped: parameters whose gradients are clipped together to ``largest_norm``; none by default.
        largest_norm: of their gradient.
        progress: show the bar.
    """
    clipped, losses = list(clipped), []
    with tqdm(total=steps, desc=title, unit="step", disable=not progress) as bar:
        for step in range(steps):
            value = loss()
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            if clipped:
                nn.utils.clip_grad_norm_(clipped, largest_norm)
            optimiser.step()
            schedule.step()
            losses.append(value.detach())
            bar.update()
            if step % SHOW_EVERY == SHOW_EVERY - 1 and progress:
                bar.set_postfix(loss=f"{torch.stack(losses[-SHOW_EVERY:]).mean():.4f}")
    return torch.stack(losses)
