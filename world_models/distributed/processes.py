"""The processes that train one model together: one, or as many as `torchrun` or `accelerate launch` started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from world_models.devices import choose_device

if TYPE_CHECKING:
    from accelerate import Accelerator


class Processes:
    """What a training exchanges with the other processes.

    In one process every method is free and accelerate is not even imported. Of several, each has the same weights and
    the same random numbers, works on its own part of a batch, and the main one alone writes. Gradients are added up
    in one piece: models here are small, and parameters without a gradient are no trouble.

    Args:
        device: ``cpu``, ``cuda`` or ``auto``; of several processes on GPUs each takes its own.

    Raises:
        ImportError: several processes were launched and accelerate is missing.
        ValueError: there is no such device, or they were launched for another way of sharing than whole models in each.

    Attributes:
        count: of the processes.
        rank: number of this one.
        device: where it computes.
    """

    def __init__(self, device: str = "auto") -> None:
        self._accelerator: Accelerator | None = None
        self.count, self.rank = 1, 0
        self.device = choose_device(device)
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedType
        except ImportError as error:
            raise ImportError('several processes need accelerate: pip install "rla-gym[distributed]"') from error
        # Every stage says itself what it computes in.
        self._accelerator = Accelerator(cpu=self.device.type == "cpu", mixed_precision="no")
        kind = self._accelerator.distributed_type
        if kind not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise ValueError(
                f"launched as {kind.value}, but every process needs a whole model, which fits on one device: launch "
                "with `torchrun --nproc-per-node N` or `accelerate launch --multi_gpu`"
            )
        # The others may wait for hours while the main process encodes a dataset, but not for gradients.
        self._patient: Any = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=1))
        self.count, self.rank = self._accelerator.num_processes, self._accelerator.process_index
        if self.device.type != "cpu":  # to a CPU accelerate gives an index, which safetensors does not know
            self.device = self._accelerator.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """CPU threads for this process, where all of a machine share its cores."""
        return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self._accelerator is not None:
            torch.distributed.barrier(group=self._patient)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs what is inside alone, then the others: they find the files that it wrote."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def copy_from_main(self, module: nn.Module) -> None:
        """Give a module, in place, the parameters and buffers that it has in the main process."""
        if self._accelerator is not None:
            from accelerate.utils import broadcast

            with torch.no_grad():
                for tensor in module.state_dict().values():
                    tensor.copy_(broadcast(tensor))

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, of the tensor's shape, in all of them."""
        return tensor if self._accelerator is None else self._accelerator.reduce(tensor, "sum")

    def sum_gradients(self, module: nn.Module) -> None:
        """Add up the gradients of a module's parameters, in place, in all processes; what has none has none in any."""
        if self._accelerator is None:
            return
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        total = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, total.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def average(self, tensor: Tensor) -> Tensor:
        """Mean over the processes, of the tensor's shape, in all of them."""
        return self.sum(tensor) / self.count

    def concatenate(self, tensor: Tensor) -> Tensor:
        """Tensors ``(n, ...)`` of all processes, in their order: ``(count * n, ...)``."""
        return tensor if self._accelerator is None else self._accelerator.gather(tensor)


@cache
def launched(device: str = "auto") -> Processes:
    """The processes that this one was launched with.

    Args:
        device: as for :class:`Processes`.
    """
    return Processes(device)
