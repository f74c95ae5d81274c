"""What users hand to ``step``: checked, clipped to the bounds and cut into control steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class ActionReader:
    """Turns a batch of flat action chunks into control steps on the device.

    Args:
        num_envs: B.
        chunk_length: K, control steps in a chunk.
        action_dim: A, dimensions of a control step.
        device: where the result goes.
    """

    def __init__(self, num_envs: int, chunk_length: int, action_dim: int, device: torch.device) -> None:
        self._flat = (num_envs, chunk_length * action_dim)
        self._steps = (num_envs, chunk_length, action_dim)
        self._device = device
        # To look at actions on a GPU is to wait for it. So a flag stays up there once something bad came by, its copy
        # travels down in its own time, and whichever step finds that copy raised complains.
        self._clear()

    def __call__(self, actions: Any) -> Tensor:
        """(B, K*A) float array or tensor -> (B, K, A) float32 in [-1, 1] on the device; never waits for a GPU.

        Raises:
            ValueError: another shape or dtype, or NaN or infinity (of tensors on a GPU: now or in an earlier call).
        """
        if not isinstance(actions, Tensor):
            actions = np.asarray(actions)
        if tuple(actions.shape) != self._flat:
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}, but {self._steps[0]} slots with chunks of "
                f"{self._steps[1]} control steps x {self._steps[2]} dimensions need {self._flat}, row-major"
            )
        floating = actions.is_floating_point() if isinstance(actions, Tensor) else actions.dtype.kind == "f"
        if not floating:
            raise ValueError(f"actions have dtype {actions.dtype}: convert them to float32")
        chunk = actions.detach() if isinstance(actions, Tensor) else torch.tensor(actions, dtype=torch.float32)
        if self._device.type == "cpu":
            chunk = chunk.cpu()
        if chunk.device.type == "cpu":
            slots = (~chunk.isfinite()).any(dim=1).nonzero().flatten().tolist()
            if slots:
                raise ValueError(f"actions of slot {slots[0]} hold NaN or infinity{_others(slots)}: {_MEND}")
        else:
            self._bad_seen |= ~chunk.isfinite().all()
            self._bad_arrived.copy_(self._bad_seen, non_blocking=True)
            if self._bad_arrived:
                self._clear()
                raise ValueError(f"actions of this or a recent step hold NaN or infinity: {_MEND}")
        return chunk.to(self._device, torch.float32).clamp(-1.0, 1.0).view(self._steps)

    def _clear(self) -> None:
        self._bad_seen = torch.zeros((), dtype=torch.bool, device=self._device)
        self._bad_arrived = torch.zeros((), dtype=torch.bool, pin_memory=self._device.type == "cuda")


_MEND = "look for a diverged policy, and reset() before going on"


def _others(slots: list[int]) -> str:
    return f" (and of {len(slots) - 1} others)" if len(slots) > 1 else ""
