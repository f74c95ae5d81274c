"""Which episode each slot is in, and the random-number key that belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rla_gym import counter_noise


class Slots:
    """Seed, number and episode of every slot.

    Args:
        num_envs: B.
        first_slot: number of the first slot.
        device: where the tensors live.

    Attributes:
        key: (B,) int64, a function of (seed, slot number, episode) and of nothing else.
    """

    def __init__(self, num_envs: int, first_slot: int, device: torch.device) -> None:
        self._device = device
        self._number = torch.arange(first_slot, first_slot + num_envs, device=device)
        self._seed = torch.zeros_like(self._number)
        self._episode = torch.full_like(self._number, -1)
        self.key = torch.zeros_like(self._number)

    def reset(self, seeds: Sequence[int | None], mask: Tensor) -> None:
        """Slots in ``mask`` (B,) bool go to episode 0 of their new seed, or to their next episode where it is None.

        Raises:
            ValueError: the number of seeds is wrong, or one is negative.
        """
        if len(seeds) != len(self._number):
            raise ValueError(f"{len(seeds)} seeds for {len(self._number)} slots: give one int, or one per slot")
        if any(seed is not None and seed < 0 for seed in seeds):
            raise ValueError(f"seeds {list(seeds)}: give integers from 0 on")
        given = torch.tensor([seed is not None for seed in seeds], device=self._device) & mask
        words = torch.tensor([counter_noise.seed_word(seed or 0) for seed in seeds], device=self._device)
        self._seed = torch.where(given, words, self._seed)
        self._episode = torch.where(given, -1, self._episode)
        self.advance(mask)

    def advance(self, mask: Tensor) -> None:
        """Slots in ``mask`` (B,) bool go to their next episode; no host sync."""
        self._episode = self._episode + mask
        self.key = counter_noise.fold(self._seed, self._number, self._episode)


def checked_mask(mask: Any, num_envs: int, everyone: bool) -> Tensor:
    """A user's reset mask as a (B,) bool tensor; None means all slots.

    Raises:
        ValueError: another shape or dtype, no slot chosen, or not every slot although ``everyone`` is due.
    """
    if mask is None:
        return torch.ones(num_envs, dtype=torch.bool)
    if not isinstance(mask, Tensor):
        mask = np.asarray(mask)
    if tuple(mask.shape) != (num_envs,) or mask.dtype not in (torch.bool, np.bool_):
        raise ValueError(f"reset_mask has dtype {mask.dtype} and shape {tuple(mask.shape)}: give bool ({num_envs},)")
    if not mask.any() or (everyone and not mask.all()):
        raise ValueError(f"reset_mask={mask}: reset at least one slot, and every slot the first time")
    return torch.as_tensor(mask)
