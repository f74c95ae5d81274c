"""What rebuilds a world's networks: its config, as JSON keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from world_models.data.reading import DataReading, names_of
from world_models.dataclass_reader import check_ranges, read_dataclass
from world_models.encoders.features import EncoderConfig
from world_models.heads.rgb_decoder import RGBDecoderConfig

FORMAT = 6
DynamicsName = Literal["residual_flow", "regression", "score_sampler", "rla_wm"]
"""What a world's dynamics are called; :data:`world_models.io.DYNAMICS` has their classes."""
OPTIONAL = frozenset({"prediction_length", "camera", "default_dynamics", "max_chunks", "reading"})
"""Keys that worlds of earlier versions lack."""
FIX = "train the world anew, or fetch it again"
"""What is left to do about a damaged world."""


@dataclass(frozen=True)
class WorldConfig:
    """Everything that rebuilds a world's modules.

    Attributes:
        task: name of the task the videos show.
        instruction: the task in words.
        action_names: meaning of each of the A action dimensions, each in [-1, 1].
        chunk_length: most actions K in a chunk, 1 to 256.
        prediction_length: actions after which a prediction is made; a longer chunk takes several, each from the state
            before it. None for one prediction a chunk.
        fps: frames, and actions, per second, up to 1000; a fraction where the camera's rate is one.
        max_chunks: action chunks in an imagined episode, 1 to 10,000; None for those of a task that is known.
        camera: key of the videos that the world was trained on, or keys of several, whose views lie side by side in a
            frame; None for one that does not say.
        frame_size: side of the square views of a frame in pixels, and of decoded ones, 4 to 2048.
        proprioception: number P of proprioceptive values in a frame, up to 512; 0 for a world from video alone.
        reading: how data of this robot are read: scale of actions, shape of frames, names of columns.
        encoder, rgb_decoder: configs of these parts.
        dynamics: config of each of the world's dynamics, by name; empty for an encoder alone.
        default_dynamics: the one that predicts where none is asked for; None for the first.

    Raises:
        ValueError: a number is out of its range, no action is named, or the default is none of the dynamics.
    """

    task: str
    action_names: tuple[str, ...]
    instruction: str = ""
    chunk_length: int = 8
    prediction_length: int | None = None
    fps: float = 20
    max_chunks: int | None = None
    camera: str | tuple[str, ...] | None = None
    frame_size: int = 128
    proprioception: int = 0
    reading: DataReading = field(default_factory=DataReading)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    rgb_decoder: RGBDecoderConfig = field(default_factory=RGBDecoderConfig)
    dynamics: Mapping[str, Any] = field(default_factory=dict)
    default_dynamics: DynamicsName | None = None

    def __post_init__(self) -> None:
        check_ranges(
            self, chunk_length=(1, 256), prediction_length=(1, self.chunk_length), fps=(1e-3, 1000),
            frame_size=(4, 2048), proprioception=(0, 512), max_chunks=(1, 10_000),
        )  # fmt: skip
        if not 1 <= len(self.action_names) <= 256:
            raise ValueError(f"action_names has {len(self.action_names)} names, and must have 1 to 256")
        if self.default_dynamics is not None and self.default_dynamics not in self.dynamics:
            raise ValueError(
                f"default_dynamics={self.default_dynamics!r} is none of the world's dynamics, "
                f"{', '.join(self.dynamics) or 'an encoder alone'}"
            )

    @property
    def cameras(self) -> tuple[str, ...]:
        """Keys of the videos whose views a frame shows; empty for a world that does not say."""
        return names_of(self.camera)

    @property
    def views(self) -> int:
        """Number V of pictures that lie side by side in a frame."""
        return max(1, len(self.cameras))

    def with_dynamics(self, dynamics: Mapping[str, Any]) -> WorldConfig:
        """The same world with these dynamics; its default stays where it is among them."""
        default = self.default_dynamics if self.default_dynamics in dynamics else None
        return dataclasses.replace(self, dynamics=dynamics, default_dynamics=default)

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
            ValueError: it is of another format, has dynamics that this version does not know, lacks a key or has one
                too many, or a value is of another type or out of its range.
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
                f"{source} is a world of format {str(version)[:40]}, this rla-gym reads format {FORMAT}; train it "
                "anew, or install the rla-gym that it was trained with"
            )
        sizes = content.get("dynamics")
        if not isinstance(sizes, dict):
            raise ValueError(f"{source} names no dynamics; {FIX}")
        unknown = [name for name in sizes if name not in dynamics]
        if unknown:
            raise ValueError(
                f"{source} has dynamics {unknown[0][:80]!r}, this rla-gym knows {', '.join(dynamics)}; install the "
                "rla-gym that it was trained with"
            )
        content["dynamics"] = {
            name: read_dataclass(dynamics[name], of, source=f"{source}: dynamics.{name}", fix=FIX)
            for name, of in sizes.items()
        }
        return read_dataclass(cls, content, source=source, fix=FIX, optional=OPTIONAL)
