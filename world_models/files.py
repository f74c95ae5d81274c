"""Files that never run code: safetensors and JSON, written under a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that is either the old one or the whole new one, never half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
    # safetensors makes files that only their owner can read; a world is there to be shared.
    temporary.chmod(0o644)
    temporary.replace(path)


def save_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor of any dtype, for digests."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def weights_digest(module: nn.Module) -> str:
    """Short hex digest of a module's parameters and buffers, for the keys of what is computed from it."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:16]
