"""Scripted behaviour for data: demonstrations, and the many ways in which a grasp fails.

A world trained on successes alone predicts success for every grasp, so most of this file is about failing: grasps that
are a centimetre off, too high, too early, dropped, or never made. Every behaviour is a small controller over the
simulator's state and draws from one ``np.random.Generator``: same generator, same state, same actions. The simulator's
state steers the hand only; no model gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Protocol

import numpy as np

State = dict[str, np.ndarray]
"""As :meth:`rla_gym.ground_truth.env.RobosuiteEnv.simulator_state` gives it."""

_DELTA = 0.05
"""Metres that the controller aims ahead at action 1."""
TABLE_Z = 0.8
"""Height of the table, metres."""
CUBE_Z = 0.82
"""Height of the cube's centre when it lies on the table."""
OPEN, CLOSE = -1.0, 1.0
"""Commands of the gripper."""
_GUESSED_HELD = 0.6
"""How often a guess is that the fingers hold the cube."""


class Behaviour(Protocol):
    """One episode's controller."""

    def act(self, state: State) -> np.ndarray:
        """The next action: (A,) float64 within [-1, 1], in the order of the task's ``action_names``."""
        ...


@dataclass(frozen=True)
class Grasp:
    """How one attempt at the cube goes; the defaults are a clean one.

    Attributes:
        offset: (x, y) metres beside the cube's centre where the hand goes down. The fingers close along y.
        height: metres above the cube's centre at which they close.
        close_early: metres above ``height`` at which they begin to close, on the way down.
        close_within: metres from that place at which they begin to close, on the straight way there, or where
            something stops the hand; None: the hand goes over the cube, then down, and closes where it arrives.
        close_steps: control steps that they get before the lift.
        release_steps: control steps after the lift begins at which they open again; None: never.
        lift_height: metres above the table to which the hand lifts.
    """

    offset: tuple[float, float] = (0.0, 0.0)
    height: float = 0.0
    close_early: float = 0.0
    close_within: float | None = None
    close_steps: int = 6
    release_steps: int | None = None
    lift_height: float = 0.14


class Noise:
    """Temporally correlated (AR(1)) Gaussian noise on x, y, z with a given standard deviation."""

    def __init__(self, rng: np.random.Generator, scale: float, correlation: float = 0.7) -> None:
        self._rng, self._scale, self._correlation = rng, scale, correlation
        self._value = scale * rng.standard_normal(3)

    def __call__(self) -> np.ndarray:
        """The next (3,) sample."""
        fresh = self._scale * np.sqrt(1 - self._correlation**2) * self._rng.standard_normal(3)
        self._value = self._correlation * self._value + fresh
        return self._value


