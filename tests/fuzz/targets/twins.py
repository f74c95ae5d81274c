"""Mutated arguments of the ground-truth simulator's environment."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rla_gym.ground_truth.env import RobosuiteEnv
from tests.fuzz.mutation import Mutation, Observed, Places
from tests.fuzz.targets.values import Refused, actions, constructor_values

ARGUMENTS = (
    "chunk_length", "max_chunks", "success_bonus", "terminate_on_success", "reward", "obs", "output", "out_of_bounds",
    "render_mode", "task", "device", "world", "an_unknown_argument",
)  # fmt: skip


def build(root: Path) -> None:
    """Nothing: the simulator is robosuite's."""


def draw(rng: np.random.Generator, number: int, places: Places) -> Mutation:
    """An argument of the constructor, of ``reset`` or of ``step``."""
    cases = _catalogue(places)
    method, argument, words, value, equal = cases[np.random.default_rng(0).permutation(len(cases))[number % len(cases)]]
    changes = {} if equal is Refused or equal is None else {argument: equal}
    if method == "constructor":
        return Mutation(
            argument, f"{argument}={words}", [[argument]], lambda: _roll({argument: value}, None, None),
            f"{argument}={changes}"[:200], lambda: _roll(changes, None, None),
        )  # fmt: skip
    if method == "reset":
        return Mutation(
            f"reset: {argument}", words, [[argument]], lambda: _roll({}, {argument: value}, None), "reset",
            lambda: _roll({}, None, None),
        )  # fmt: skip
    return Mutation(
        "step: action", words, [["action"]], lambda: _roll({}, None, value), f"step {words}",
        lambda: _roll({}, None, None if equal is Refused else equal),
    )  # fmt: skip


@cache
def _catalogue(places: Places) -> list[tuple[str, str, str, Any, Any]]:
    given = constructor_values(places)
    # The encoder and a video-aligned reward need pictures; what needs none is enough to check arguments.
    cases = [
        ("constructor", name, words, value, equal)
        for name in ARGUMENTS
        for words, value, equal in given[name]
        if (equal is Refused or name in ("chunk_length", "max_chunks", "success_bonus", "terminate_on_success"))
        and words not in ("beyond the world's", "10**9", "proprioception without", "Stack")
    ]
    cases += [("constructor", "placement", words, value, Refused) for words, value in (
        ("text", "x"), ("None", None), ("0", 0), ("a list", []), ("NaN", float("nan")))]  # fmt: skip
    cases += [("reset", "placement", words, value, Refused) for words, value in (
        ("text", "x"), ("None", None), ("0", 0), ("a list", []))]  # fmt: skip
    cases += [("reset", "an_unknown_option", "1", 1, Refused)]
    cases += [
        ("step", "action", words, value[0] if hasattr(value, "shape") and value.shape[:1] == (2,) else value,
         equal if equal is Refused else equal[0])
        for words, value, equal in actions() if words not in ("of one slot", "a flat array", "upside down", "a list",
                                                              "a list of tensors", "turned round", "ragged", "a matrix",
                                                              "a tensor turned round", "1e300")
    ]  # fmt: skip
    return cases


def _roll(changes: dict[str, Any], options: dict[str, Any] | None, action: Any) -> Observed:
    env = RobosuiteEnv(**{"obs": "proprioception", **changes})
    try:
        observation, _ = env.reset(seed=0, options=options)
        seen: dict[str, Any] = {"reset": observation}
        given = np.zeros(env.action_space.shape, np.float32) if action is None else action
        for step in range(2 if "max_chunks" not in changes else 7):
            observation, reward, terminated, truncated, _ = env.step(given)
            seen[f"step {step}"], seen[f"end {step}"] = observation, [float(reward), terminated, truncated]
        return seen
    finally:
        env.close()
