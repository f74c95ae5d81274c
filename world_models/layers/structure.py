"""Modules whose weights come from a file: its shapes are compared before any memory is taken, and nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from world_models.files import check_tensors

Module = TypeVar("Module", bound=nn.Module)


def module_with_weights(make: Callable[[], Module], tensors: Mapping[str, Tensor], *, source: str, fix: str) -> Module:
    """A module with given weights as float32.

    The global random state stays as it is, and the default dtype does not matter.

    Args:
        make: builds it; called on the device ``meta``, where sizes cost nothing.
        tensors: its whole state dict, on the CPU.
        source: what does not fit what, for messages: ``FILE does not fit FILE``.
        fix: what the user can do about it.

    Raises:
        ValueError: the tensors are not those of the module, or ``make`` raised one: the sizes that it was made from do
            not go together.
    """
    try:
        with torch.device("meta"):
            module = make()
    except ValueError as error:
        raise ValueError(f"{source}: {' '.join(str(error).split())[:300]}; {fix}") from error
    check_tensors(tensors, module.state_dict(), source=source, fix=fix)
    if _has_unsaved_tensors(module, tensors):
        # Of what no file holds, such as tables of positions, only building it gives the numbers.
        with _untouched_globals():
            module = make()
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    module.load_state_dict(weights, assign=True)
    return module


def _has_unsaved_tensors(module: nn.Module, saved: Collection[str]) -> bool:
    """Whether a module on ``meta`` has buffers, or tensors beside these, that are not among the saved."""
    buffers = any(buffer.is_meta for name, buffer in module.named_buffers() if name not in saved)
    attributes = (value for part in module.modules() for value in vars(part).values())
    return buffers or any(isinstance(value, Tensor) and value.is_meta for value in attributes)


@contextmanager
def _untouched_globals() -> Iterator[None]:
    """Modules are built as float32, and the global random state afterwards is that of before."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
