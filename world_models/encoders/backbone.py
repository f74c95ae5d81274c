"""timm backbones, built from an allow-list of sizes: a config can name an architecture, and nothing else.

``timm.create_model`` takes arguments that read any file, write any file and reach the network (``checkpoint_path``,
``cache_dir``, ``pretrained_cfg_overlay``). None of them comes from a config here. Weights are read by this module, or
by timm for a name of its own while a world is trained; opening a world does neither.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from world_models.encoders.shipped_weights import SHIPPED, flat_names
from world_models.files import check_regular, read_tensors

ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_]*(\.[a-z0-9][a-z0-9_]*)?", re.ASCII)
"""timm's own names, with or without the tag of their weights: no place in a hub, no folder, no URL."""
ARGUMENTS: Mapping[str, tuple[type, float, float]] = {
    "depth": (int, 1, 64),
    "embed_dim": (int, 8, 4096),
    "num_heads": (int, 1, 64),
    "patch_size": (int, 1, 64),
    "mlp_ratio": (float, 0.25, 16.0),
    "init_values": (float, 0.0, 10.0),
    "reg_tokens": (int, 0, 64),
    "class_token": (bool, 0, 1),
    "no_embed_class": (bool, 0, 1),
    "qkv_bias": (bool, 0, 1),
    "qk_norm": (bool, 0, 1),
}
"""Scalar arguments of ``timm.create_model`` that a config may give, with their types and bounds."""
OUT_INDICES = (0, 11)
"""Bounds of the feature maps that a config may name in ``out_indices``, in rising order."""
DEFAULT_MAPS = [1, 2]
"""Feature maps of a convolutional backbone where a config names none: strides 4 and 8."""
TOKEN_PIXELS = 16
"""Least side of a token of a convolutional backbone."""
_HUB_SECONDS = 5
REFUSALS = (TypeError, ValueError, RuntimeError, AssertionError, KeyError, IndexError, AttributeError, ArithmeticError)
"""What timm raises for an architecture that does not take an argument, and for weights that do not fit."""


