"""World folders: find one by its name, write one, load one."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from world_models.base import WorldModel
from world_models.config import DEFAULT_DYNAMICS, WorldConfig
from world_models.data.demonstrations import Demonstrations
from world_models.encoders.state import StateEncoder
from world_models.files import save_json, save_tensors
from world_models.mixer.dynamics import RegressionWorldModel, ResidualFlowWorldModel
from world_models.rla_wm.dynamics import RLAWorldModel
from world_models.world_packages import packaged_world, packaged_worlds

BUNDLED_WORLDS = Path(__file__).parent / "worlds"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What :meth:`world_models.base.WorldModel.use_precision` may be asked for."""
DYNAMICS: dict[str, type[WorldModel]] = {
    model.name: model for model in (ResidualFlowWorldModel, RegressionWorldModel, RLAWorldModel)
}


@dataclass(frozen=True)
class World:
    """A loaded world folder: the model, the demonstrations it was given, and where it lies."""

    model: WorldModel
    demonstrations: Demonstrations
    folder: Path


def world_folder(name_or_path: str | Path) -> Path:
    """Folder of a world: a local folder, a bundled name, a name of an installed package's world (see
    :mod:`world_models.world_packages`), or a hub id ``owner/name`` (downloaded by huggingface_hub).

    Raises:
        FileNotFoundError: there is no such world; the message says what there is.
        ValueError: two installed packages bring a world of this name.
    """
    for candidate in (Path(name_or_path), BUNDLED_WORLDS / str(name_or_path)):
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    packaged = packaged_world(str(name_or_path))
    if packaged is not None:
        return packaged
    bundled = ", ".join(sorted(path.parent.name for path in BUNDLED_WORLDS.glob(f"*/{CONFIG_FILE}"))) or "none"
    message = (
        f"no world {str(name_or_path)!r}: neither a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, nor a bundled world "
        f"({bundled}), nor one of an installed package ({', '.join(packaged_worlds()) or 'none'}), nor a hub id that "
        "can be reached; `rla-gym train` makes one"
    )
    if str(name_or_path).count("/") != 1 or Path(name_or_path).exists():
        raise FileNotFoundError(message)
    try:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "README.md"]
        return Path(snapshot_download(str(name_or_path), allow_patterns=patterns))
    except Exception as error:
        raise FileNotFoundError(message) from error


def read_config(folder: Path) -> WorldConfig:
    """Config of a world folder."""
    path = Path(folder) / CONFIG_FILE
    types = {name: model.config_type for name, model in DYNAMICS.items()}
    return WorldConfig.from_dict(json.loads(path.read_text()), types, str(path))


def check_prediction_length(folder: Path, prediction_length: int) -> None:
    """Raise ValueError unless the world in a folder can predict so many actions at once."""
    longest = read_config(folder).chunk_length
    if not 1 <= prediction_length <= longest:
        raise ValueError(
            f"prediction_length={prediction_length} must be between 1 and {longest}, the longest chunk that the world "
            f"{folder} was trained on"
        )


def save_encoder(folder: Path | str, config: WorldConfig, encoder: StateEncoder) -> None:
    """Begin a world folder with its encoder alone, in float16; a folder that has this encoder is left as it is.

    Raises:
        ValueError: the folder holds a world with another encoder.
    """
    folder = Path(folder)
    if (folder / WEIGHTS_FILE).is_file():
        if load_encoder(folder).fingerprint() != encoder.fingerprint():
            raise ValueError(f"{folder} holds a world with another encoder; choose another --out")
        return
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    save_tensors(folder / WEIGHTS_FILE, _stored(tensors, torch.float16))
    save_json(folder / CONFIG_FILE, dataclasses.replace(config, dynamics={}).to_dict())


