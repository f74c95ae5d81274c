"""Rolling environments out and comparing their outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rla_gym import RLAWMVectorEnv

K, A = 8, 4
Make = Callable[..., RLAWMVectorEnv]


def actions_for(env: Any, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def rollout(env: Any, actions: Any, **reset: Any) -> list[tuple[Any, ...]]:
    first = env.reset(**reset)
    return [first, *(env.step(action) for action in actions)]


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """The same structure, shapes and kinds of dtype, values equal up to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    elif one is None:
        assert other is None, path
    else:
        one, other = np.asarray(one), np.asarray(other)
        assert (one.shape, one.dtype.kind) == (other.shape, other.dtype.kind), path
        if one.dtype == object:
            for index, pair in enumerate(zip(one, other, strict=True)):
                assert_same(*pair, f"{path}[{index}]")
        else:
            # Matmuls round differently in batches of another size; a pixel may come out one brighter.
            atol = 1 if one.dtype == np.uint8 else 1e-4
            np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-4, atol=atol, err_msg=path)
