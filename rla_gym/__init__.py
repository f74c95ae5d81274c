"""A learned simulator for robot manipulation, behind Gymnasium's interface.

``import rla_gym`` registers the environment ids and imports nothing heavy: torch comes with the first environment,
robosuite and Stable-Baselines3 only where they are used.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rla_gym.registration import register_environments
from rla_gym.tasks import TASKS, TaskSpec, get_task

if TYPE_CHECKING:
    from rewards import SuccessDetector, make_reward
    from rla_gym.clients.sb3 import DreamVecEnv
    from rla_gym.dream_state import DreamState
    from rla_gym.env import RLAWMEnv
    from rla_gym.vector_env import RLAWMVectorEnv
    from world_models.io import load_encoder, load_world

_LAZY = {
    "DreamState": "rla_gym.dream_state",
    "DreamVecEnv": "rla_gym.clients.sb3",
    "RLAWMEnv": "rla_gym.env",
    "RLAWMVectorEnv": "rla_gym.vector_env",
    "SuccessDetector": "rewards",
    "load_encoder": "world_models.io",
    "load_world": "world_models.io",
    "make_reward": "rewards",
}

__all__ = [
    "TASKS",
    "DreamState",
    "DreamVecEnv",
    "RLAWMEnv",
    "RLAWMVectorEnv",
    "SuccessDetector",
    "TaskSpec",
    "get_task",
    "load_encoder",
    "load_world",
    "make_reward",
]


def check_not_shadowed(*packages: str) -> None:
    """Checks that Python imports rla-gym's sibling packages, and not a user's folder of the same common name.

    Raises:
        ImportError: Python finds another package of one of these names first.
    """
    home = Path(__file__).resolve().parent.parent
    for package in packages:
        try:
            spec = importlib.util.find_spec(package)
        except ValueError:  # somebody put a module without a spec into sys.modules
            continue
        if spec is None or not (home / package / "__init__.py").is_file():
            continue
        location = Path(spec.origin) if spec.origin else Path(next(iter(spec.submodule_search_locations or ["?"])))
        if location.resolve() not in (home / package / "__init__.py", home / package):
            raise ImportError(
                f"rla-gym needs its own package {package!r} in {home}, but Python finds {location} first: rename that "
                "file or folder, or start Python from another directory",
                name=package,
                path=str(location),
            )


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


check_not_shadowed("world_models", "rewards")  # the others are the command line's, which checks them itself
register_environments()
