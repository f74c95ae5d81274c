"""Files that run no code: safetensors and JSON, checked as they are read, written under another name, then renamed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from world_models.disk_space import clear_disk_errors

Kind = TypeVar("Kind")
DEEPEST = 32
"""Most levels of a JSON file."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
"""What weights and states may be stored as; they are read as float32."""
READABLE = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"}
"""safetensors' names of the dtypes that :func:`read_tensors` takes."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that is either the old one or the whole new one, never half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
    except SafetensorError as error:  # a full disk, above all
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written ({error}): free space there, or choose another place") from error
    # safetensors makes files that only their owner can read; a world is there to be shared.
    temporary.chmod(0o644)
    temporary.replace(path)


def save_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with clear_disk_errors(path):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def beside(path: Path, ending: str) -> Path:
    """The file beside another whose name ends otherwise: ``rows.json`` and ``.png`` give ``rows.png``.

    Nothing but ``.json`` is taken off: in ``lr_0.1`` what follows the dot is no suffix.
    """
    return path.with_name(path.name.removesuffix(".json") + ending)


def save_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically. Numbers that are not finite become null, for JSON has none."""
    save_text(path, json.dumps(_without_nan(content), indent=2) + "\n")


def json_text(content: Any) -> str:
    """JSON in one line, for headers. Numbers that are not finite become null."""
    return json.dumps(_without_nan(content))


def read_json(path: Path, kind: type[Kind] = dict, *, fix: str) -> Kind:  # type: ignore[assignment]
    """The content of a JSON file.

    Args:
        path: of the file, a regular one.
        kind: type of the content as a whole: ``dict`` or ``list``.
        fix: what the user can do about a damaged file; messages end with it.

    Raises:
        OSError: the file is missing, no regular file or cannot be read.
        ValueError: it is not UTF-8, no JSON, of another type, or has keys twice or numbers that are not finite.
    """
    path = check_regular(path, fix)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}); {fix}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}; {fix}") from error
    return parse_json(text, kind, source=str(path), fix=fix)


def parse_json(text: str, kind: type[Kind] = dict, *, source: str, fix: str) -> Kind:  # type: ignore[assignment]
    """The content of a JSON text from the place ``source``; else as :func:`read_json`."""
    try:
        content = json.loads(
            text, parse_constant=_no_number, parse_float=_finite_number, object_pairs_hook=_unique_keys
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is no JSON that can be read ({_line(error)}); {fix}") from error
    if _is_deep(content):
        raise ValueError(f"{source} has more than {DEEPEST} levels; {fix}")
    if not isinstance(content, kind):
        names: dict[type, str] = {dict: "an object", list: "a list"}
        raise ValueError(f"{source} holds a JSON {type(content).__name__}, not {names.get(kind, kind.__name__)}; {fix}")
    return content


def read_tensors(path: Path, *, fix: str, parts: Collection[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file, copied into memory, all of their numbers finite.

    Args:
        path: of the file, a regular one.
        fix: what the user can do about a damaged file; messages end with it.
        parts: first parts (before the dot) of the names that are read; None for all.

    Raises:
        OSError: the file is missing, no regular file or cannot be read.
        ValueError: it is damaged, or has a dtype that nothing here writes, NaN or infinity.
    """
    path, tensors = check_regular(path, fix), {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():
                if parts is not None and name.split(".")[0] not in parts:
                    continue
                dtype = file.get_slice(name).get_dtype()
                if dtype not in READABLE:
                    raise ValueError(f"{path}: tensor {_short(name)} has dtype {dtype}; {fix}")
                # A copy, so that nothing that happens to the file later reaches the numbers.
                tensors[name] = file.get_tensor(name).clone()
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error, fix) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not all_finite(tensor):
            raise ValueError(f"{path}: tensor {_short(name)} has NaN or infinity; {fix}")
    return tensors


def read_metadata(path: Path, *, fix: str) -> dict[str, str]:
    """Texts in the header of a safetensors file; else as :func:`read_tensors`."""
    path = check_regular(path, fix)
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error, fix) from error


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str, fix: str, exact: bool = False
) -> None:
    """Check that tensors have the names, shapes and dtypes of a structure.

    Args:
        tensors: as read from a file.
        expected: a structure's state dict, which may be on the device ``meta``.
        source: what does not fit what, for messages: ``FILE does not fit FILE``.
        fix: what the user can do about it.
        exact: no other floating-point type will do.

    Raises:
        ValueError: a tensor is missing, additional, of another shape, or of another dtype: for floating-point ones any
            of :data:`FLOATS` will do.
    """
    for name, wanted in expected.items():
        if name not in tensors:
            raise ValueError(f"{source}: tensor {_short(name)} is missing; {fix}")
        tensor = tensors[name]
        if tensor.shape != wanted.shape:
            raise ValueError(
                f"{source}: tensor {_short(name)} has shape {tuple(tensor.shape)} instead of {tuple(wanted.shape)}; "
                f"{fix}"
            )
        if tensor.dtype not in (FLOATS if wanted.is_floating_point() and not exact else (wanted.dtype,)):
            raise ValueError(f"{source}: tensor {_short(name)} has dtype {tensor.dtype}; {fix}")
    additional = [name for name in tensors if name not in expected]
    if additional:
        raise ValueError(f"{source}: tensor {_short(additional[0])} has no place in it; {fix}")


def check_regular(path: Path, fix: str) -> Path:
    """``path`` if it is a regular file, or a link to one: a pipe would wait for ever, and a device never end.

    Raises:
        OSError: it is missing or something else; the message ends with ``fix``.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist; {fix}") from error
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}); {fix}") from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder instead of a file; {fix}")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is no regular file; {fix}")
    return path


def all_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor has neither NaN nor infinity; a tenth of the time of ``isfinite``."""
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor of any dtype, for digests."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def weights_digest(module: nn.Module, without: Collection[str] = ()) -> str:
    """Short hex digest of a module's parameters and buffers, for the keys of what is computed from it.

    Submodules of the names in ``without`` do not count, wherever they are.
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if not set(without) & set(name.split(".")):
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:16]


def _unreadable(path: Path, error: Exception, fix: str) -> Exception:
    if isinstance(error, OSError):
        return OSError(f"{path} cannot be read ({error.strerror or _line(error)}); {fix}")
    return ValueError(f"{path} is no whole safetensors file ({_line(error)}); {fix}")


def _no_number(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is no number")


def _finite_number(literal: str) -> float:
    number = float(literal)
    return number if math.isfinite(number) else _no_number(literal[:40])


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {_short(next(key for key in keys if keys.count(key) > 1))} stands twice")
    return content


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(DEEPEST):
        parts = (
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)
        )
        level = [item for part in parts for item in part]
    return bool(level)


def _without_nan(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    return [_without_nan(value) for value in content] if isinstance(content, list | tuple) else content


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _short(name: str) -> str:
    return repr(name[:80])
