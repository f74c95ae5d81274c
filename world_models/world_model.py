"""The assembled world model: encode, predict, decode, save, load."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from world_models.checkpoint import save_json, save_tensors
from world_models.data.demonstrations import Demonstrations
from world_models.features import EncoderConfig
from world_models.flow import FlowConfig, LatentFlow
from world_models.mixer import Mixer
from world_models.regression import FeatureRegression, RegressionConfig
from world_models.rgb_decoder import RGBDecoder, RGBDecoderConfig
from world_models.rla import RLA, RLAConfig
from world_models.state import StateEncoder

FORMAT = 5
BUNDLED_WORLDS = Path(__file__).parent / "worlds"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What the mixers, where nearly all of a prediction's arithmetic is, may be computed in."""

CPU_ROWS = 128
"""States that a CPU predicts from at once. With 1,024, activations are so large that each is memory fresh from the
kernel, and a prediction costs half as much again."""


@dataclass(frozen=True)
class WorldConfig:
    """Everything that rebuilds a world's modules.

    Attributes:
        task: name of the task the videos show.
        instruction: the task in words.
        action_names: meaning of each of the A action dimensions, each in [-1, 1].
        chunk_length: most actions K in a chunk.
        prediction_length: actions after which a prediction is made; a longer chunk takes several, each from the state
            before it. None for one a chunk.
        fps: frames, and actions, per second.
        frame_size: side of the videos' square frames in pixels, and of decoded ones.
        proprioception: number of the robot's own readings in a state; 0 for a world from video alone.
        encoder, rgb_decoder, rla, flow, regression: configs of the parts; a part that is None is absent.
    """

    task: str
    action_names: tuple[str, ...]
    instruction: str = ""
    chunk_length: int = 8
    prediction_length: int | None = None
    fps: int = 20
    frame_size: int = 128
    proprioception: int = 0
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    rgb_decoder: RGBDecoderConfig = field(default_factory=RGBDecoderConfig)
    rla: RLAConfig | None = None
    flow: FlowConfig | None = None
    regression: RegressionConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, content: dict[str, Any], source: str = "config.json") -> WorldConfig:
        """Read what :meth:`to_dict` wrote; raises ValueError for another format."""
        content = dict(content)
        found = content.pop("format", None)
        if found != FORMAT:
            raise ValueError(
                f"{source} is a world of format {found}, this rla-gym reads format {FORMAT}; train it anew, or install "
                "the rla-gym that it was trained with"
            )
        parts = {
            "encoder": EncoderConfig,
            "rgb_decoder": RGBDecoderConfig,
            "rla": RLAConfig,
            "flow": FlowConfig,
            "regression": RegressionConfig,
        }
        for name, kind in parts.items():
            if content.get(name) is not None:
                content[name] = kind(**content[name])
        content["action_names"] = tuple(content["action_names"])
        return cls(**content)


class Prediction(NamedTuple):
    """What a world model says of the state after a chunk.

    Attributes:
        features: states ``(B, L, C)``, float32.
        error: mean absolute error ``(B, L)`` that the model expects of each token, float32; the next prediction takes
            it, so that doubts add up along a roll-out.
        uncertainty: mean absolute error ``(B,)`` of a number of the state, from that and calibrated on held-out
            episodes, float32.
    """

    features: Tensor
    error: Tensor
    uncertainty: Tensor


