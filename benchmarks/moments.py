"""Moments at which a gripper closes or opens, and replays of an episode that go on with another one's actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.exchanged_actions import partners
from rla_gym.ground_truth.env import RobosuiteEnv
from world_models.data.episodes import EpisodeDataset

NEAR_METRES = 0.06
"""A gripper that opens or closes farther than this from the cube neither takes nor drops it."""
_FRAMES_BEFORE = 2
"""A dream begins this many frames before the gripper's command changes."""
_DRIFT_METRES = 0.001
"""A replay that is farther than this from the recording is another episode."""


@dataclass(frozen=True)
class Moment:
    """One time at which the gripper's command changed near the cube.

    Attributes:
        episode: index in the dataset.
        frame: of the episode, at which the dream begins.
        gripper: ``"closes"`` or ``"opens"``.
    """

    episode: int
    frame: int
    gripper: str


@dataclass(frozen=True)
class Replay:
    """How a replayed episode ended.

    Attributes:
        actions: ``(T, A)`` float32 from the moment on.
        frame: the last picture ``(size, size, 3)`` uint8.
        proprioception: proprioceptive values then and their change ``(R,)`` float32.
        success: whether the task is achieved then.
    """

    actions: np.ndarray
    frame: np.ndarray
    proprioception: np.ndarray
    success: bool


def can_be_replayed(dataset: EpisodeDataset) -> bool:
    """Whether the simulator's state and reset seeds are there, by which `rla-gym collect` lets episodes be replayed."""
    return "simulator.state" in dataset.columns and None not in dataset.seeds


def find_moments(dataset: EpisodeDataset, split: str, span: int) -> list[Moment]:
    """The first time in each episode at which the gripper closes near the cube, and the first at which it opens there.

    Args:
        dataset: the episodes.
        split: which of them; ``all`` for all.
        span: frames that must follow the beginning of the dream.

    Raises:
        ValueError: no such split, columns are missing, or fewer than two moments of a sort are found.
    """
    episodes = dataset.split(split).tolist()
    needed = ("simulator.cube_position", "simulator.eef_position", "simulator.state", "next.success")
    missing = [name for name in needed if name not in dataset.columns]
    if missing or "gripper" not in dataset.action_names or None in dataset.seeds:
        what = f"column {missing[0]}" if missing else "gripper action or no reset seeds"
        raise ValueError(f"{dataset.root} has no {what}: interventions are replayed on data from `rla-gym collect`")
    gripper, moments = dataset.action_names.index("gripper"), []
    for index in episodes:
        episode = dataset.episode(index)
        command = np.sign(episode.actions[:, gripper])
        columns = episode.columns
        apart = np.linalg.norm(columns["simulator.cube_position"] - columns["simulator.eef_position"], axis=1)
        for name, sign in (("closes", 1), ("opens", -1)):
            changed = (command[1:] == sign) & (command[:-1] == -sign) & (apart[1:] < NEAR_METRES)
            begins = np.flatnonzero(changed) + 1 - _FRAMES_BEFORE
            fits = begins[(begins >= 0) & (begins + span < len(episode))]
            moments += [Moment(index, int(begin), name) for begin in fits[:1]]
    kinds = [moment.gripper for moment in moments]
    usable = [moment for moment in moments if kinds.count(moment.gripper) > 1]
    if not usable:
        raise ValueError(
            f"the gripper opens or closes near the cube in {len(moments)} {split} episodes of {dataset.root}, {span} "
            "frames before the end; two are needed: collect more, or longer ones, or lower --chunks"
        )
    return usable


def exchanged(moments: list[Moment], rng: np.random.Generator) -> list[Moment]:
    """For each moment another one of the same sort; every one is taken once."""
    others = list(moments)
    for gripper in dict.fromkeys(moment.gripper for moment in moments):
        members = [k for k, moment in enumerate(moments) if moment.gripper == gripper]
        for k, other in partners(members, rng).items():
            others[k] = moments[other]
    return others


def replay(
    env: RobosuiteEnv, dataset: EpisodeDataset, moment: Moment, other: Moment, chunk_length: int, span: int
) -> Replay | None:
    """Replay an episode to one chunk after a moment, then go on with what was done after another moment.

    Args:
        env: the simulator of the dataset's task.
        dataset: the episodes of both.
        moment: whose episode is replayed.
        other: whose actions follow.
        chunk_length: control steps between the moment and the exchange.
        span: control steps between the moment and the end.

    Returns:
        None where the simulator does not do what was recorded.
    """
    episode = dataset.episode(moment.episode)
    branch = moment.frame + chunk_length
    after = dataset.episode(other.episode).actions[other.frame + chunk_length : other.frame + span]
    if not reset_as_recorded(env, dataset.seeds[moment.episode], episode.columns["simulator.state"][0]):
        return None
    for action in episode.actions[:branch]:
        env.control_step(action)
    state = env.simulator_state()
    for name in ("cube_position", "eef_position"):
        if np.abs(state[name] - episode.columns[f"simulator.{name}"][branch]).max() > _DRIFT_METRES:
            return None
    for action in after:
        env.control_step(action)
    actions = np.concatenate([episode.actions[moment.frame : branch], after])
    return Replay(actions, env.render_frame(), env.proprioception(), env.is_success())


def reset_as_recorded(env: RobosuiteEnv, seed: int | None, first: np.ndarray) -> bool:
    """Reset to the recorded first state ``(D,)``: the dataset has the seed, and one of the task's placements fits."""
    for placement in env.task.placements:
        env.reset(seed=seed, options={"placement": placement})
        if np.allclose(env.simulator_state()["state"], first, atol=1e-4):
            return True
    return False
