"""Mutated arguments of environments: of constructors, ``reset``, ``step`` and ``set_state``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rla_gym import RLAWMEnv, RLAWMVectorEnv
from tests.fuzz.mutation import Mutation, Observed, Places
from tests.fuzz.targets.values import Refused, actions, constructor_values, options, seeds

STEPS = 7
"""One more than an episode has."""
BASE: dict[str, Any] = {"task": None, "initial_states": "mixed"}

Case = tuple[str, str, str, Any, Any]
"""What takes the argument, the argument, in words what is given, the value, what it is equal to (or ``Refused``)."""


def build(root: Path) -> None:
    """Nothing but the world that is there already."""


def draw(rng: np.random.Generator, number: int, places: Places) -> Mutation:
    """The argument of this number in an order that depends on nothing but the catalogue."""
    cases = catalogue(places)
    method, argument, words, value, equal = cases[np.random.default_rng(0).permutation(len(cases))[number % len(cases)]]
    names = [[argument]]
    if argument in ("actions", "action"):
        names = [["action"]]
    elif argument in ("demo", "t"):
        names = [["demo"], ["option t"]]
    elif method == "set_state":
        names = [["state"]]
    given = None if equal is Refused else equal
    if method == "constructor":
        single = number % 2 == 1 and argument not in ("num_envs", "first_slot", "autoreset_mode")
        changes = {} if given is None else {argument: given}
        return Mutation(
            argument, f"{argument}={words}", names, lambda: _roll(places, single, {argument: value}),
            f"roll single={single} {argument}={given!r}"[:200], lambda: _roll(places, single, changes),
        )  # fmt: skip
    return Mutation(
        f"{method}: {argument}", words, names, lambda: _call(places, method, argument, value),
        f"call {method} {argument} {words if equal is not Refused else ''}",
        lambda: _call(places, method, argument, equal),
    )  # fmt: skip


def catalogue(places: Places) -> list[Case]:
    """Every case, the same list in every process."""
    cases: list[Case] = [
        ("constructor", argument, words, value, equal)
        for argument, entries in constructor_values(places).items()
        for words, value, equal in entries
    ]
    cases += [("seed", "seed", words, value, equal) for words, value, equal in seeds()]
    cases += [("reset", argument, words, value, equal) for argument, words, value, equal in options()]
    cases += [("step", "actions", words, value, equal) for words, value, equal in actions()]
    cases += [("set_state", "state", words, change, Refused) for words, change in state_changes().items()]
    return cases


def state_changes() -> dict[str, Callable[[Any], Any]]:
    """Changes that no environment can go on from, of what ``get_state`` gave for two slots, by name."""

    def of(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Any], Any]:
        def changed(state: Any) -> Any:
            return dataclasses.replace(state, slots={**state.slots, name: change(state.slots[name].copy())})

        return changed

    def put(value: float) -> Callable[[np.ndarray], Any]:
        def change(array: np.ndarray) -> np.ndarray:
            array.reshape(-1)[0] = value
            return array

        return change

    changes: dict[str, Callable[[Any], Any]] = {
        "None": lambda state: None,
        "a dict": lambda state: dict(state.slots),
        "text": lambda state: "state",
        "another version": lambda state: dataclasses.replace(state, version=99),
        "version as text": lambda state: dataclasses.replace(state, version="2"),
        "another fingerprint": lambda state: dataclasses.replace(state, fingerprint="0" * 16),
        "another chunk length": lambda state: dataclasses.replace(state, chunk_length=3),
        "one slot of two": lambda state: state[[0]],
        "three slots": lambda state: state[[0, 1, 1]],
        "slots as a list": lambda state: dataclasses.replace(state, slots=list(state.slots.values())),
        "slots missing": lambda state: dataclasses.replace(state, slots={}),
        "an unknown array": lambda state: dataclasses.replace(
            state, slots={**{n: a for n, a in state.slots.items() if n != "taken"}, "took": state.slots["taken"]}
        ),
    }
    for name in ("features", "error", "last_action", "info.uncertainty", "info.reward_alignment"):
        changes[f"NaN in {name}"] = of(name, put(np.nan))
        changes[f"infinity in {name}"] = of(name, put(np.inf))
    for name in ("features", "error", "demonstration", "start", "taken", "ended", "last_action", "seed", "number",
                 "episode", "info.success"):  # fmt: skip
        changes[f"{name} of another shape"] = of(name, lambda array: array[..., None])
        changes[f"{name} with a row less"] = of(name, lambda array: array[:-1])
        changes[f"{name} missing"] = lambda state, name=name: dataclasses.replace(
            state, slots={key: value for key, value in state.slots.items() if key != name}
        )
        changes[f"{name} as text"] = of(name, lambda array: array.astype(str))
    for name in ("features", "error"):
        changes[f"{name} of whole numbers"] = of(name, lambda array: array.astype(np.int64))
        changes[f"{name} of another width"] = of(name, lambda array: array[..., :-1])
    for name in ("demonstration", "start", "taken", "episode"):
        changes[f"{name} of -5"] = of(name, put(-5))
        changes[f"{name} as float"] = of(name, lambda array: array.astype(np.float64) + 0.5)
    changes["demonstration of 99"] = of("demonstration", put(99))
    changes["start of 10**9"] = of("start", put(10**9))
    changes["taken of 10**9"] = of("taken", put(10**9))
    changes["ended as numbers"] = of("ended", lambda array: array.astype(np.int64) + 2)
    return changes


def _make(places: Places, single: bool = False, changes: dict[str, Any] | None = None) -> Any:
    arguments = {"world": str(places.root / "world"), **BASE, **(changes or {})}
    if single:
        return RLAWMEnv(**arguments)
    return RLAWMVectorEnv(**{"num_envs": 2, **arguments})


def _roll(places: Places, single: bool, changes: dict[str, Any]) -> Observed:
    """A whole episode and more, by fixed actions."""
    env = _make(places, single, changes)
    seen: dict[str, Any] = {}
    try:
        seen["spaces"] = f"{env.observation_space} {env.action_space}"
        observation, info = env.reset(seed=0)
        _see(seen, "reset", observation, info)
        rng = np.random.default_rng(0)
        shape = env.action_space.shape
        for step in range(STEPS):
            action = rng.uniform(-1, 1, shape).astype(np.float32)
            if changes.get("output") == "torch":
                action = torch.from_numpy(action)
            observation, reward, terminated, truncated, info = env.step(action)
            _see(seen, f"step {step}", observation, {**info, "r": reward, "terminated": terminated, "t": truncated})
            if single and (terminated or truncated):
                observation, info = env.reset()
        seen["frame"] = 0 if env.render_mode is None else np.asarray(env.render())
        seen["fps"] = env.metadata["render_fps"]
    finally:
        env.close()
    return seen


def _call(places: Places, method: str, argument: str, value: Any) -> Observed:
    """A method with this value in the middle of an episode, and the step after it.

    A refusal must leave the environment as it was: the next step is compared with that of one that was not asked.
    """
    env, twin = _make(places), _make(places)
    first = np.full(env.action_space.shape, 0.5, np.float32)
    seen: dict[str, Any] = {}
    try:
        for each in (env, twin):
            each.reset(seed=3)
            each.step(first)
        try:
            if value is not Refused:
                _see(seen, "call", *_called(env, method, argument, value))
        except Exception:
            one, other = env.step(first), twin.step(first)
            if not np.allclose(one[0], other[0]) or not np.allclose(one[1], other[1]):
                raise StateChangedError("refused, but the next step is another one") from None
            raise
        observation, reward, *_ = env.step(first)
        _see(seen, "step", observation, {"r": reward})
    finally:
        env.close()
        twin.close()
    return seen


class StateChangedError(Exception):
    """A refused call changed the environment."""


def _called(env: Any, method: str, argument: str, value: Any) -> tuple[Any, dict[str, Any]]:
    if method == "seed":
        return env.reset(seed=value)
    if method == "reset":
        return env.reset(seed=5, options=value)
    if method == "step":
        observation, reward, *_ = env.step(value)
        return observation, {"r": reward}
    return env.set_state(value(env.get_state()))


def _see(seen: dict[str, Any], prefix: str, observation: Any, info: dict[str, Any]) -> None:
    values = dict(observation) if isinstance(observation, dict) else {"obs": observation}
    values |= {key: value for key, value in info.items() if not key.startswith(("final", "_final"))}
    for key, value in values.items():
        seen[f"{prefix} {key}"] = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
