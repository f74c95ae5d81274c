"""What every reader of a foreign format offers, so that inspecting and converting need not know the format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Problem:
    """Something that stands between a source and a training.

    Attributes:
        what: what is wrong, with file, episode and value.
        fix: what the user can do about it, in a few words; a flag or a command where there is one.
        stops: whether nothing can be converted or trained before it is fixed; otherwise it is worth knowing.
    """

    what: str
    fix: str
    stops: bool = True


@dataclass(frozen=True)
class SourceEpisode:
    """One episode of T frames as its owner stored it; numbers are in the owner's units.

    Attributes:
        name: what its owner calls it, such as "demo_3" or a file's name.
        frames: camera -> function that reads the pictures in order, each ``(H, W, 3)`` uint8 RGB, T in all.
        actions: ``(T, A)`` float64; None for videos alone.
        state: proprioception ``(T, P)`` float64; None where there is none.
        success: whether the task was done at its end; None where the source does not say.
        task: in words, or "".
        times: ``(T,)`` seconds from the episode's beginning; None for even steps.
    """

    name: str
    frames: Mapping[str, Callable[[], Iterator[np.ndarray]]]
    actions: np.ndarray | None = None
    state: np.ndarray | None = None
    success: bool | None = None
    task: str = ""
    times: np.ndarray | None = None


@dataclass(frozen=True)
class SourceFacts:
    """What a source says of all its episodes.

    Attributes:
        episodes: how many.
        fps: frames, and actions, per second; None where the source does not say.
        cameras: names of its cameras; there may be none.
        action_names: one name per action dimension; empty without actions.
        state_names: one name per proprioceptive value; empty without.
        details: what else a person wants to know, as pairs of words, such as {"robot": "Panda"}.
    """

    episodes: int
    fps: float | None
    cameras: tuple[str, ...]
    action_names: tuple[str, ...] = ()
    state_names: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)


class Source(ABC):
    """Data in one foreign format, opened without decoding pictures, running code or reaching the network.

    Args:
        path: of the file or the folder.
    """

    format: ClassVar[str]
    """The format's name, as people know it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file or folder looks like this format; cheap, and never raises for another format."""

    @abstractmethod
    def facts(self) -> SourceFacts:
        """What the source says of itself.

        Raises:
            ValueError: it is damaged.
        """

    @abstractmethod
    def problems(self) -> list[Problem]:
        """Everything that stands between this source and a training, all at once; no picture is decoded."""

    @abstractmethod
    def episode(self, index: int) -> SourceEpisode:
        """Episode ``index``, 0 to N - 1; pictures are read when its functions are called.

        Raises:
            ValueError: the episode is damaged; the message names file, episode, value and fix.
        """
