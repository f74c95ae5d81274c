"""An exponential moving average of a module's weights and buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from world_models.distributed.processes import Processes


class WeightAverage:
    """Follows a module while it trains.

    Args:
        module: whose state is averaged; integers are copied.

    Attributes:
        tensors: the average, by the names of the module's state dict.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average towards the module's present state, by a share of 1 - ``decay``."""
        for name, tensor in self._module.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - decay)
            else:
                self.tensors[name].copy_(tensor)

    @torch.no_grad()
    def share(self, processes: Processes) -> None:
        """Average over processes: running statistics, as of a batch normalisation, differ between them until then."""
        for tensor in self.tensors.values():
            if tensor.is_floating_point():
                tensor.copy_(processes.average(tensor))

    def hand_over(self) -> None:
        """Leave the average in the module, in evaluation mode."""
        self._module.load_state_dict(self.tensors)
        self._module.eval()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the average, in evaluation mode, inside this context, and goes on training after it."""
        trained = {name: tensor.detach().clone() for name, tensor in self._module.state_dict().items()}
        self.hand_over()
        with torch.inference_mode():
            yield
        self._module.load_state_dict(trained)
        self._module.train()