def save_model(folder: Path | str, model: WorldModel, dtype: torch.dtype = torch.float32) -> None:
    """Write or update a world folder; weights of other dynamics stay as they are.

    Args:
        folder: the world's folder.
        model: what is written; its config says which dynamics are its own.
        dtype: floating-point type of the weights on disk; float16 halves the file.

    Raises:
        ValueError: the model was loaded in reduced precision, so that its own weights are gone.
    """
    if any(parameter.dtype == torch.bfloat16 for parameter in model.parameters()):
        raise ValueError("this model was loaded with precision='bfloat16': save one that was loaded in float32")
    folder = Path(folder)
    tensors = _stored(model.state_dict(), dtype)
    dynamics = {model.name: model.config.dynamics[model.name]}
    if (folder / WEIGHTS_FILE).is_file():
        replaced = {name.split(".")[0] for name in tensors}
        with safe_open(folder / WEIGHTS_FILE, "pt") as file:
            kept = {name: file.get_tensor(name) for name in file.keys() if name.split(".")[0] not in replaced}
        tensors = kept | tensors
        dynamics = {**read_config(folder).dynamics, **dynamics}
    in_order = {name: dynamics[name] for name in DYNAMICS if name in dynamics}
    save_tensors(folder / WEIGHTS_FILE, tensors)
    save_json(folder / CONFIG_FILE, dataclasses.replace(model.config, dynamics=in_order).to_dict())


def dynamics_in(folder: Path) -> tuple[str, ...]:
    """Names of the dynamics that a world folder holds: none beside an encoder alone."""
    return tuple(read_config(folder).dynamics)


def load_tensors(path: Path, prefixes: set[str]) -> dict[str, Tensor]:
    """Float32 tensors of a safetensors file whose first name part is in ``prefixes``."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.split(".")[0] in prefixes}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def load_model(
    folder: Path,
    dynamics: str = DEFAULT_DYNAMICS,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    prediction_length: int | None = None,
) -> WorldModel:
    """The model in a world folder, frozen, on ``device``.

    States stay float32; with ``precision="bfloat16"`` the mixers compute in that: faster where the processor has it.
    ``prediction_length`` is the world's own where it is None.

    Raises:
        ValueError: ``dynamics``, ``precision`` or ``prediction_length`` is unknown or out of range, or the folder lacks
            the dynamics.
    """
    for name, value, choices in (("dynamics", dynamics, DYNAMICS), ("precision", precision, PRECISIONS)):
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
    config = read_config(folder)
    if dynamics not in config.dynamics:
        raise ValueError(
            f"{folder} has no dynamics {dynamics!r}, but {', '.join(config.dynamics) or 'an encoder alone'}; train the "
            "world to its end, or with these dynamics"
        )
    if prediction_length is not None:
        check_prediction_length(folder, prediction_length)
        config = dataclasses.replace(config, prediction_length=prediction_length)
    model = DYNAMICS[dynamics](config, StateEncoder.from_config(config.encoder, config.proprioception))
    prefixes = {name for name, _ in model.named_children()}
    missing, unexpected = model.load_state_dict(load_tensors(Path(folder) / WEIGHTS_FILE, prefixes), strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{folder} does not hold the {dynamics} dynamics its config describes (missing {missing[:2]}, unexpected "
            f"{unexpected[:2]}); train the world anew"
        )
    model.use_precision(PRECISIONS[precision])
    return model.to(device).eval().requires_grad_(False)


def load_world(
    name_or_path: str | Path = "lift",
    *,
    dynamics: str = DEFAULT_DYNAMICS,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    prediction_length: int | None = None,
) -> World:
    """Load a world by bundled name, folder or hub id; see :func:`world_folder` and :func:`load_model`."""
    folder = world_folder(name_or_path)
    model = load_model(folder, dynamics, device, precision, prediction_length)  # first, to name another format
    return World(model, Demonstrations.load(folder).to(device), folder)


def load_encoder(name_or_path: str | Path = "lift", device: torch.device | str = "cpu") -> StateEncoder:
    """The frozen state encoder of a world; see :meth:`world_models.encoders.state.StateEncoder.forward`."""
    folder = world_folder(name_or_path)
    config = read_config(folder)
    encoder = StateEncoder.from_config(config.encoder, config.proprioception)
    tensors = load_tensors(folder / WEIGHTS_FILE, {"encoder"})
    encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in tensors.items()})
    return encoder.to(device)


def _stored(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