class WorldModel(nn.Module):
    """What every world model shares; subclasses say how a chunk of actions moves the state.

    Attributes:
        num_tokens: tokens L of a state.
        channels: channels C of a token.
        readings: values R that a state takes beside the frame: proprioceptive readings and their change.
        action_dim: dimensions A of an action.
        chunk_length: most actions K in a chunk.
        prediction_length: actions after which a prediction is made; those of a longer chunk follow one another.
        image_size: side of decoded frames in pixels.
    """

    prediction_noise: tuple[int, int] | None = None
    """Shape (n, d) of the noise of a prediction; None for a deterministic model."""

    def __init__(self, config: WorldConfig, encoder: StateEncoder, rgb_decoder: RGBDecoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.num_tokens, self.channels, self.readings = encoder.num_tokens, encoder.channels, encoder.readings
        self.image_size = config.frame_size
        self.action_dim, self.chunk_length = len(config.action_names), config.chunk_length
        self.prediction_length = config.prediction_length or config.chunk_length
        self.rgb_decoder = rgb_decoder or RGBDecoder(
            config.rgb_decoder, encoder.patch_tokens, self.channels, self.image_size
        )

    def encode(self, rgb: Tensor, readings: Tensor | None = None) -> Tensor:
        """Frames and proprioception to states; see :meth:`world_models.state.StateEncoder.forward`."""
        return self.encoder(rgb, readings)

    @property
    def noise_shape(self) -> tuple[int, int] | None:
        """Shape (P n, d) of the noise that a chunk takes, n for each of its P predictions; None if deterministic."""
        if self.prediction_noise is None:
            return None
        tokens, channels = self.prediction_noise
        return -(-self.chunk_length // self.prediction_length) * tokens, channels

    def predict(
        self,
        features: Tensor,
        actions: Tensor,
        noise: Tensor | None = None,
        solver_steps: int | None = None,
        error: Tensor | None = None,
    ) -> Prediction:
        """The state after a chunk of actions.

        Args:
            features: states ``(B, L, C)``, float32.
            actions: chunks ``(B, k, A)`` in [-1, 1], 1 <= k <= K.
            noise: standard normal ``(B, *noise_shape)``; None for a deterministic model.
            solver_steps: Euler steps of a flow; None for the world's own number.
            error: :attr:`Prediction.error` of ``features``, where these were predicted; None for real states.

        Raises:
            ValueError: actions of another shape, or no noise where it is needed.
        """
        self.check_actions(actions)
        if features.device.type == "cpu" and len(features) > CPU_ROWS:
            return self._predict_by_rows(features, actions, noise, solver_steps, error)
        parts = actions.split(self.prediction_length, dim=1)
        noises: Sequence[Tensor | None] = [None] * len(parts)
        if self.prediction_noise is not None:
            if noise is None:
                raise ValueError(
                    f"a flow world model needs noise of shape (B, {', '.join(map(str, self.noise_shape or ()))}); draw "
                    "it from a seeded generator"
                )
            noises = noise.split(self.prediction_noise[0], dim=1)
        for part, own in zip(parts, noises, strict=False):  # short chunks leave noise over
            prediction = self._predict_once(features, part, own, solver_steps, error)
            features, error = prediction.features, prediction.error
        return prediction

    def _predict_by_rows(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        """What :meth:`predict` says, from :data:`CPU_ROWS` states after another."""
        found = []
        for first in range(0, len(features), CPU_ROWS):
            rows = slice(first, first + CPU_ROWS)
            drawn, held = (None if part is None else part[rows] for part in (noise, error))
            found.append(self.predict(features[rows], actions[rows], drawn, solver_steps, held))
        return Prediction(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _predict_once(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        """The state after at most ``prediction_length`` actions; arguments as of :meth:`predict`."""
        raise NotImplementedError

    @property
    def foreteller(self) -> FeatureRegression:
        """The part that foretells states and the errors of that."""
        raise NotImplementedError

    def decode(self, features: Tensor) -> Tensor:
        """Features ``(B, L, C)`` to uint8 frames ``(B, H, W, 3)``."""
        return self.rgb_decoder.to_rgb(features[:, : self.encoder.patch_tokens])

    def sense(self, features: Tensor) -> Tensor:
        """What the robot senses in states ``(B, L, C)``: readings and their change ``(B, R)``, in its own units."""
        return self.encoder.sense(features)

    def check_actions(self, actions: Tensor) -> None:
        """Raise ValueError unless ``actions`` is ``(B, k, A)`` with 1 <= k <= K."""
        if actions.ndim != 3 or actions.shape[2] != self.action_dim or not 1 <= actions.shape[1] <= self.chunk_length:
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}; this world takes (B, k, {self.action_dim}) "
                f"with k from 1 to {self.chunk_length}"
            )

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Write or update a world folder; weights of parts that this model lacks stay as they are.

        Args:
            folder: the world's folder.
            dtype: floating-point type of the weights on disk; float16 halves the file.

        Raises:
            ValueError: the model was loaded in reduced precision, so that its own weights are gone.
        """
        if any(parameter.dtype == torch.bfloat16 for parameter in self.parameters()):
            raise ValueError("this model was loaded with precision='bfloat16': save one that was loaded in float32")
        folder = Path(folder)
        tensors = _stored(self.state_dict(), dtype)
        config, weights = self.config, folder / "model.safetensors"
        if weights.is_file():
            held = read_config(folder)
            own = {name.split(".")[0] for name in tensors}
            with safe_open(weights, "pt") as file:
                kept = {name: file.get_tensor(name) for name in file.keys() if name.split(".")[0] not in own}
            others = {name: getattr(held, name) for name in ("rla", "flow", "regression") if name not in own}
            config, tensors = dataclasses.replace(config, **others), kept | tensors
        save_tensors(weights, tensors)
        save_json(folder / "config.json", config.to_dict())


def save_encoder(folder: Path | str, config: WorldConfig, encoder: StateEncoder) -> None:
    """Begin a world folder with its encoder alone, in float16; a folder that has this encoder is left as it is.

    Raises:
        ValueError: the folder holds a world with another encoder.
    """
    folder = Path(folder)
    if (folder / "model.safetensors").is_file():
        if load_encoder(folder).fingerprint() != encoder.fingerprint():
            raise ValueError(f"{folder} holds a world with another encoder; choose another --out")
        return
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    save_tensors(folder / "model.safetensors", _stored(tensors, torch.float16))
    save_json(folder / "config.json", config.to_dict())


def _stored(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


class RLAWorldModel(WorldModel):
    """RLA-WM: a flow generates the latent action, the autoencoder's decoder applies it (arXiv 2605.07079)."""

    def __init__(self, config: WorldConfig, encoder: StateEncoder, rgb_decoder: RGBDecoder | None = None) -> None:
        super().__init__(config, encoder, rgb_decoder)
        if config.rla is None or config.flow is None:
            raise ValueError("an RLA world model needs the configs rla and flow; train those stages first")
        self.rla = RLA(config.rla, self.num_tokens, self.channels)
        self.flow = LatentFlow(
            config.flow,
            self.num_tokens,
            self.channels,
            config.rla.latents,
            config.rla.latent_dim,
            self.action_dim,
            self.readings,
        )
        self.prediction_noise = (config.rla.latents, config.rla.latent_dim)

    @property
    def foreteller(self) -> FeatureRegression:
        return self.flow.stage1

    def _predict_once(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        assert noise is not None
        foretold = self.flow.stage1(features, actions, error=error)
        latent = self.flow.sample(self.flow.context(foretold), noise, solver_steps)
        # Without the decoder's detail: it was learned on whole motions from real states, not on what is left of one.
        reached = features + foretold.residual.float() + self.rla.residual(latent).float()
        return Prediction(reached, foretold.error, self.flow.stage1.uncertainty(foretold.error))


class RegressionWorldModel(WorldModel):
    """Deterministic prediction of features in the manner of DINO-WM (arXiv 2411.04983): the baseline."""

    def __init__(self, config: WorldConfig, encoder: StateEncoder, rgb_decoder: RGBDecoder | None = None) -> None:
        super().__init__(config, encoder, rgb_decoder)
        if config.regression is None:
            raise ValueError("a regression world model needs the config regression; train that stage first")
        self.regression = FeatureRegression(
            config.regression, self.num_tokens, self.channels, self.action_dim, self.readings
        )

    @property
    def foreteller(self) -> FeatureRegression:
        return self.regression

    def _predict_once(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        foretold = self.regression(features, actions, error=error)
        reached = features + foretold.residual.float()
        return Prediction(reached, foretold.error, self.regression.uncertainty(foretold.error))


DYNAMICS: dict[str, type[WorldModel]] = {"flow": RLAWorldModel, "regression": RegressionWorldModel}


@dataclass(frozen=True)
class World:
    """A loaded world folder: the model, the demonstrations it was given, and where it lies."""

    model: WorldModel
    demonstrations: Demonstrations
    folder: Path


def world_folder(name_or_path: str | Path) -> Path:
    """Folder of a world: a bundled name, a local folder, or a hub id ``owner/name`` (downloaded by huggingface_hub).

    Raises:
        FileNotFoundError: there is no such world; the message says what there is.
    """
    for candidate in (Path(name_or_path), BUNDLED_WORLDS / str(name_or_path)):
        if (candidate / "config.json").is_file():
            return candidate
    bundled = sorted(path.parent.name for path in BUNDLED_WORLDS.glob("*/config.json"))
    message = (
        f"no world {str(name_or_path)!r}: neither a folder with config.json and model.safetensors, nor a bundled "
        f"world ({', '.join(bundled) or 'none'}), nor a hub id that can be reached; `rla-gym train` makes one"
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
    path = Path(folder) / "config.json"
    return WorldConfig.from_dict(json.loads(path.read_text()), str(path))


def check_prediction_length(folder: Path, prediction_length: int) -> None:
    """Raise ValueError unless the world in a folder can predict so many actions at once."""
    longest = read_config(folder).chunk_length
    if not 1 <= prediction_length <= longest:
        raise ValueError(
            f"prediction_length={prediction_length} must be between 1 and {longest}, the longest chunk that the world "
            f"{folder} was trained on"
        )


def dynamics_in(folder: Path) -> tuple[str, ...]:
    """Names of the dynamics whose weights a world folder holds: none beside an encoder alone."""
    with safe_open(Path(folder) / "model.safetensors", "pt") as file:
        parts = {name.split(".")[0] for name in file.keys()}
    return tuple(name for name in DYNAMICS if name in parts)


def load_tensors(path: Path, prefixes: set[str]) -> dict[str, Tensor]:
    """Float32 tensors of a safetensors file whose first name part is in ``prefixes``."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.split(".")[0] in prefixes}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def load_model(
    folder: Path,
    dynamics: str = "flow",
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
    if prediction_length is not None:
        check_prediction_length(folder, prediction_length)
        config = dataclasses.replace(config, prediction_length=prediction_length)
    model = DYNAMICS[dynamics](config, StateEncoder.from_config(config.encoder, config.proprioception))
    prefixes = {name for name, _ in model.named_children()}
    tensors = load_tensors(Path(folder) / "model.safetensors", prefixes)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{folder} does not hold the {dynamics} dynamics its config describes (missing {missing[:2]}, unexpected "
            f"{unexpected[:2]}); train the world anew"
        )
    for module in model.modules():
        if isinstance(module, Mixer):
            module.to(PRECISIONS[precision])
    return model.to(device).eval().requires_grad_(False)


def load_world(
    name_or_path: str | Path = "lift",
    *,
    dynamics: str = "flow",
    device: torch.device | str = "cpu",
    precision: str = "float32",
    prediction_length: int | None = None,
) -> World:
    """Load a world by bundled name, folder or hub id; see :func:`world_folder` and :func:`load_model`."""
    folder = world_folder(name_or_path)
    demonstrations = Demonstrations.load(folder / "starts.safetensors").to(device)
    return World(load_model(folder, dynamics, device, precision, prediction_length), demonstrations, folder)


def load_encoder(name_or_path: str | Path = "lift", device: torch.device | str = "cpu") -> StateEncoder:
    """The frozen state encoder of a world; see :meth:`world_models.state.StateEncoder.forward`."""
    folder = world_folder(name_or_path)
    config = read_config(folder)
    encoder = StateEncoder.from_config(config.encoder, config.proprioception)
    tensors = load_tensors(folder / "model.safetensors", {"encoder"})
    encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in tensors.items()})
    return encoder.to(device)
