"""Mutations of safetensors files: tensors, headers, metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tests.fuzz.file_mutations import UnfitError, flip_bytes

KINDS = (
    "dtype changed", "shape changed", "tensor renamed", "tensor removed", "tensor added", "NaN or infinity in a tensor",
    "integer out of range", "header size", "header bytes flipped", "header", "metadata removed",
)  # fmt: skip
_OF_FLOATS = (torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool)
_OF_INTEGERS = (torch.float32, torch.float64, torch.int8, torch.int64, torch.bool)
Skip = Callable[[str, str], bool]
"""Whether a kind of mutation of a tensor of this name gives another valid file."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """All tensors of a file, and its metadata."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def damage_tensors(rng: np.random.Generator, path: Path, kind: str, skip: Skip) -> tuple[str, str]:
    """Apply a mutation of :data:`KINDS`; returns what was done and the tensor's name."""
    if kind in ("header size", "header bytes flipped", "header"):
        return _damage_header(rng, path, kind), ""
    tensors, metadata = read_tensors(path)
    if kind == "metadata removed":
        if not metadata:
            raise UnfitError
        save_file(tensors, path)
        return "", ""
    names = sorted(name for name in tensors if not skip(name, kind))
    if not names:
        raise UnfitError
    name = names[rng.integers(len(names))]
    done = _damage_tensor(rng, tensors, name, kind)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return f"{name}{done}", name


def _damage_tensor(rng: np.random.Generator, tensors: dict[str, Tensor], name: str, kind: str) -> str:
    tensor = tensors[name]
    if kind == "dtype changed":
        dtypes = _OF_FLOATS if tensor.is_floating_point() else _OF_INTEGERS
        dtype = dtypes[rng.integers(len(dtypes))]
        if dtype == tensor.dtype or (
            torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) and not dtype.is_floating_point
        ):
            raise UnfitError  # zeros and ones survive as anything
        tensors[name] = tensor.to(dtype)
        return f" to {dtype}"
    if kind == "shape changed":
        tensors[name] = _reshaped(rng, tensor)
        return f" {tuple(tensor.shape)} to {tuple(tensors[name].shape)}"
    if kind == "tensor renamed":
        new = [name + "_", name[:-1], f"x.{name}", name.upper()][rng.integers(4)]
        if new in tensors:
            raise UnfitError
        tensors[new] = tensors.pop(name)
        return f" to {new}"
    if kind == "tensor removed":
        del tensors[name]
        return ""
    if kind == "tensor added":
        new = [f"{name}.extra", "unknown", f"{name.split('.')[0]}.unknown", "../../x"][rng.integers(4)]
        tensors[new] = torch.zeros(2, 3)
        return f": {new}"
    if kind == "NaN or infinity in a tensor":
        if not tensor.is_floating_point() or tensor.numel() == 0:
            raise UnfitError
        values = tensor.clone()
        values.view(-1)[rng.integers(values.numel())] = [float("nan"), float("inf"), float("-inf")][rng.integers(3)]
        tensors[name] = values
        return ""
    if kind == "integer out of range":
        if tensor.dtype not in (torch.int64, torch.int32) or tensor.numel() == 0:
            raise UnfitError
        values = tensor.clone()
        values.view(-1)[rng.integers(values.numel())] = [-1, -(2**31), 2**31 - 1, 0][rng.integers(4)]
        tensors[name] = values
        return ""
    raise ValueError(kind)


def _reshaped(rng: np.random.Generator, tensor: Tensor) -> Tensor:
    changes: list[Tensor] = [tensor.unsqueeze(0), tensor.unsqueeze(-1)]
    if tensor.ndim:
        changes += [torch.cat([tensor, tensor[:1]]), tensor[:-1], tensor[:0]]
    if tensor.ndim >= 2:
        changes += [tensor.flatten(), tensor[:, :-1]]
        if tensor.shape[0] != tensor.shape[1]:
            changes.append(tensor.transpose(0, 1))
    changed = changes[rng.integers(len(changes))]
    if changed.shape == tensor.shape:
        raise UnfitError
    return changed.contiguous()


def _damage_header(rng: np.random.Generator, path: Path, kind: str) -> str:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    if kind == "header bytes flipped":
        return flip_bytes(rng, path, 0, 8 + size)
    if kind == "header size":
        new = [0, 1, size - 1, size + 1, len(content), 2**40, 2**63, 2**64 - 1][rng.integers(8)]
        path.write_bytes(new.to_bytes(8, "little") + content[8:])
        return f"{size} to {new}"
    header = json.loads(content[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    entry = header[names[rng.integers(len(names))]]
    what = int(rng.integers(5))
    if what == 0:
        entry["data_offsets"] = [entry["data_offsets"][0], 2**50]
    elif what == 1:
        entry["shape"] = [2**31, 2**31]
    elif what == 2:
        entry["dtype"] = "F99"
    elif what == 3:
        entry["shape"] = [-1]
    else:
        entry["data_offsets"] = [0, 0]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return ["offsets", "shape", "dtype", "negative shape", "no bytes"][what]
