"""Problems as they are found, those of many episodes gathered into one each."""

from __future__ import annotations

from collections.abc import Sequence

from rla_gym.data.source import Problem

_MOST_NAMED = 14
"""Runs of episodes that a problem names."""


class ProblemList:
    """Gathers problems; the same problem of many episodes or files becomes one."""

    def __init__(self) -> None:
        self._single: list[Problem] = []
        self._gathered: dict[tuple[str, str, bool], list[tuple[int, str]]] = {}

    def add(self, what: str, fix: str, *, stops: bool = True) -> None:
        """Add a problem of the source as a whole; one that is there already is not added again."""
        problem = Problem(what, fix, stops)
        if problem not in self._single:
            self._single.append(problem)

    def add_episode(self, episode: int, what: str, fix: str, *, first: str = "", stops: bool = True) -> None:
        """Add a problem of one episode.

        Args:
            episode: its index.
            what: what is wrong, in the same words for every episode that has this problem.
            fix: the same.
            first: details, such as file, frame and value; those of the first episode are reported.
            stops: as in :class:`Problem`.
        """
        self._gathered.setdefault((what, fix, stops), []).append((episode, first))

    def problems(self) -> list[Problem]:
        """All of them, those that stop a training first."""
        found = []
        for (what, fix, stops), entries in self._gathered.items():
            indices = sorted({episode for episode, _ in entries})
            first = min(entries)[1]
            places = f"episode {indices[0]}" if len(indices) == 1 else f"{len(indices)} episodes: {runs(indices)}"
            found.append(Problem(f"{what} in {places}" + (f" (first: {first})" if first else ""), fix, stops))
        return sorted([*found, *self._single], key=lambda problem: not problem.stops)


def runs(indices: Sequence[int]) -> str:
    """Ascending whole numbers in words, neighbours as runs: ``"1, 2, 5-9"``; "..." stands for the rest."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    words = [
        ", ".join(map(str, range(begin, end + 1))) if end - begin < 2 else f"{begin}-{end}" for begin, end in parts
    ]
    return ", ".join(words[:_MOST_NAMED]) + (", ..." if len(words) > _MOST_NAMED else "")
