"""What rebuilds a world's networks: its config, as JSON keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from world_models.encoders.features import EncoderConfig
from world_models.heads.rgb_decoder import RGBDecoderConfig

FORMAT = 6
DynamicsName = Literal["residual_flow", "regression", "rla_wm"]
"""What a world's dynamics are called; :data:`world_models.io.DYNAMICS` has their classes."""
DEFAULT_DYNAMICS: DynamicsName = "residual_flow"


@dataclass(frozen=True)
class WorldConfig:
    """Everything that rebuilds a world's modules.

    Attributes:
        task: name of the task the videos show.
        instruction: the task in words.
        action_names: meaning of each of the A action dimensions, each in [-1, 1].
        chunk_length: most actions K in a chunk.
        prediction_length: actions after which a prediction is made; a longer chunk takes several, each from the state
            before it. None for one prediction a chunk.
        fps: frames, and actions, per second.
        frame_size: side of the videos' square frames in pixels, and of decoded ones.
        proprioception: number P of proprioceptive values in a frame; 0 for a world from video alone.
        encoder, rgb_decoder: configs of these parts.
        dynamics: config of each of the world's dynamics, by name; empty for an encoder alone.
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
    dynamics: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(
        cls, content: dict[str, Any], dynamics: Mapping[str, type], source: str = "config.json"
    ) -> WorldConfig:
        """Read what :meth:`to_dict` wrote.

        Args:
            content: of the JSON file.
            dynamics: config class of each known dynamics, by name.
            source: the file, for messages.

        Raises:
            ValueError: it is of another format, or has dynamics that this version does not know.
        """
        content = dict(content)
        version = content.pop("format", None)
        if version == 5:
            raise ValueError(
                f"{source} is a world of format 5 (rla-gym 0.1); convert its folder by `rla-gym convert FOLDER --out "
                "NEW_FOLDER`"
            )
        if version != FORMAT:
            raise ValueError(
                f"{source} is a world of format {version}, this rla-gym reads format {FORMAT}; train it anew, or "
                "install the rla-gym that it was trained with"
            )
        unknown = [name for name in content["dynamics"] if name not in dynamics]
        if unknown:
            raise ValueError(
                f"{source} has dynamics {unknown[0]!r}, this rla-gym knows {', '.join(dynamics)}; install the rla-gym "
                "that it was trained with"
            )
        content["encoder"] = EncoderConfig(**content["encoder"])
        content["rgb_decoder"] = RGBDecoderConfig(**content["rgb_decoder"])
        content["dynamics"] = {name: _sizes(dynamics[name], sizes) for name, sizes in content["dynamics"].items()}
        content["action_names"] = tuple(content["action_names"])
        return cls(**content)


def _sizes(kind: type, content: dict[str, Any]) -> Any:
    """A config dataclass of sizes from JSON, those inside it included."""
    inner = {field.name: field.default_factory for field in dataclasses.fields(kind)}
    return kind(
        **{
            name: type(inner[name]())(**value) if isinstance(value, dict) else value  # type: ignore[operator]
            for name, value in content.items()
        }
    )
