"""How many env steps an episode may take: ``max_chunks`` here, ``max_episode_steps`` in Gymnasium.

``gym.make_vec`` hands ``max_episode_steps`` to a vector environment. ``gym.make`` keeps it to itself: it only wraps the
environment in a ``TimeLimit``, which can end episodes sooner but not later than the environment does. The environment
has to know it, to go on for as long and to observe ``remaining_time``; so it looks at the call that makes it.
"""

from __future__ import annotations

import sys

import gymnasium as gym

from rla_gym.arguments import integer_or_none


def resolve(max_chunks: int | None, max_episode_steps: int | None) -> int | None:
    """The length that ``max_chunks`` or, where that is None, ``max_episode_steps`` gives; None for the task's own.

    Raises:
        ValueError: one of them is no integer, or out of its range.
    """
    chunks, steps = integer_or_none("max_chunks", max_chunks), integer_or_none("max_episode_steps", max_episode_steps)
    return steps if chunks is None else chunks


def in_gym_make(max_chunks: int | None) -> int | None:
    """As :func:`resolve`, for the constructor of a single environment, with the steps of the ``gym.make`` around it.

    Raises:
        ValueError: ``max_chunks`` is no integer, out of its range, or more than the steps of the ``TimeLimit``.
    """
    limit = _time_limit()
    chunks = resolve(max_chunks, limit)
    if limit is not None and chunks is not None and chunks > limit:
        raise ValueError(
            f"max_chunks={chunks} is beyond the {limit} steps after which gym.make's TimeLimit ends an episode: "
            f"give max_episode_steps={chunks} instead"
        )
    return chunks


def _time_limit() -> int | None:
    """The steps of the ``TimeLimit`` of the ``gym.make`` in which an environment is being constructed, or None."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code is not gym.make.__code__:
        if frame.f_code.co_name not in ("__init__", "_time_limit", "in_gym_make"):
            return None  # constructed by something else, which may itself be within another environment's gym.make
        frame = frame.f_back
    asked, spec = frame.f_locals.get("max_episode_steps"), frame.f_locals.get("env_spec")
    steps = getattr(spec, "max_episode_steps", None) if asked is None else asked
    return None if steps == -1 else steps  # -1 is Gymnasium's word for no TimeLimit
