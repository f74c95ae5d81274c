"""A saved dream: what ``get_state`` gives and ``set_state`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rla_gym.arguments import BOUNDS, brief

VERSION = 2
_LONGEST = BOUNDS["max_chunks"][1]


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
    def check(
        state: Any,
        *,
        world: str,
        fingerprint: str,
        chunk_length: int,
        columns: Mapping[str, tuple[tuple[int, ...], str]],
        lengths: np.ndarray,
    ) -> None:
        """Whether ``state`` fits an environment with chunks of ``chunk_length`` in this world.

        Args:
            state: what the user gave.
            world, fingerprint: of the environment.
            chunk_length: K.
            columns: name, shape and dtype of what the environment keeps of its slots.
            lengths: (N,) frames of each demonstration.

        Raises:
            TypeError: it is no saved dream.
            ValueError: it is of another version, world, chunk length or number of slots, or its arrays were changed
                into what no environment saves.
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
        _check_columns(state.slots, columns)
        _check_values(state.slots, lengths)


def _check_columns(slots: Any, columns: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    if not isinstance(slots, Mapping) or set(slots) != set(columns):
        given = set(slots) if isinstance(slots, Mapping) else set()
        raise ValueError(
            f"the state's slots lack {sorted(columns.keys() - given) or 'nothing'} and have "
            f"{sorted(map(str, given - columns.keys())) or 'nothing'} besides: give what get_state() returned"
        )
    num_envs, saved = columns["episode"][0][0], np.shape(slots["episode"])[:1]
    for name, (shape, dtype) in columns.items():
        array = slots[name]
        if not isinstance(array, np.ndarray) or array.shape != (*saved, *shape[1:]) or array.dtype != np.dtype(dtype):
            kind = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            wanted = ", ".join(map(str, ("slots", *shape[1:])))
            raise ValueError(f"the state's slots[{name!r}] are {kind}: give an array of {dtype} ({wanted})")
    if saved != (num_envs,):
        raise ValueError(
            f"the state has {brief(*saved)} slots, this environment {num_envs}: choose one for each, as in "
            f"state[[0] * {num_envs}]"
        )


def _check_values(slots: Mapping[str, np.ndarray], lengths: np.ndarray) -> None:
    def refuse(name: str, bad: np.ndarray, fix: str) -> None:
        rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
        if len(rows):
            values = slots[name][rows[0]].ravel()
            value = values[bad[rows[0]].ravel()][0]
            raise ValueError(f"the state's slots[{name!r}] hold {value} in slot {rows[0]}: {fix}")

    for name, array in slots.items():
        if array.dtype.kind == "f":
            refuse(name, ~np.isfinite(array), "they must be finite")
        elif array.dtype.kind == "i":
            refuse(name, array < 0, "they must be at least 0")
    refuse("last_action", np.abs(slots["last_action"]) > 1, "actions lie within [-1, 1]")
    demonstration = slots["demonstration"]
    refuse("demonstration", demonstration >= len(lengths), f"this world has demonstrations 0 to {len(lengths) - 1}")
    length = lengths[demonstration]
    refuse("start", slots["start"] >= length, "it is a frame of the slot's demonstration")
    refuse("taken", slots["taken"] > _LONGEST, f"an episode has at most {_LONGEST} env steps")
