"""The log of a PPO run: TensorBoard, a progress bar, and the history that checkpoints and policies keep."""

from __future__ import annotations

import math
from pathlib import Path

from tqdm import tqdm

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise ImportError(f'PPO logs to TensorBoard ({error}): pip install "rla-gym[agents]"') from error


class PPOLog:
    """Keeps the scalars of every iteration; the main process writes and shows them.

    Args:
        folder: of TensorBoard's files; what they hold beyond the history is dropped.
        history: of the iterations that are done already, where a run is resumed.
        iterations: in all.
        main: whether this process writes.
        progress: whether it shows a bar.

    Attributes:
        history: a row of scalars for each iteration, with its number from 1 in ``iteration``.
    """

    def __init__(
        self, folder: Path, history: list[dict[str, float]], iterations: int, *, main: bool, progress: bool
    ) -> None:
        self.history = history
        self._writer = SummaryWriter(str(folder), purge_step=len(history) + 1) if main else None
        self._bar = tqdm(
            total=iterations, initial=len(history), desc="ppo", unit="iteration", disable=not (progress and main)
        )

    def add(self, iteration: int, scalars: dict[str, float]) -> None:
        """Log an iteration, counted from 0.

        Raises:
            ValueError: a scalar is not finite.
        """
        if not all(math.isfinite(number) for number in scalars.values()):
            raise ValueError(f"iteration {iteration}: training diverged, {scalars}; lower --learning-rate")
        if self._writer is not None:
            for name, number in scalars.items():
                self._writer.add_scalar(name, number, iteration + 1)
        self.history.append({"iteration": iteration + 1, **{name: round(x, 6) for name, x in scalars.items()}})
        self._bar.set_postfix(self._postfix())
        self._bar.update()

    def close(self) -> None:
        """End bar and files."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def _postfix(self) -> dict[str, str]:
        recent = summary(self.history[-10:])
        charts = {"success": "dream_success_rate", "return": "dream_return", "kl": "kl_to_bc"}
        postfix = {short: f"{recent[name]:.3f}" for short, name in charts.items() if recent[name] is not None}
        return {**postfix, "env steps/s": f"{self.history[-1]['charts/env_steps_per_second']:.0f}"}


def summary(history: list[dict[str, float]]) -> dict[str, float | None]:
    """Means of the charts over some iterations; None where no episode ended."""
    means: dict[str, float | None] = {}
    for name in ("dream_success_rate", "dream_return", "kl_to_bc"):
        values = [row[f"charts/{name}"] for row in history if f"charts/{name}" in row]
        means[name] = round(sum(values) / len(values), 4) if values else None
    return means
