"""Scripted stacking: a grasp as in Lift, then over to the other cube, down and let go; well, or nearly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from rla_gym.ground_truth.experts import (
    CLOSE,
    CUBE_Z,
    LIFTING,
    MISSES,
    OPEN,
    TABLE_Z,
    Behaviour,
    Grasp,
    Grasper,
    Player,
    State,
)

_HALF_HEIGHTS = 0.045
"""Metres between the centres of the two cubes when one stands on the other."""
_CARRY_Z = TABLE_Z + 0.105
"""Height of the carried cube's centre: its lower edge is 3 cm above the other cube."""
_GUESSED_STANDING = 0.6
"""How often a guess is that the cube stands where it was let go."""


@dataclass(frozen=True)
class Placing:
    """How the carried cube is put down; the defaults are a clean way.

    Attributes:
        offset: (x, y) metres from the other cube's centre. Beyond about 2.5 cm the cube tips over.
        height: metres above its place at which the hand opens.
        drop_steps: control steps after the way over begins at which the hand opens, wherever it is; None: never.
        open_within: metres from its place at which the hand opens, on the straight way there; None: it goes over the
            place, then down, and opens where it arrives.
        release_steps: control steps that the hand stays where it opened, before it leaves.
    """

    offset: tuple[float, float] = (0.0, 0.0)
    height: float = 0.0
    drop_steps: int | None = None
    open_within: float | None = None
    release_steps: int = 4


