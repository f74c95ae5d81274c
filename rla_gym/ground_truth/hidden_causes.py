"""What a picture does not show, drawn anew for each replay: friction, mass, actuation noise, where the object lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class HiddenCauses:
    """Ranges from which hidden causes are drawn; factors are log-uniform, offsets uniform.

    The defaults make about three in ten firm grasps of a Lift cube slip: between rubber fingers and oiled ones, between
    a cube of wood and one of tungsten. Within a factor of three of the simulator's own values every such grasp holds.

    Attributes:
        friction: factors ``(low, high)`` of the sliding friction of the objects' contacts.
        mass: factors ``(low, high)`` of the objects' mass and inertia.
        action_noise: standard deviation of the noise added to the action of each control step; actions are in [-1, 1].
        offset: metres; objects move by up to this along x and along y.

    Raises:
        ValueError: a range is empty or not positive, or a number is negative or not finite.
    """

    friction: tuple[float, float] = (0.01, 1.0)
    mass: tuple[float, float] = (0.5, 20.0)
    action_noise: float = 0.1
    offset: float = 0.003

    def __post_init__(self) -> None:
        for name in ("friction", "mass"):
            low, high = getattr(self, name)
            if not 0 < low <= high < np.inf:
                raise ValueError(
                    f"hidden {name}=({low}, {high}) is not a range of positive factors: give 0 < low <= high"
                )
        for name in ("action_noise", "offset"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"hidden {name}={getattr(self, name)} must be finite and not negative")

    def draw(self, rng: np.random.Generator, objects: int = 1) -> DrawnCauses:
        """One draw for a simulation of that many objects; ``rng`` alone decides it."""
        return DrawnCauses(
            friction=float(np.exp(rng.uniform(*np.log(self.friction)))),
            mass=float(np.exp(rng.uniform(*np.log(self.mass)))),
            action_noise=self.action_noise,
            offsets=rng.uniform(-self.offset, self.offset, (objects, 2)),
            noise_seed=int(rng.integers(2**62)),
        )


@dataclass(frozen=True)
class DrawnCauses:
    """Hidden causes of one replay.

    Attributes:
        friction: factor of the sliding friction.
        mass: factor of the objects' mass and inertia.
        action_noise: standard deviation of the noise of actions.
        offsets: ``(objects, 2)`` float64, metres along x and y.
        noise_seed: of the noise of actions.
    """

    friction: float
    mass: float
    action_noise: float
    offsets: np.ndarray
    noise_seed: int


@contextmanager
def applied(causes: DrawnCauses, model: Any, data: Any, bodies: list[int]) -> Iterator[None]:
    """Change a MuJoCo model and the objects' positions; the model is as before afterwards, also after an error.

    The friction of a contact is the larger one of its two geoms, and a finger's exceeds a cube's. So that of every geom
    is scaled, which scales each contact by the same factor.

    Args:
        causes: what is drawn.
        model: MjModel.
        data: MjData, whose positions are moved; they are not moved back, for by then the replay has changed them.
        bodies: indices of the objects' bodies, each with a free joint.
    """
    before = model.geom_friction.copy(), model.body_mass.copy(), model.body_inertia.copy()
    try:
        model.geom_friction[:, 0] *= causes.friction
        model.body_mass[bodies] *= causes.mass
        model.body_inertia[bodies] *= causes.mass
        for body, offset in zip(bodies, causes.offsets, strict=True):
            first = model.jnt_qposadr[model.body_jntadr[body]]
            data.qpos[first : first + 2] += offset
        yield
    finally:
        model.geom_friction[:], model.body_mass[:], model.body_inertia[:] = before