def check_architecture(name: str) -> None:
    """Raise ValueError unless ``name`` is the name of an architecture in timm."""
    if not ARCHITECTURE.fullmatch(name) or not timm.is_model(name.split(".")[0]):
        family = re.match(r"[A-Za-z0-9]+", name)
        close = timm.list_models(f"{family.group()}*" if family else "", exclude_filters="")[:3]
        raise ValueError(
            f"timm has no backbone {name[:80]!r}; give a name of timm.list_models(), such as "
            f"{', '.join(close or SHIPPED)}"
        )


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ValueError unless every argument is one of :data:`ARGUMENTS` or ``out_indices``, within its bounds."""
    for name, value in arguments.items():
        if name == "out_indices":
            _check_maps(value)
            continue
        if name not in ARGUMENTS:
            known = ", ".join((*ARGUMENTS, "out_indices"))
            raise ValueError(f"backbone_arguments has {str(name)[:80]!r}, but may have {known} alone")
        kind, low, high = ARGUMENTS[name]
        kinds = (int, float) if kind is float else (kind,)
        if type(value) not in kinds or not low <= value <= high:
            described = "true or false" if kind is bool else f"{kind.__name__} from {low} to {high}"
            raise ValueError(f"backbone_arguments.{name}={str(value)[:80]} must be {described}")


def build_backbone(name: str, arguments: Mapping[str, Any], image_size: int, *, pretrained: bool = False) -> nn.Module:
    """An architecture of timm in evaluation mode, without its classifier: a transformer, or feature maps.

    Args:
        name: checked by :func:`check_architecture`.
        arguments: checked by :func:`check_arguments`.
        image_size: side of the frames in pixels.
        pretrained: let timm load its weights for the name: from its cache, or from the network.

    Raises:
        ValueError: the architecture does not take these arguments or this image size, or timm cannot load weights.
    """
    if is_transformer(name):
        every = {**arguments, "num_classes": 0, "img_size": image_size}
    else:
        every = {"out_indices": DEFAULT_MAPS, **arguments, "features_only": True}
    try:
        if pretrained:
            _check_hub(name)
        backbone = timm.create_model(name, pretrained=pretrained, **every)
    except (*REFUSALS, OSError) as error:
        if pretrained:
            raise ValueError(
                f"timm cannot load its weights of {name!r} ({_line(error)}); give a local file by "
                "--encoder.checkpoint, or train from random weights by --encoder.no-pretrained"
            ) from error
        raise ValueError(
            f"timm cannot build {name!r} with backbone_arguments {dict(arguments)} for image_size={image_size} "
            f"({_line(error)})"
        ) from error
    return backbone.eval()


def patch_multiple(name: str, arguments: Mapping[str, Any], image_size: int) -> int:
    """The largest side up to ``image_size`` that is cut into whole patches; of feature maps, into whole tokens.

    Raises:
        ValueError: not a single patch fits.
    """
    patch = int(arguments.get("patch_size", _patch_size(name))) if is_transformer(name) else TOKEN_PIXELS
    if image_size < patch:
        raise ValueError(f"image_size={image_size} is smaller than a patch of {name!r}: give {patch} pixels or more")
    return image_size // patch * patch


@cache
def _patch_size(name: str) -> int:
    with torch.device("meta"):
        embedding: Any = timm.create_model(name, num_classes=0).patch_embed
    return int(embedding.patch_size[0])


def _check_hub(name: str) -> None:
    """Raise OSError where weights are neither cached nor to be had: one question instead of a minute of retries."""
    import huggingface_hub
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.utils import get_session

    config: Any = timm.get_pretrained_cfg(name, allow_unregistered=False)
    place = getattr(config, "hf_hub_id", None)
    if not place:
        return
    place = f"{place}{name}" if place.endswith("/") else place
    files = ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(huggingface_hub.try_to_load_from_cache(place, file), str) for file in files):
        return
    try:
        get_session().head(ENDPOINT, timeout=_HUB_SECONDS)
    except Exception as error:  # of requests or of httpx, by the version of huggingface_hub
        raise OSError(f"they are not in the local cache, and {ENDPOINT} does not answer") from error


@cache
def is_transformer(name: str) -> bool:
    """Whether an architecture cuts frames into patches; the others give feature maps."""
    with torch.device("meta"):
        return hasattr(timm.create_model(name, num_classes=0), "patch_embed")


def load_checkpoint(path: str | Path, name: str, backbone: nn.Module) -> None:
    """Give a backbone the weights of a local file, in timm's names or those that timm converts.

    As with timm's own weights, a classifier is left out and position embeddings are resized. No code in the file runs.

    Args:
        path: safetensors, or what ``torch.save`` wrote of a state dict.
        name: of the architecture.
        backbone: what :func:`build_backbone` made of it.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it holds no weights, or others than this architecture's.
    """
    path = check_regular(Path(path), "give a local file of weights by --encoder.checkpoint")
    fix = "give weights of this architecture by --encoder.checkpoint"
    weights = _read_state(path, fix)
    with torch.device("meta"):
        complete = timm.create_model(name)
    module = sys.modules[type(complete).__module__]
    if hasattr(module, "checkpoint_filter_fn"):
        try:
            weights = module.checkpoint_filter_fn(weights, backbone if is_transformer(name) else complete)
        except REFUSALS as error:
            raise ValueError(f"{path} does not fit {name!r} ({_line(error)}); {fix}") from error
    given = flat_names(weights)
    wanted = backbone.state_dict()
    for key, tensor in wanted.items():
        found = given.get(key.replace(".", "_"))
        if found is None and key.endswith("num_batches_tracked"):
            continue  # files of before it was counted lack it, and nothing reads it
        if found is None or found.shape != tensor.shape:
            state = "is missing" if found is None else f"has shape {tuple(found.shape)}, not {tuple(tensor.shape)}"
            raise ValueError(f"{path} does not fit {name!r}: tensor {key!r} {state}; {fix}")
    classifier = _classifier_names(complete)
    known = flat_names(complete.state_dict()).keys() | flat_names(wanted).keys()
    for key in weights:
        if key.replace(".", "_") not in known and not key.startswith(classifier):
            raise ValueError(f"{path} does not fit {name!r}, which has no tensor {key[:80]!r}; {fix}")
    backbone.load_state_dict({key: given.get(key.replace(".", "_"), tensor) for key, tensor in wanted.items()})


def _check_maps(value: Any) -> None:
    low, high = OUT_INDICES
    valid = isinstance(value, list | tuple) and all(type(index) is int and low <= index <= high for index in value)
    if not valid or not value or sorted(set(value)) != list(value):
        raise ValueError(
            f"backbone_arguments.out_indices={str(value)[:80]} must be whole numbers from {low} to {high} in rising "
            "order"
        )


def _read_state(path: Path, fix: str) -> dict[str, Tensor]:
    """Named tensors of a file, whatever they are wrapped in."""
    if path.suffix == ".safetensors":
        content: Any = read_tensors(path, fix=fix)
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (*REFUSALS, OSError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{path} holds no weights that can be read without running code ({_line(error)}); {fix}"
            ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(item, Tensor) for item in content.values()):
        raise ValueError(f"{path} holds no named tensors; {fix}")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _classifier_names(model: nn.Module) -> tuple[str, ...]:
    names = cast("dict[str, Any]", getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return tuple(f"{name}." for name in (*([names] if isinstance(names, str) else names), "head", "fc", "classifier"))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
