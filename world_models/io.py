"""World folders: find one by its name, write one, load one."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from world_models.base import WorldModel
from world_models.config import FIX, DynamicsName, WorldConfig
from world_models.data.demonstrations import DEMONSTRATIONS_FILE, Demonstrations
from world_models.encoders.state import StateEncoder
from world_models.files import read_json, read_tensors, save_json, save_tensors
from world_models.layers.structure import module_with_weights
from world_models.mixer.dynamics import RegressionWorldModel, ResidualFlowWorldModel, ScoreSamplerWorldModel
from world_models.rla_wm.dynamics import RLAWorldModel
from world_models.world_names import CONFIG_FILE, WEIGHTS_FILE, world_folder

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What :meth:`world_models.base.WorldModel.use_precision` may be asked for."""
DYNAMICS: dict[str, type[WorldModel]] = {
    model.name: model for model in (ResidualFlowWorldModel, RegressionWorldModel, ScoreSamplerWorldModel, RLAWorldModel)
}


@dataclass(frozen=True)
class World:
    """A loaded world folder: the model, the demonstrations it was given, and where it lies."""

    model: WorldModel
    demonstrations: Demonstrations
    folder: Path


def read_config(folder: Path) -> WorldConfig:
    """Config of a world folder.

    Raises:
        OSError: ``config.json`` is missing or cannot be read.
        ValueError: it is damaged, or of another format; see :meth:`world_models.config.WorldConfig.from_dict`.
    """
    path = Path(folder) / CONFIG_FILE
    types = {name: model.config_type for name, model in DYNAMICS.items()}
    return WorldConfig.from_dict(read_json(path, fix=FIX), types, str(path))


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
    save_json(folder / CONFIG_FILE, config.with_dynamics({}).to_dict())


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
        before = read_tensors(folder / WEIGHTS_FILE, fix=FIX)
        kept = {name: tensor for name, tensor in before.items() if name.split(".")[0] not in replaced}
        tensors = kept | tensors
        dynamics = {**read_config(folder).dynamics, **dynamics}
    in_order = {name: dynamics[name] for name in DYNAMICS if name in dynamics}
    save_tensors(folder / WEIGHTS_FILE, tensors)
    save_json(folder / CONFIG_FILE, model.config.with_dynamics(in_order).to_dict())


def dynamics_in(folder: Path) -> tuple[str, ...]:
    """Names of the dynamics that a world folder holds: none beside an encoder alone."""
    return tuple(read_config(folder).dynamics)


def default_dynamics(world: str | Path, asked: str | None = None) -> DynamicsName:
    """Name of the dynamics that predict in a world: those asked for, or the world's default.

    Raises:
        OSError, ValueError: there is no such world, or as of :func:`read_config`; no dynamics are called so, or the
            world is an encoder alone.
    """
    folder = world_folder(world)
    if asked is not None:
        _check_choice("dynamics", asked, DYNAMICS)
        return cast(DynamicsName, asked)
    return _default_of(read_config(folder), folder)


def load_model(
    folder: Path,
    dynamics: str | None = None,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    prediction_length: int | None = None,
) -> WorldModel:
    """The model in a world folder, frozen, on ``device``; of the world's default dynamics where they are None.

    States stay float32; with ``precision="bfloat16"`` the mixers compute in that: faster where the processor has it.
    ``prediction_length`` is the world's own where it is None.

    Nothing but the folder's two files is read, and the global random state stays as it is.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: ``dynamics``, ``precision`` or ``prediction_length`` is unknown or out of range, the folder lacks
            the dynamics, or a file is damaged.
    """
    if dynamics is not None:
        _check_choice("dynamics", dynamics, DYNAMICS)
    _check_choice("precision", precision, PRECISIONS)
    config = read_config(folder)
    dynamics = dynamics or _default_of(config, folder)
    if dynamics not in config.dynamics:
        raise ValueError(
            f"{folder} has no dynamics {dynamics!r}, but {', '.join(config.dynamics) or 'an encoder alone'}; "
            f"{_to_its_end(folder)}, or train one with these dynamics"
        )
    if prediction_length is not None:
        check_prediction_length(folder, prediction_length)
        config = dataclasses.replace(config, prediction_length=prediction_length)
    model = module_with_weights(
        lambda: DYNAMICS[dynamics](config, _encoder_of(config)),
        read_tensors(Path(folder) / WEIGHTS_FILE, fix=FIX, parts=DYNAMICS[dynamics].parts),
        source=_misfit(folder),
        fix=FIX,
    )
    model.use_precision(PRECISIONS[precision])
    return model.to(device).eval().requires_grad_(False)


def load_world(
    name_or_path: str | Path = "lift",
    *,
    dynamics: str | None = None,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    prediction_length: int | None = None,
) -> World:
    """Load a world; see :func:`world_models.world_names.world_folder` and :func:`load_model`.

    Raises:
        OSError: there is no such world, or one of its files is missing or cannot be read.
        ValueError: an argument is out of its range, a file is damaged, or the files do not fit together.
    """
    folder = world_folder(name_or_path)
    model = load_model(folder, dynamics, device, precision, prediction_length)  # first, to name another format
    demonstrations = Demonstrations.load(folder)
    found = (*demonstrations.features.shape[2:], demonstrations.actions.shape[2])
    wanted = (model.num_tokens, model.channels, model.action_dim)
    if found != wanted:
        raise ValueError(
            f"{folder / DEMONSTRATIONS_FILE} does not fit {CONFIG_FILE}: tokens, channels and dimensions of an action "
            f"are {found} instead of {wanted}; {FIX}"
        )
    return World(model, demonstrations.to(device), folder)


def load_encoder(name_or_path: str | Path = "lift", device: torch.device | str = "cpu") -> StateEncoder:
    """The frozen state encoder of a world; see :meth:`world_models.encoders.state.StateEncoder.forward`.

    Raises:
        OSError, ValueError: as of :func:`load_world`.
    """
    folder = world_folder(name_or_path)
    config = read_config(folder)
    tensors = read_tensors(folder / WEIGHTS_FILE, fix=FIX, parts={"encoder"})
    encoder = module_with_weights(
        lambda: _encoder_of(config),
        {name.removeprefix("encoder."): tensor for name, tensor in tensors.items()},
        source=_misfit(folder),
        fix=FIX,
    )
    return encoder.to(device)


def _encoder_of(config: WorldConfig) -> StateEncoder:
    """The structure of a world's encoder."""
    return StateEncoder.from_config(config.encoder, config.proprioception, config.views)


def _default_of(config: WorldConfig, folder: Path) -> DynamicsName:
    if not config.dynamics:
        raise ValueError(f"{folder} has no dynamics, but an encoder alone; {_to_its_end(folder)}")
    return config.default_dynamics or cast(DynamicsName, next(iter(config.dynamics)))


def _to_its_end(folder: Path) -> str:
    """What is left to do about a world that lacks something: one that still trains is not broken."""
    if (folder / "stages").is_dir() and not (folder / "training.json").is_file():
        return "its training is under way, or was interrupted: the same `rla-gym train` command goes on with it"
    return "train the world to its end"


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")


def _misfit(folder: Path) -> str:
    return f"{Path(folder) / WEIGHTS_FILE} does not fit {CONFIG_FILE}"


def _stored(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