class Stacker(Grasper):
    """Grasps the cube, carries it to the base and lets go; with attempts left it tries again where one failed.

    Args:
        rng: source of all chance.
        attempts: grasps, as of :class:`Grasper`.
        placings: how the cube is put down, one way after the other where it fell off; the last one again and again.
        noise, gain, start_steps, vary_gripper, bursts: as of :class:`Grasper`.
    """

    def __init__(
        self, rng: np.random.Generator, attempts: list[Grasp], placings: list[Placing], **arguments: object
    ) -> None:
        super().__init__(rng, attempts, **arguments)  # type: ignore[arg-type]
        self._placing, *self._later_placings = placings
        self._base = np.zeros(3)
        self._let_go_at = np.zeros(3)

    def act(self, state: State) -> np.ndarray:
        """See :class:`rla_gym.ground_truth.experts.Behaviour`."""
        self._base = state["base_position"]
        return super().act(state)

    def _lift(self, grasp: Grasp, eef: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
        target, gripper = super()._lift(grasp, eef, cube)
        if self._phase == "lift" and gripper == CLOSE and cube[2] > _CARRY_Z - 0.02:
            self._enter("carry")
        return target, gripper

    def _carry(self, grasp: Grasp, eef: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
        place = self._place()
        aside = float(np.linalg.norm(place[:2] - cube[:2]))
        if self._placing.drop_steps is not None and self._steps > self._placing.drop_steps:
            return self._let_go(eef)
        if eef[2] - cube[2] > 0.05 and self._more_attempts():  # it was lost on the way
            self._attempt += 1
            self._enter("retreat")
        elif self._placing.open_within is not None:
            if np.linalg.norm(place - cube) < self._placing.open_within or self._steps > 24:
                return self._let_go(eef)
            return place + eef - cube, CLOSE
        elif aside < 0.008 or self._steps > 24:
            self._enter("lower")
        over = place[:2] + eef[:2] - cube[:2]  # the cube hangs a little beside the hand's middle
        return np.array([*over, _CARRY_Z + eef[2] - cube[2]]), CLOSE

    def _lower(self, grasp: Grasp, eef: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
        place = self._place()
        if cube[2] - place[2] < 0.005 or self._steps > 14:
            return self._let_go(eef)
        return place + eef - cube, CLOSE

    def _let_go(self, eef: np.ndarray) -> tuple[np.ndarray, float]:
        self._let_go_at = eef.copy()
        self._enter("release")
        return self._let_go_at, OPEN

    def _release(self, grasp: Grasp, eef: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
        if self._steps >= self._placing.release_steps:
            self._enter("leave")
        return self._let_go_at, OPEN

    def _leave(self, grasp: Grasp, eef: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
        if self._steps >= 5 and cube[2] < TABLE_Z + 0.04 and self._more_attempts():
            self._attempt += 1
            if self._later_placings:
                self._placing = self._later_placings.pop(0)
            self._enter("reach")
        return np.array([*self._let_go_at[:2], _CARRY_Z + 0.06]), OPEN

    def _guess_cube(self, eef: np.ndarray, cube: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
        if self._phase != "release":
            return super()._guess_cube(eef, cube)
        if self._rng.random() < _GUESSED_STANDING:
            return lambda hand: self._place()
        return lambda hand: np.array([*cube[:2], CUBE_Z])

    def _place(self) -> np.ndarray:
        """Where the carried cube's centre is to come."""
        return self._base + np.array([*self._placing.offset, _HALF_HEIGHTS + self._placing.height])


def _expert(rng: np.random.Generator) -> Behaviour:
    clean = Grasp(lift_height=0.15, close_steps=int(rng.integers(5, 8)))
    noise, gain = rng.uniform(0.03, 0.08), rng.uniform(1.5, 1.9)
    return Stacker(rng, [clean] * 3, [Placing()], noise=noise, gain=gain, vary_gripper=False)


def _noisy(rng: np.random.Generator) -> Behaviour:
    grasp = Grasp(lift_height=rng.uniform(0.13, 0.17), close_steps=int(rng.integers(4, 9)))
    return Stacker(
        rng, [grasp] * 3, [_nearly(rng, 0.008), Placing()], noise=rng.uniform(0.1, 0.3), gain=rng.uniform(1.2, 1.9),
        start_steps=int(rng.integers(0, 6)), bursts=0.02,
    )  # fmt: skip


def _near_miss(rng: np.random.Generator) -> Behaviour:
    grasps = [Grasp(lift_height=0.15)]
    if rng.random() < 0.35:
        grasps = [MISSES[int(rng.integers(len(MISSES)))](rng)]
    if rng.random() < 0.3:
        grasps.append(Grasp(lift_height=0.15))
    placing = _BAD_PLACINGS[int(rng.integers(len(_BAD_PLACINGS)))](rng)
    return Stacker(
        rng, grasps, [placing, Placing()], noise=rng.uniform(0.03, 0.15), gain=rng.uniform(1.3, 1.9),
        start_steps=int(rng.integers(0, 5)),
    )  # fmt: skip


def _place_anywhere(rng: np.random.Generator) -> Behaviour:
    """One attempt: a hand that went back down to where the cube fell would reveal the outcome by its actions."""
    grasp = Grasp((rng.uniform(-0.02, 0.02), rng.uniform(-0.01, 0.01)), rng.uniform(-0.005, 0.01), lift_height=0.15)
    return Stacker(
        rng, [grasp], [_anywhere(rng)], noise=rng.uniform(0.02, 0.15), gain=rng.uniform(1.0, 1.9),
        start_steps=int(rng.integers(0, 20)), vary_gripper=rng.random() < 0.5,
    )  # fmt: skip


def _play(rng: np.random.Generator) -> Behaviour:
    if rng.random() < 0.4:  # carries the cube about and lets go of it anywhere
        return Player(rng, carry=True)
    return LIFTING["play"](rng)


def _nearly(rng: np.random.Generator, spread: float) -> Placing:
    return Placing(tuple(spread * rng.standard_normal(2)), rng.uniform(-0.002, 0.01))


def _beside(rng: np.random.Generator) -> Placing:
    """About the edge: some stand, some tip over, some fall."""
    size, angle = rng.uniform(0.01, 0.06), rng.uniform(0, 2 * np.pi)
    return Placing((size * np.cos(angle), size * np.sin(angle)), rng.uniform(-0.002, 0.012))


def _anywhere(rng: np.random.Generator) -> Placing:
    """Anywhere about the base, half of them in passing, as policies do: only the place decides the outcome."""
    size, angle = rng.uniform(0.0, 0.055), rng.uniform(0, 2 * np.pi)
    within = rng.uniform(0.01, 0.03) if rng.random() < 0.5 else None
    offset = (size * np.cos(angle), size * np.sin(angle))
    release_steps = int(rng.integers(2, 24))
    return Placing(offset, rng.uniform(-0.002, 0.015), open_within=within, release_steps=release_steps)


def _from_above(rng: np.random.Generator) -> Placing:
    return Placing(tuple(0.012 * rng.standard_normal(2)), rng.uniform(0.015, 0.05))


def _on_the_way(rng: np.random.Generator) -> Placing:
    return Placing(drop_steps=int(rng.integers(0, 14)))


_BAD_PLACINGS: tuple[Callable[[np.random.Generator], Placing], ...] = (
    _beside,
    _beside,
    _beside,
    _from_above,
    _on_the_way,
)

STACKING: Mapping[str, Callable[[np.random.Generator], Behaviour]] = MappingProxyType(
    {
        **LIFTING,
        "expert": _expert,
        "noisy": _noisy,
        "near_miss": _near_miss,
        "place": _place_anywhere,
        "play": _play,
    }
)
"""Controllers for one episode of Stack, by kind; each keeps the generator that it is given."""
