"""One case: drawn by its number, run in this process, and judged."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tests.fuzz import sandbox, verdicts
from tests.fuzz.file_mutations import UnfitError
from tests.fuzz.mutation import Mutation, Observed, Places
from tests.fuzz.targets import datasets, environments, policies, ppo_runs, trainings, twins, worlds

TARGETS: Mapping[str, ModuleType] = {
    "world": worlds, "policy": policies, "dataset": datasets, "training": trainings, "environment": environments,
    "twin": twins, "ppo": ppo_runs,
}  # fmt: skip
ORDER = (
    "world", "environment", "dataset", "training", "world", "policy", "environment", "dataset", "world", "environment",
    "ppo", "world", "dataset", "training", "environment", "policy", "world", "dataset", "twin", "environment",
)  # fmt: skip
"""Whose turn it is, by the case's number."""
DRAWS = 200
"""Attempts to draw a mutation that applies."""


@dataclass(frozen=True)
class Result:
    """A case as the report holds it."""

    number: int
    seed: int
    target: str
    kind: str
    mutation: str
    verdict: str
    message: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def build(root: Path, names: Collection[str] = tuple(TARGETS)) -> None:
    """Write the pristine inputs of these targets, and of those that they need, into an empty folder."""
    for name, target in TARGETS.items():
        if name in names or name == "world" or (name == "policy" and "ppo" in names):
            target.build(root)


def target_of(number: int) -> tuple[str, int]:
    """Target of a case, and its number among those of the target."""
    rounds, place = divmod(number, len(ORDER))
    name = ORDER[place]
    return name, rounds * ORDER.count(name) + ORDER[:place].count(name)


_references: dict[tuple[str, str], Observed] = {}


def run_case(
    seed: int, number: int, root: Path, scratch: Path, *, note: Callable[[str], Any] | None = None, loud: bool = False
) -> Result:
    """Draw the case of this number, run it, and judge it.

    Args:
        seed: of the whole run.
        number: of the case.
        root: of the pristine inputs.
        scratch: of this process; emptied before every case.
        note: takes kind and mutation before the case runs, for whoever finds the process dead.
        loud: print the traceback of what was raised.
    """
    gc.collect()  # simulators of earlier cases hold memory
    began = time.monotonic()
    name, turn = target_of(number)
    mutation, places = _drawn(name, turn, (seed, number), root, scratch)
    reference = _reference(name, mutation, places)
    result = Result(number, seed, name, mutation.kind, mutation.what[:300], "", "", 0.0)
    if note is not None:
        note(f"{result.kind}\n{result.mutation}")
    error: BaseException | None = None
    seen: Observed = {}
    os.chdir(places.work)
    with sandbox.watching(places.work, places.forbidden) as watch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            seen = mutation.run()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            error = problem
    trespasses = watch.finish()
    if loud and error is not None:
        traceback.print_exception(error)
    verdict, message = _judged(error, seen, reference, mutation)
    for bad in (verdicts.RAN_CODE, verdicts.OUTSIDE_WRITE, verdicts.NETWORK, verdicts.OUTSIDE_READ):
        notes = [note for kind, note in trespasses if kind == bad]
        if notes:
            verdict, message = bad, f"{notes[0]} | {message}"
            break
    os.chdir(root)
    return replace(result, verdict=verdict, message=message[:1000], seconds=round(time.monotonic() - began, 3))


def _drawn(name: str, turn: int, entropy: tuple[int, int], root: Path, scratch: Path) -> tuple[Mutation, Places]:
    for attempt in range(DRAWS):
        places = Places(root, scratch / "work", scratch / "forbidden")
        shutil.rmtree(scratch, ignore_errors=True)
        places.elsewhere.mkdir(parents=True)
        places.forbidden.mkdir()
        plant(places.forbidden)
        rng = np.random.default_rng([*entropy, attempt])
        with contextlib.suppress(UnfitError):
            return TARGETS[name].draw(rng, turn, places), places
    raise AssertionError(f"no mutation of {name} applies in {DRAWS} draws")


def plant(forbidden: Path) -> None:
    """Files that must not be opened: pickles that would run code, and a config that points to them."""
    import pickle

    payload = pickle.dumps(_Payload())
    for file in ("evil.pth", "evil.npz", "evil.safetensors", "vit_tiny_patch16_224"):
        (forbidden / file).write_bytes(payload)
    (forbidden / "config.json").write_text('{"architecture": "resnet18", "pretrained_cfg": {"custom_load": true}}')


class _Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("echo ran",)


def _reference(name: str, mutation: Mutation, places: Places) -> Observed:
    key = (name, mutation.reference)
    if key not in _references:
        os.chdir(places.work)
        _references[key] = mutation.expected()
        shutil.rmtree(places.work / "reference", ignore_errors=True)
    return _references[key]


def _judged(error: BaseException | None, seen: Observed, reference: Observed, mutation: Mutation) -> tuple[str, str]:
    if error is None:
        different = verdicts.differences(reference, seen)
        return (verdicts.DIFFERENT, different) if different else (verdicts.SAME, "")
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, environments.StateChangedError):
        return verdicts.DIFFERENT, message
    verdict, reason = verdicts.of_error(error, mutation.names)
    return verdict, f"[{reason}] {message}" if reason else message
