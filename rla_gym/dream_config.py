"""The settings of the dream, in one dataclass that both environments and :class:`rla_gym.dream.Dream` share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rewards.video_aligned import check_reward_name
from rla_gym.arguments import bonus, flag, integer, integer_or_none, number, one_of, text
from rla_gym.initial_states import INITIAL_STATES

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DreamConfig:
    """How the world is loaded, and how its imagined episodes begin, are rewarded and end.

    The environments take each field as a keyword argument of its own:

        >>> RLAWMVectorEnv(64, reward="goal", max_chunks=10)  # doctest: +SKIP
        >>> gym.make("RLAWM-Lift-v0", reward="goal")  # doctest: +SKIP

    Raises:
        ValueError: a value is out of its range. What depends on the world or on the machine (dynamics, precision,
            device, lengths of chunks and predictions) is checked when the world is loaded.
    """

    dynamics: str | None = None
    """Which of the world's dynamics predicts; None for the world's default. There are "score_sampler" (samples what may
    come, by a proper score), "regression" (one answer, cheap), "residual_flow" (a regression and a flow on what it
    leaves; nearly deterministic with one solver step) and "rla_wm" (the paper's model; in no bundled world)."""
    device: str | torch.device = "cpu"
    """Where the world predicts: a torch device."""
    precision: str = "float32"
    """Of the networks' arithmetic: "float32", or "bfloat16", which is faster where the processor has it."""
    reward: str = "corresponding"
    """Of every step, beside the bonus: "corresponding" (to the demonstration's frame at the same time), "goal",
    "progress", "success_probability" or "sparse". Each is a class in :mod:`rewards.video_aligned`."""
    success_bonus: float = 1.0
    """What a success adds to a step's reward."""
    terminate_on_success: bool = True
    """Whether a success ends the episode."""
    initial_states: str = "mixed"
    """Where episodes begin: "mixed", "first" or "everywhere", see :class:`rla_gym.initial_states.InitialStates`."""
    chunk_length: int | None = None
    """Control steps K in an env step, from 1 to the longest chunk that the world was trained on; None for that."""
    prediction_length: int | None = None
    """Control steps after which the world predicts a state; a longer chunk takes several predictions, each from the one
    before. None for the world's own."""
    max_chunks: int | None = None
    """Env steps after which an episode is truncated; None for the task's own."""
    solver_steps: int | None = None
    """Steps of the flow's ODE solver in a prediction; None for the world's own."""
    draws: int = 1
    """Next states that are drawn for the info's ``success_probability``, its mean over them; the episode goes on from
    the first, and every further one costs another prediction. Dynamics without chance draw one."""
    max_uncertainty: float | None = None
    """A step whose uncertainty is higher truncates the episode: the prediction is too unsure to go on from. None for no
    limit."""

    def __post_init__(self) -> None:
        text(precision=self.precision)
        if self.dynamics is not None:
            text(dynamics=self.dynamics)
        check_reward_name(self.reward)
        one_of(INITIAL_STATES, initial_states=self.initial_states)
        checked: dict[str, Any] = {
            "success_bonus": bonus(self.success_bonus),
            "terminate_on_success": flag("terminate_on_success", self.terminate_on_success),
        }
        if self.max_uncertainty is not None:
            checked["max_uncertainty"] = number("max_uncertainty", self.max_uncertainty, 0, math.inf)
        checked["draws"] = integer("draws", self.draws)
        for name in ("chunk_length", "prediction_length", "max_chunks", "solver_steps"):
            checked[name] = integer_or_none(name, getattr(self, name))
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # NumPy's numbers as Python's

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], environment: type) -> DreamConfig:
        """The config of what an environment's constructor collects as ``**settings``.

        Raises:
            TypeError: an argument is neither a field here nor the environment's own; the message lists all of these.
            ValueError: a value is out of its range.
        """
        settings = [field.name for field in fields(cls)]
        unknown = [name for name in arguments if name not in settings]
        if unknown:
            parameters = inspect.signature(environment).parameters.values()
            named = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
            raise TypeError(
                f"{environment.__name__} has no argument {unknown[0]!r}: it takes {', '.join(named)}, and the settings "
                f"{', '.join(settings)}"
            )
        return cls(**arguments)
