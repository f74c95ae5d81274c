"""A mutation that was drawn, and how files of every kind are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from safetensors.torch import save_file

from tests.fuzz import file_mutations, json_mutations, table_mutations, tensor_mutations, video_mutations
from tests.fuzz.file_mutations import UnfitError

Observed = Mapping[str, Any]
"""What a case gave: arrays and numbers by name."""


@dataclass(frozen=True)
class Mutation:
    """One mutated input.

    Attributes:
        kind: of the mutation.
        what: was done, for people.
        names: alternatives; all parts of one of them must stand in the message of a refusal.
        run: opens and uses the input, and returns what is compared.
        reference: what :attr:`run` must return if it accepts the input, by name among references of the target.
        expected: computes the reference.
    """

    kind: str
    what: str
    names: Sequence[Sequence[str]]
    run: Callable[[], Observed]
    reference: str
    expected: Callable[[], Observed]


@dataclass(frozen=True)
class Places:
    """The folders of a case.

    Attributes:
        root: of the pristine inputs.
        work: the case's own, empty but for ``elsewhere``.
        forbidden: beside it; nothing may be read or written there.
    """

    root: Path
    work: Path
    forbidden: Path

    @property
    def elsewhere(self) -> Path:
        """Where links of mutated inputs lead."""
        return self.work / "elsewhere"


def kinds_of(path: Path) -> tuple[str, ...]:
    """Kinds of mutation that suit a file, general ones and those of its format in about equal numbers."""
    general = file_mutations.OF_ALL_FILES
    return {
        ".json": general + file_mutations.OF_TEXT + json_mutations.KINDS * 3,
        ".safetensors": general + tensor_mutations.KINDS * 2,
        ".parquet": general + table_mutations.KINDS * 2,
        ".mp4": general + video_mutations.KINDS * 2,
    }.get(path.suffix, general)


def damage(
    rng: np.random.Generator,
    path: Path,
    elsewhere: Path,
    *,
    valid: json_mutations.Valid = lambda place, value: False,
    skip: tensor_mutations.Skip = lambda name, kind: False,
    columns: tuple[str, ...] = (),
) -> tuple[str, str, str]:
    """Damage a file in one way; returns the kind, what was done, and the key, tensor or column concerned.

    Raises:
        UnfitError: draw again.
    """
    kinds = kinds_of(path)
    kind = kinds[rng.integers(len(kinds))]
    if kind in file_mutations.OF_ALL_FILES + file_mutations.OF_TEXT:
        before = path.read_text() if path.suffix == ".json" else ""
        done = file_mutations.damage_file(rng, path, kind, elsewhere)
        if before and path.is_file() and not path.is_symlink():
            after = path.read_bytes()
            if kind == "bytes flipped" and json_mutations.only_valid_changes(before, after, valid):
                raise UnfitError
        return kind, done, ""
    if path.suffix == ".json":
        text, done, name = json_mutations.damage_json(rng, path.read_text(), kind, valid)
        path.write_text(text)
        return kind, done, name
    if path.suffix == ".safetensors":
        done, name = tensor_mutations.damage_tensors(rng, path, kind, skip)
        return kind, done, name
    if path.suffix == ".parquet":
        done, name = table_mutations.damage_table(rng, path, kind, columns)
        return kind, done, name
    try:
        return kind, video_mutations.damage_video(rng, path, kind), ""
    except av.FFmpegError as error:  # two frames at one time
        raise UnfitError from error


def damage_metadata(
    rng: np.random.Generator, path: Path, entry: str, valid: json_mutations.Valid
) -> tuple[str, str, str]:
    """Mutate the JSON text in an entry of a safetensors file's metadata."""
    tensors, metadata = tensor_mutations.read_tensors(path)
    if not metadata or entry not in metadata:
        raise UnfitError
    kind = json_mutations.KINDS[rng.integers(len(json_mutations.KINDS))]
    if rng.random() < 0.15:
        kind = "type changed"
        text, done, name = json.dumps([None, "x", [], 3][rng.integers(4)]), f"{entry} replaced", entry
    else:
        text, done, name = json_mutations.damage_json(rng, metadata[entry], kind, valid)
    save_file(tensors, path, {**metadata, entry: text})
    return f"metadata: {kind}", f"{entry}: {done}", name
