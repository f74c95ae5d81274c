"""How a training reads somebody's data: what the user says, and for the rest what the data call for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from world_models.data.action_scale import ScaleName, fit_action_scale
from world_models.data.episodes import STATE, EpisodeDataset
from world_models.data.motion import moving_dimensions
from world_models.data.reading import DataReading, FitName, SuccessName

CHUNKS = (2, 60)
"""Fewest and most action chunks in an imagined episode of data whose task is not known."""


@dataclass(frozen=True, kw_only=True)
class AskedReading:
    """What a user asks for; None leaves it to the data.

    Attributes:
        action_column: name of the column of actions; None for ``action`` or ``actions``.
        state_column: name of the column of proprioception; None for ``observation.state``, ``state`` and the like.
        skip_missing: leave out episodes whose data file or video is missing.
        fit: how frames become squares: ``letterbox`` (the whole picture between black bars), ``crop`` (its middle) or
            ``stretch``; None for letterbox where they are not squares.
        frame_size: side of these squares in pixels; None for what the encoder sees.
        action_scale: how actions come into [-1, 1]: ``minmax``, ``quantile`` (for outliers, which are clipped) or
            ``none``; None for minmax where there are actions outside. Dimensions that hardly move are left out.
        success: ``labels`` of episodes, or ``goal_frames``: every episode is a demonstration, and its last frame the
            goal; None for labels where there are any.
        instruction: the task in words whose episodes are read, of a dataset with several; None for all.
        proprioception: put proprioception into the state, where the dataset has it.
    """

    action_column: str | None = None
    state_column: str | None = None
    skip_missing: bool = False
    fit: FitName | None = None
    frame_size: int | None = None
    action_scale: ScaleName | None = None
    success: SuccessName | None = None
    instruction: str | None = None
    proprioception: bool = True


def choose_reading(
    root: Path,
    camera: Sequence[str],
    usual_camera: Sequence[str],
    asked: AskedReading,
    before: DataReading | None,
    encoder_size: int,
) -> tuple[EpisodeDataset, list[str]]:
    """A dataset as a training reads it, and in words what was chosen for the user.

    Args:
        root: the dataset's folder.
        camera, usual_camera: of :class:`world_models.data.episodes.EpisodeDataset`.
        asked: what the user says.
        before: how the data of the world were read that the training goes on from; its scale and its frames stay.
        encoder_size: side of the frames that the encoder sees, in pixels.

    Raises:
        FileNotFoundError, ValueError: the data are not as they must be, see :class:`EpisodeDataset`.
    """
    reading = DataReading(asked.action_column, asked.state_column)
    if before is not None:
        columns = asked.action_column or before.action_column, asked.state_column or before.state_column
        reading = replace(before, action_column=columns[0], state_column=columns[1], success="labels")
    reading = replace(reading, skip_missing=asked.skip_missing, instruction=asked.instruction)
    dataset = EpisodeDataset(root, camera=camera, usual_camera=usual_camera, reading=reading)
    notes: list[str] = []
    if before is None:
        dataset.check((STATE,) if asked.proprioception and STATE in dataset.columns else ())
        changed, notes = _of_numbers(dataset, asked)
        height, width = dataset.view_sizes[0]
        if asked.fit is not None or set(dataset.view_sizes) != {(height, height)}:
            fit = asked.fit or "letterbox"
            size = asked.frame_size or encoder_size
            changed = replace(changed, fit=fit, frame_size=size)
            if asked.fit is None:
                notes.append(
                    f"frames of {width} x {height} pixels become {size} x {size} between black bars; --fit crop and "
                    "--fit stretch are other ways"
                )
        reading = changed
    if len(dataset.instructions) > 1 and asked.instruction is None:
        words = ", ".join(map(repr, dataset.instructions[:5]))
        notes.append(f"{len(dataset.instructions)} tasks are learned as one ({words}); --instruction chooses one")
    success = asked.success or ("labels" if dataset.labelled or not len(dataset.action_names) else "goal_frames")
    if success == "goal_frames" and asked.success is None:
        notes.append(
            "no episode has a label of success, so every one is taken for a demonstration whose last frame is the goal "
            "(--success goal_frames says the same)"
        )
    reading = replace(reading, success=success)
    return (dataset if reading == dataset.reading else dataset.with_reading(reading)), notes


def chunks_of(dataset: EpisodeDataset, chunk_length: int) -> int:
    """Action chunks in the median episode, within :data:`CHUNKS`."""
    least, most = CHUNKS
    return max(least, min(most, (int(np.median(dataset.lengths)) - 1) // chunk_length))


def _of_numbers(dataset: EpisodeDataset, asked: AskedReading) -> tuple[DataReading, list[str]]:
    """The scale of the actions, and the proprioceptive values that are worth reading."""
    reading, notes = dataset.reading, []
    episodes = dataset.split("train")
    wanted = (STATE,) if asked.proprioception and STATE in dataset.columns else ()
    read = [dataset.episode(int(index), wanted) for index in episodes]
    if dataset.action_names and read:
        actions = [episode.actions for episode in read]
        outside = max(float(np.abs(of_episode).max()) for of_episode in actions) > 1
        method: ScaleName = asked.action_scale or ("minmax" if outside else "none")
        scale = fit_action_scale(actions, method)
        reading = replace(reading, action_scale=scale)
        if scale is not None:
            left_out = [name for index, name in enumerate(dataset.action_names) if index not in scale.dimensions]
            notes.append(_of_scale(len(scale.dimensions), left_out, method, asked.action_scale is None))
    if wanted and read:
        state = [episode.columns[STATE].reshape(len(episode), -1) for episode in read]
        count, dimensions = state[0].shape[1], moving_dimensions(state)
        if len(dimensions) < count:
            reading = replace(reading, state_dimensions=dimensions)
            notes.append(f"{count - len(dimensions)} of {count} proprioceptive values hardly move")
            notes[-1] += " and are left out"
    return reading, notes


def _of_scale(kept: int, left_out: Sequence[str], method: ScaleName, chosen: bool) -> str:
    note = f"{kept} action dimensions are scaled to [-1, 1] by {method}"
    if chosen:
        note += " (--action-scale quantile is for actions with outliers)"
    if left_out:
        shown = ", ".join(left_out[:4]) + (", ..." if len(left_out) > 4 else "")
        note += f"; {len(left_out)} that hardly move are left out and rest at their median: {shown}"
    return note
