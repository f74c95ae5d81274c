"""The formats that are known: one file each, listed here."""

from __future__ import annotations

from pathlib import Path

from rla_gym.data.lerobot_folder import LeRobotFolder
from rla_gym.data.readers.arrays import ArrayEpisodes
from rla_gym.data.readers.simulator_states import SimulatorStates
from rla_gym.data.readers.videos import VideoFolder
from rla_gym.data.source import Source

READERS: tuple[type[Source], ...] = (LeRobotFolder, SimulatorStates, ArrayEpisodes, VideoFolder)
"""In the order in which they are asked whether they recognise a path."""


def open_source(path: Path) -> Source:
    """The source of the first reader that recognises a path.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: no reader knows the format; the message lists those that there are.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    for reader in READERS:
        if reader.recognises(path):
            return reader(path)
    raise ValueError(f"{path} is of no format that is known: {', '.join(reader.format for reader in READERS)}")
