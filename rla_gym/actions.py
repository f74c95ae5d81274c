"""What users hand to ``step``: checked, clipped to the bounds and split into control steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rla_gym.arrays import array_or_tensor, as_tensor, is_kind


class ActionReader:
    """Turns a batch of flat action chunks into control steps on the device.

    Args:
        num_envs: B.
        chunk_length: K, control steps in a chunk.
        action_dim: A, dimensions of a control step.
        device: where the result goes.
        out_of_bounds: "clip" values to [-1, 1], or "raise" an error for those outside.
    """

    def __init__(
        self, num_envs: int, chunk_length: int, action_dim: int, device: torch.device, out_of_bounds: str = "clip"
    ) -> None:
        self._flat = (num_envs, chunk_length * action_dim)
        self._steps = (num_envs, chunk_length, action_dim)
        self._device = device
        self._strict = out_of_bounds == "raise"
        # Reading actions on a GPU would wait for it. A flag on the GPU is set once bad actions arrive and is copied to
        # the host without waiting; the first step that finds the host's copy set raises the error.
        self._clear()

    def __call__(self, actions: Any) -> Tensor:
        """(B, K*A) float array or tensor -> (B, K, A) float32 in [-1, 1] on the device; never waits for a GPU.

        Raises:
            ValueError: another shape or dtype, NaN or infinity, or values outside the bounds with "raise". Bad values
                in a GPU's tensor are reported by this call or a later one.
        """
        array = array_or_tensor("actions", actions)
        if tuple(array.shape) != self._flat:
            raise ValueError(
                f"actions have shape {tuple(array.shape)}, but {self._steps[0]} slots with chunks of "
                f"{self._steps[1]} control steps x {self._steps[2]} dimensions need {self._flat}, row-major"
            )
        if not is_kind(array, "f"):
            raise ValueError(f"actions have dtype {array.dtype}: convert them to float32")
        chunk = as_tensor(array, torch.float32)
        if self._device.type == "cpu":
            chunk = chunk.cpu()
        if chunk.device.type == "cpu":
            self._check(chunk)
        else:
            self._check_later(chunk)
        return chunk.to(self._device).clamp(-1.0, 1.0).reshape(self._steps)

    def _check(self, chunk: Tensor) -> None:
        slots = (~chunk.isfinite()).any(dim=1).nonzero().flatten().tolist()
        if slots:
            raise ValueError(f"actions of slot {slots[0]} hold NaN or infinity{_others(slots)}: {_DIVERGED}")
        if self._strict:
            furthest = chunk.abs().amax(dim=1)
            slots = (furthest > 1.0).nonzero().flatten().tolist()
            if slots:
                value = float(furthest[slots[0]])
                raise ValueError(f"actions of slot {slots[0]} reach {value:g}{_others(slots)}: {_WITHIN}")

    def _check_later(self, chunk: Tensor) -> None:
        outside = (chunk.abs() > 1.0).any() if self._strict else torch.zeros_like(self._bad_seen[1])
        self._bad_seen |= torch.stack(((~chunk.isfinite()).any(), outside))
        self._bad_arrived.copy_(self._bad_seen, non_blocking=True)
        not_finite, outside_too = self._bad_arrived.tolist()
        if not_finite or outside_too:
            self._clear()
            raise ValueError(
                f"actions of this or a recent step hold NaN or infinity: {_DIVERGED}"
                if not_finite
                else f"actions of this or a recent step lie outside [-1, 1]: {_WITHIN}"
            )

    def _clear(self) -> None:
        self._bad_seen = torch.zeros(2, dtype=torch.bool, device=self._device)
        self._bad_arrived = torch.zeros(2, dtype=torch.bool, pin_memory=self._device.type == "cuda")


_DIVERGED = "look for a diverged policy, and reset() before going on"
_WITHIN = "keep them within [-1, 1], or make the environment with out_of_bounds='clip'"


def _others(slots: list[int]) -> str:
    return f" (and of {len(slots) - 1} others)" if len(slots) > 1 else ""
