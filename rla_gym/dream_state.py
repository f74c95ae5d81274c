"""A saved dream: what ``get_state`` gives and ``set_state`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

VERSION = 2


@dataclass(frozen=True)
class DreamState:
    """Everything that the future of B slots depends on besides their actions: picklable, numpy arrays only.

    Indexed as an array is along its first axis, it picks, repeats or reorders slots. That is how to branch:

        >>> dream.set_state(state[[3] * 64])  # doctest: +SKIP
        >>> single.set_state(state[3])  # doctest: +SKIP

    Attributes:
        version: of this format.
        world: folder of the world, for people.
        fingerprint: hex digest of the world and its dynamics, for :meth:`check`.
        chunk_length: K.
        slots: arrays of B rows, as :class:`rla_gym.slots.Slots` keeps them.
    """

    version: int
    world: str
    fingerprint: str
    chunk_length: int
    slots: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.slots["episode"])

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> DreamState:
        """The chosen slots as a state of their own; an int chooses one. IndexError where there is no such slot."""
        rows: Any = [index] if isinstance(index, int | np.integer) else index
        return replace(self, slots={name: array[rows] for name, array in self.slots.items()})

    @staticmethod
    def check(state: Any, *, world: str, fingerprint: str, chunk_length: int, num_envs: int) -> None:
        """Whether ``state`` fits an environment of ``num_envs`` slots with chunks of ``chunk_length`` in this world.

        Raises:
            TypeError: it is no saved dream.
            ValueError: it is of another version, world, chunk length or number of slots.
        """
        if not isinstance(state, DreamState):
            raise TypeError(f"state is a {type(state).__name__}: give what get_state() returned")
        if state.version != VERSION:
            raise ValueError(
                f"the state has version {state.version}, this rla-gym reads version {VERSION}: save it with this one"
            )
        if state.fingerprint != fingerprint:
            raise ValueError(
                f"the state was saved in world {state.world} [{state.fingerprint}], this environment has world {world} "
                f"[{fingerprint}]: restore it with the same files and the same dynamics"
            )
        if state.chunk_length != chunk_length:
            raise ValueError(
                f"the state was saved with chunk_length={state.chunk_length}, this environment has {chunk_length}: "
                f"make one with chunk_length={state.chunk_length}"
            )
        if len(state) != num_envs:
            raise ValueError(
                f"the state has {len(state)} slots, this environment {num_envs}: choose one for each, as in "
                f"state[[0] * {num_envs}]"
            )
