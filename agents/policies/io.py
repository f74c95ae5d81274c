"""Policy folders: loaded without running code."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from agents.policies.base import CONFIG_FILE, FORMAT, WEIGHTS_FILE, Policy
from agents.policies.blind import BlindPolicy
from agents.policies.planner import Planner
from agents.policies.token_policy import TokenPolicy

KINDS: dict[str, type[Policy]] = {policy.kind: policy for policy in (TokenPolicy, BlindPolicy, Planner)}
"""Kinds of policies by their names in ``config.json``."""


def load_policy(folder: str | Path, device: str | torch.device = "cpu") -> Policy:
    """Load a policy folder, in evaluation mode. Reads JSON and safetensors only; no code in the folder is run.

    Example:
        >>> policy = load_policy("runs/bc")                                  # doctest: +SKIP
        >>> policy.act(torch.zeros(1, 64, 192), torch.tensor([0])).shape     # doctest: +SKIP
        torch.Size([1, 32])

    Raises:
        FileNotFoundError: the folder lacks ``config.json`` or ``policy.safetensors``.
        ValueError: unknown kind, or the two files do not fit together.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no policy folder: it has no {name}; give the --out of `rla-gym agent bc` or `agent ppo`"
            )
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        if config.pop("format", None) != FORMAT:
            raise ValueError(
                f"{folder} is a policy of another rla-gym; convert one of 0.1 by `rla-gym convert {folder} --out NEW`"
            )
        policy_class = KINDS[config["kind"]]
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / CONFIG_FILE} is no JSON ({error}); train the policy again") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG_FILE} must name a kind among {sorted(KINDS)}, got {error}") from error
    try:
        sizes = {name: int(config.pop(name)) for name in policy_class.SIZES}
        policy = policy_class(**sizes)
        policy.load_state_dict(load_safetensors((folder / WEIGHTS_FILE).read_bytes()))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: {WEIGHTS_FILE} and {CONFIG_FILE} do not fit ({error}); train it again") from error
    policy.facts = {name: value for name, value in config.items() if name != "kind"}
    return policy.to(device).eval()


def load_clone(folder: str | Path, device: str | torch.device = "cpu") -> TokenPolicy:
    """A policy folder that training can start from, as :func:`load_policy` loads it.

    Raises:
        ValueError: it is a policy that cannot learn; else as :func:`load_policy`.
    """
    clone = load_policy(folder, device)
    if not isinstance(clone, TokenPolicy):
        raise ValueError(f"{folder} is a {clone.kind!r} policy, which cannot learn; make one by `rla-gym agent bc`")
    return clone


def world_reference(world: str) -> str:
    """How a policy remembers its world: a bundled name as it is, a folder by its absolute path."""
    return str(Path(world).resolve()) if Path(world).exists() else world