class Grasper:
    """Reaches, closes, lifts and holds; with attempts left, it tries again when the cube stayed behind.

    Args:
        rng: source of all chance.
        attempts: one grasp after the other; the next one begins when the cube did not come along.
        noise: standard deviation of the action noise.
        gain: how hard it pulls towards its target; 1.0 aims exactly at it.
        start_steps: control steps of a random motion before anything else.
        vary_gripper: draw the size of the gripper command, of which the robot uses only the sign.
        bursts: chance per control step of being pushed off course for a few steps.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        attempts: list[Grasp],
        *,
        noise: float,
        gain: float = 1.6,
        start_steps: int = 0,
        vary_gripper: bool = True,
        bursts: float = 0.0,
    ) -> None:
        self._rng = rng
        self._attempts = attempts
        self._noise = Noise(rng, noise)
        self._gain = gain
        self._start_steps = start_steps
        self._start_motion = rng.uniform(-1, 1, 3) * (1.0, 1.0, 0.6)
        self._vary_gripper = vary_gripper
        self._bursts = bursts
        self._burst_left = 0
        self._burst = np.zeros(3)
        self._attempt = 0
        self._phase = "reach"
        self._steps = 0
        self._closing_at = np.zeros(3)
        self._nearest = np.inf
        self._lift_xy = np.zeros(2)
        self._guesses = False
        self._guessed: Callable[[np.ndarray], np.ndarray] | None = None

    def guess(self) -> None:
        """From now on guess whether the cube is held instead of reading it: the next actions must not reveal it.

        Where actions reveal the outcome, a model of the data can predict it from them and not from their cause.
        """
        self._guesses = True

    @property
    def phase(self) -> str:
        """Name of what it is doing: ``"reach"``, ``"close"``, ``"lift"``, ``"retreat"`` or a further one of a task."""
        return self._phase

    def act(self, state: State) -> np.ndarray:
        """See :class:`Behaviour`."""
        if self._start_steps > 0:
            self._start_steps -= 1
            return self._command(self._start_motion, OPEN)
        grasp = self._attempts[self._attempt]
        eef, cube = state["eef_position"], state["cube_position"]
        assumed = cube if self._guessed is None else self._guessed(eef)
        self._steps += 1
        phase = self._phase
        target, gripper = getattr(self, f"_{phase}")(grasp, eef, assumed)
        if self._guesses and self._phase != phase:
            self._guessed = self._guess_cube(eef, cube)
        return self._command(self._gain * (target - eef) / _DELTA, gripper)

    def _guess_cube(self, eef: np.ndarray, cube: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
        """The cube's assumed place in the phase that begins, as a function of the hand's; None: its true place."""
        if self._phase != "lift":
            return None if self._phase == "reach" else self._guessed
        if self._rng.random() < _GUESSED_HELD:
            return lambda hand: hand + cube - eef
        return lambda hand: cube

    def _enter(self, phase: str) -> None:
        self._phase, self._steps, self._nearest = phase, 0, np.inf

    def _reach(self, grasp: Grasp, eef: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
        goal = cube + np.array([*grasp.offset, grasp.height])
        if grasp.close_within is not None:
            return goal, self._straight(goal, float(np.linalg.norm(goal - eef)), grasp.close_within)
        aside = float(np.linalg.norm(goal[:2] - eef[:2]))
        target = goal.copy()
        if aside > 0.015:  # stay above the cube until the fingers pass beside it
            target[2] = max(goal[2], cube[2] + min(0.06, 0.03 + aside))
        above = eef[2] - goal[2]
        arrived = aside < 0.01 and above < 0.008
        early = grasp.close_early > 0 and aside < 0.02 and above < grasp.close_early
        if arrived or early or self._steps > 26:  # a finger that stands on the cube never arrives
            self._closing_at = goal
            self._enter("close")
        return target, CLOSE if early else OPEN

    def _straight(self, goal: np.ndarray, distance: float, close_within: float) -> float:
        """The gripper's command on the straight way to ``goal``; begins the closing where it is due."""
        stopped = self._steps > 3 and distance > self._nearest - 0.002
        self._nearest = min(self._nearest, distance)
        if not (distance < close_within or stopped or self._steps > 26):
            return OPEN
        self._closing_at = goal
        self._enter("close")
        return CLOSE

    def _close(self, grasp: Grasp, eef: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
        if self._steps >= grasp.close_steps:
            self._lift_xy = eef[:2].copy()
            self._enter("lift")
        return self._closing_at, CLOSE

    def _lift(self, grasp: Grasp, eef: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
        released = grasp.release_steps is not None and self._steps >= grasp.release_steps
        left_behind = eef[2] > CUBE_Z + 0.045 and eef[2] - cube[2] > 0.05
        wait = 4 if released else 2
        if left_behind and self._steps >= wait + (grasp.release_steps or 0) and self._more_attempts():
            self._attempt += 1
            self._enter("retreat")
        target = np.array([*self._lift_xy, TABLE_Z + grasp.lift_height])
        return target, OPEN if released else CLOSE

    def _retreat(self, grasp: Grasp, eef: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray, float]:
        if self._steps >= 3:
            self._enter("reach")
        return np.array([*eef[:2], CUBE_Z + 0.07]), OPEN

    def _more_attempts(self) -> bool:
        return self._attempt + 1 < len(self._attempts)

    def _command(self, motion: np.ndarray, gripper: float) -> np.ndarray:
        if self._bursts and self._burst_left == 0 and self._rng.random() < self._bursts:
            self._burst_left = int(self._rng.integers(2, 6))
            self._burst = self._rng.uniform(-1, 1, 3)
        if self._burst_left > 0:
            self._burst_left -= 1
            motion = self._burst
        size = self._rng.uniform(0.2, 1.0) if self._vary_gripper else 1.0
        return np.clip([*(np.clip(motion, -1, 1) + self._noise()), gripper * size], -1.0, 1.0)


class Player:
    """Wanders between random points at and around the cube, pushes it, opens and closes; may start with the cube.

    Args:
        rng: source of all chance.
        carry: begin with a clean grasp, then wander with the cube and let go at a random time.
    """

    def __init__(self, rng: np.random.Generator, *, carry: bool) -> None:
        self._rng = rng
        self._noise = Noise(rng, 0.15)
        self._grasper = Grasper(rng, [Grasp()] * 2, noise=0.1, start_steps=int(rng.integers(0, 4))) if carry else None
        self._carry_steps = int(rng.integers(0, 22))
        self._hold_steps = int(rng.integers(2, 12))
        self._gripper = OPEN if rng.random() < 0.7 else CLOSE
        self._gain = rng.uniform(0.8, 1.8)
        self._target = np.zeros(3)
        self._left = 0

    def act(self, state: State) -> np.ndarray:
        """See :class:`Behaviour`."""
        if self._grasper is not None:
            action = self._grasper.act(state)
            if self._grasper.phase == "lift":
                self._hold_steps -= 1
            if self._hold_steps <= 0:
                self._grasper = None
                self._gripper = CLOSE
            return action
        if self._carry_steps > 0:
            self._carry_steps -= 1
            if self._carry_steps == 0:
                self._gripper = OPEN
        eef, cube = state["eef_position"], state["cube_position"]
        if self._left <= 0 or np.linalg.norm(self._target - eef) < 0.015:
            self._choose(cube, eef)
        self._left -= 1
        motion = np.clip(self._gain * (self._target - eef) / _DELTA, -1, 1) + self._noise()
        return np.clip([*motion, self._gripper * self._rng.uniform(0.1, 1.0)], -1.0, 1.0)

    def _choose(self, cube: np.ndarray, eef: np.ndarray) -> None:
        rng = self._rng
        self._left = int(rng.integers(5, 18))
        draw = rng.random()
        if draw < 0.30:  # anywhere
            self._target = np.array([*rng.uniform(-0.17, 0.17, 2), rng.uniform(0.81, 1.02)])
        elif draw < 0.60:  # beside the cube, low: a push, or fingers around it
            self._target = np.array([*(cube[:2] + 0.035 * rng.standard_normal(2)), rng.uniform(0.812, 0.86)])
        elif draw < 0.80:  # through the cube and beyond
            beyond = cube[:2] - eef[:2]
            beyond *= 0.06 / max(float(np.linalg.norm(beyond)), 1e-6)
            self._target = np.array([*(cube[:2] + beyond), rng.uniform(0.812, 0.84)])
        else:  # up or down from here
            self._target = np.array([*eef[:2], rng.uniform(0.812, 1.0)])
        if self._carry_steps == 0 and rng.random() < 0.4:
            self._gripper = -self._gripper


def _expert(rng: np.random.Generator) -> Behaviour:
    clean = Grasp(lift_height=rng.uniform(0.11, 0.17), close_steps=int(rng.integers(5, 8)))
    return Grasper(rng, [clean] * 3, noise=rng.uniform(0.05, 0.1), gain=rng.uniform(1.4, 1.8), vary_gripper=False)


def _noisy(rng: np.random.Generator) -> Behaviour:
    attempt = Grasp(lift_height=rng.uniform(0.09, 0.18), close_steps=int(rng.integers(4, 9)))
    return Grasper(
        rng,
        [attempt] * 3,
        noise=rng.uniform(0.2, 0.4),
        gain=rng.uniform(1.0, 1.8),
        start_steps=int(rng.integers(0, 7)),
        bursts=0.02,
    )


def _near_miss(rng: np.random.Generator) -> Behaviour:
    miss = MISSES[int(rng.integers(len(MISSES)))](rng)
    attempts = [miss]
    if rng.random() < 0.3:  # notices, and tries again: mostly well
        attempts.append(Grasp() if rng.random() < 0.7 else _lateral(rng))
    return Grasper(
        rng,
        attempts,
        noise=rng.uniform(0.03, 0.2),
        gain=rng.uniform(1.2, 1.8),
        start_steps=int(rng.integers(0, 6)),
    )


def _play(rng: np.random.Generator) -> Behaviour:
    return Player(rng, carry=rng.random() < 0.35)


def _grasps(draw: Callable[[np.random.Generator], Grasp], rng: np.random.Generator) -> Behaviour:
    return Grasper(
        rng,
        [draw(rng) for _ in range(3)],
        noise=rng.uniform(0.02, 0.15),
        gain=rng.uniform(1.0, 1.8),
        start_steps=int(rng.integers(0, 4)),
        vary_gripper=rng.random() < 0.5,
    )


def _lateral(rng: np.random.Generator) -> Grasp:
    """Beside the cube. Half of the grasps hold at 2-2.5 cm along x; along y, where fingers close, at 3-3.5 cm."""
    direction = rng.random()
    if direction < 0.35:
        size, angle = rng.uniform(0.014, 0.042), 0.0
    elif direction < 0.75:
        size, angle = rng.uniform(0.018, 0.055), np.pi / 2
    else:
        size, angle = rng.uniform(0.016, 0.045), rng.uniform(0, np.pi)
    sign = rng.choice((-1.0, 1.0))
    return _styled(rng, Grasp(offset=(sign * size * np.cos(angle), sign * size * np.sin(angle))))


def _anywhere(rng: np.random.Generator) -> Grasp:
    """Anywhere about the cube, in one style whether it will hold or not: only the place decides the outcome."""
    offset = (rng.uniform(-0.045, 0.045), rng.uniform(-0.035, 0.035))
    return _styled(rng, Grasp(offset, rng.uniform(-0.012, 0.025), close_steps=int(rng.integers(6, 10))))


def _in_passing(rng: np.random.Generator) -> Grasp:
    """As policies grasp: straight at some place about the cube, closing on the way, or with a finger on the cube."""
    offset = (rng.uniform(-0.04, 0.04), rng.uniform(-0.03, 0.03))
    close_steps, within = int(rng.integers(3, 9)), rng.uniform(0.008, 0.045)
    return _styled(rng, Grasp(offset, rng.uniform(-0.012, 0.022), close_within=within, close_steps=close_steps))


def _too_high(rng: np.random.Generator) -> Grasp:
    """Half of the grasps hold at 2.5 cm."""
    return _styled(rng, Grasp(height=rng.uniform(0.016, 0.042)))


def _too_early(rng: np.random.Generator) -> Grasp:
    return _styled(rng, Grasp(close_early=rng.uniform(0.05, 0.14), close_steps=int(rng.integers(6, 13))))


def _hasty(rng: np.random.Generator) -> Grasp:
    """Lifts before the fingers have closed."""
    return _styled(rng, Grasp(close_steps=int(rng.integers(1, 5))))


def _dropped(rng: np.random.Generator) -> Grasp:
    return _styled(rng, Grasp(release_steps=int(rng.integers(1, 14)), close_steps=int(rng.integers(5, 8))))


def _hover(rng: np.random.Generator) -> Grasp:
    """The whole motion, above the cube or well beside it."""
    if rng.random() < 0.5:
        return _styled(rng, Grasp(height=rng.uniform(0.045, 0.1)))
    angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.045, 0.09)
    return _styled(rng, Grasp(offset=(size * np.cos(angle), size * np.sin(angle))))


def _styled(rng: np.random.Generator, grasp: Grasp) -> Grasp:
    return replace(grasp, lift_height=rng.uniform(0.09, 0.18))


MISSES: tuple[Callable[[np.random.Generator], Grasp], ...] = (
    _lateral,
    _lateral,
    _lateral,
    _too_high,
    _too_early,
    _hasty,
    _dropped,
    _hover,
)

LIFTING: Mapping[str, Callable[[np.random.Generator], Behaviour]] = MappingProxyType(
    {
        "expert": _expert,
        "noisy": _noisy,
        "near_miss": _near_miss,
        "play": _play,
        "grasp": partial(_grasps, _anywhere),
        "hasty_grasp": partial(_grasps, _in_passing),
    }
)
"""Controllers for one episode of Lift, by kind; each keeps the generator that it is given."""
