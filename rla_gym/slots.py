"""The state of every slot: its episode, how far that has come, and the key of its random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rla_gym import counter_noise

INFO: Mapping[str, torch.dtype] = {
    "success": torch.bool,
    "success_probability": torch.float32,
    "uncertainty": torch.float32,
    "reward_alignment": torch.float32,
    "reward_success": torch.float32,
}
"""What a step measures for its info. A new key is a line here and a line in :meth:`rla_gym.dream.Dream.step`."""


class Slots:
    """Rows of one batch: everything that an episode's future depends on, besides its actions.

    Args:
        num_envs: B.
        first_slot: number of the first slot.
        state_shape: (L, C) of a state.
        action_size: K*A.
        device: where the tensors live.

    Attributes:
        seed, number, episode: (B,) int64; what the random numbers are made of. After :meth:`restore` a slot may have
            another slot's number; ``slot_number`` (B,) int64 is always its number in this environment.
        key: (B,) int64, a function of (seed, slot number, episode) and of nothing else.
        features: (B, L, C) float32, the present state.
        error: (B, L) float32, expected of its tokens; zeros at the episode's beginning.
        demonstration, start: (B,) int64; the one rewarded, and the frame of it at which the episode began.
        taken: (B,) int64, chunks of the episode so far.
        last_action: (B, K*A) float32, zeros at the episode's beginning.
        ended: (B,) bool, whether the next step is only to reset the slot.
        info: the measurements of :data:`INFO`, (B,) each.
    """

    _SAVED = (
        "seed", "number", "episode", "features", "error", "demonstration", "start", "taken", "last_action", "ended"
    )  # fmt: skip

    def __init__(
        self, num_envs: int, first_slot: int, state_shape: tuple[int, int], action_size: int, device: torch.device
    ) -> None:
        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(num_envs, *shape, dtype=dtype, device=device)

        self.slot_number = torch.arange(first_slot, first_slot + num_envs, device=device)
        self.number = self.slot_number
        self.seed, self.episode = zeros(dtype=torch.int64), zeros(dtype=torch.int64)
        self.key = zeros(dtype=torch.int64)
        self.features = zeros(*state_shape, dtype=torch.float32)
        self.error = zeros(state_shape[0], dtype=torch.float32)
        self.demonstration, self.start = zeros(dtype=torch.int64), zeros(dtype=torch.int64)
        self.taken = zeros(dtype=torch.int64)
        self.last_action = zeros(action_size, dtype=torch.float32)
        self.ended = zeros(dtype=torch.bool)
        self.info = {name: zeros(dtype=dtype) for name, dtype in INFO.items()}

    def reseed(self, seeds: Sequence[int | None], mask: Tensor) -> None:
        """Slots in ``mask`` (B,) bool go to episode 0 of their new seed, or to their next episode where it is None."""
        given, words = self._words(seeds)
        given = given & mask
        self.seed = torch.where(given, words, self.seed)
        self.number = torch.where(given, self.slot_number, self.number)
        self.episode = torch.where(given, -1, self.episode)
        self.advance(mask)

    def advance(self, mask: Tensor) -> None:
        """Slots in ``mask`` (B,) bool go to their next episode; no host sync."""
        self.episode = self.episode + mask
        self._make_key()

    def enter(self, mask: Tensor, features: Tensor, demonstration: Tensor, start: Tensor, probability: Tensor) -> None:
        """Slots in ``mask`` (B,) bool stand at the beginning of an episode; no host sync.

        Args:
            mask: which slots.
            features: (B, L, C) float32.
            demonstration, start: (B,) int64.
            probability: (B,) float32, of success.
        """
        self.features = torch.where(mask[:, None, None], features, self.features)
        self.error = torch.where(mask[:, None], 0.0, self.error)
        self.demonstration = torch.where(mask, demonstration, self.demonstration)
        self.start = torch.where(mask, start, self.start)
        self.taken = torch.where(mask, 0, self.taken)
        self.last_action = torch.where(mask[:, None], 0.0, self.last_action)
        self.ended = self.ended & ~mask
        # Before its first step an episode has no success and no reward; all else that a step measures is zero, too.
        self.info = {name: value.masked_fill(mask, 0) for name, value in self.info.items()}
        self.info["success_probability"] = torch.where(mask, probability, self.info["success_probability"])

    def arrays(self) -> dict[str, np.ndarray]:
        """A copy of everything, as arrays of B rows."""
        return {name: tensor.detach().to("cpu", copy=True).numpy() for name, tensor in self._tensors().items()}

    def columns(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each of :meth:`arrays`."""
        return {
            name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in self._tensors().items()
        }

    def restore(self, arrays: Mapping[str, np.ndarray], seeds: Sequence[int | None]) -> None:
        """Goes back to what :meth:`arrays` gave; with a seed a slot takes that seed's noise and ``slot_number``."""
        saved = {name: torch.from_numpy(np.array(array)).to(self.key.device) for name, array in arrays.items()}
        for name in self._SAVED:
            setattr(self, name, saved[name])
        self.info = {name: saved[f"info.{name}"] for name in INFO}
        given, words = self._words(seeds)
        self.seed = torch.where(given, words, self.seed)
        self.number = torch.where(given, self.slot_number, self.number)
        self._make_key()

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self._SAVED} | {
            f"info.{name}": value for name, value in self.info.items()
        }

    def _make_key(self) -> None:
        self.key = counter_noise.fold(self.seed, self.number, self.episode)

    def _words(self, seeds: Sequence[int | None]) -> tuple[Tensor, Tensor]:
        """Where a seed is given, (B,) bool, and its word, (B,) int64."""
        given = torch.tensor([seed is not None for seed in seeds], device=self.key.device)
        return given, torch.tensor([counter_noise.seed_word(seed or 0) for seed in seeds], device=self.key.device)
